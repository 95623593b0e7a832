"""Real servers for the tests: those named in the environment, else Docker's, else the embedded ones; never none."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.valkey import ValkeyServer
from tests import processes


def _docker_answers() -> bool:
    # Asked by its own client: the Python one leaves a socket open when nobody answers.
    client = shutil.which("docker")
    asked = client and subprocess.run([client, "info"], check=False, capture_output=True, timeout=20)
    return bool(asked) and asked.returncode == 0


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap address of a broker that all tests share; use topic or group names of your own where it matters."""
    if given := os.environ.get("CLICKWELL_TEST_KAFKA"):
        yield given
    elif _docker_answers():
        from testcontainers.community.kafka import KafkaContainer

        with KafkaContainer("confluentinc/cp-kafka:8.0.0").with_kraft() as container:
            yield container.get_bootstrap_server()
    else:
        with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
            yield server.address


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that all tests share; take `fresh_redis` where the content matters."""
    if given := os.environ.get("CLICKWELL_TEST_REDIS"):
        yield given
    elif _docker_answers():
        from testcontainers.community.redis import RedisContainer

        with RedisContainer("valkey/valkey:9") as container:
            yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
    else:
        with ValkeyServer(tmp_path_factory.mktemp("redis")) as server:
            yield server.url


@pytest.fixture
def fresh_redis(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A started, empty Valkey of the test's own, which it may kill, pause and start again."""
    with ValkeyServer(tmp_path / "fresh-redis") as server:
        yield server


@pytest.fixture(scope="module")
def fresh_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], KafkaServer]]:
    """A function that starts a broker of the test's own, which it may kill, pause and start again."""
    with ExitStack() as brokers:
        yield lambda: brokers.enter_context(KafkaServer(tmp_path_factory.mktemp("fresh-kafka")))


@pytest.fixture(scope="session")
def clickwell() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs the command line as a user does; keyword arguments are added to the environment."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return processes.clickwell(*arguments, env=os.environ | environment)

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the research data; without it the test fails on a build server, else is skipped with the reason."""
    folder = Path(os.environ.get("CLICKWELL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        reason = f"{folder} is not there; name the research data in CLICKWELL_SHARED_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
