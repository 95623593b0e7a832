"""What runs and what does not, as far as it can be seen from outside."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import BaseModel

from clickwell.devstack.state import Component, StackState, supervisor_pid
from clickwell.errors import LakeError
from clickwell.kafka import librdkafka_config
from clickwell.redis_client import connect
from clickwell.serving.workers import WorkerReport, worker_reports
from clickwell.settings import Settings

_KAFKA_SECONDS = 5.0


class ComponentStatus(Component):
    """A component and whether it answers (servers) or runs (workers)."""

    up: bool


class Status(BaseModel):
    """Everything at a glance.

    Attributes:
        state: `up`; `starting`; `degraded` when a part that should run does not; `down` when neither a stack runs
            here nor the servers of the settings answer.
        data: folder of the stack.
        pid: process of the supervisor.
        components: servers and the workers that the supervisor runs.
        workers: every worker that reported within the last seconds, wherever it runs.
        lag: records that are not applied yet, by lane, over those workers; and as `lake/<table>` those that are not in
            the lake yet.
    """

    state: Literal["up", "starting", "degraded", "down"]
    data: Path
    pid: int | None
    components: list[ComponentStatus]
    workers: list[WorkerReport]
    lag: dict[str, int]


def look(settings: Settings) -> Status:
    """Ask every component that is known from `stack.json`, or else from the settings, whether it is up."""
    pid = supervisor_pid(settings.data)
    stack = StackState.read(settings.data)
    known = stack.components if stack else []
    if not known:
        known = [
            Component(name="kafka", origin="yours", address=settings.kafka.bootstrap_servers),
            Component(name="redis", origin="yours", address=without_password(settings.redis.url)),
        ]
    components = [ComponentStatus(**part.model_dump(), up=_is_up(part, settings, pid)) for part in known]
    workers = worker_reports(settings)
    lag: dict[str, int] = {}
    for worker in workers:
        for lane, records in worker.lag_by_lane().items():
            lag[lane] = lag.get(lane, 0) + records
    return Status(
        state=_state(pid, stack, components),
        data=settings.data,
        pid=pid,
        components=components,
        workers=workers,
        lag=lag | lake_lag(settings),
    )


def lake_lag(settings: Settings) -> dict[str, int]:
    """Return how many records each table of the lake is behind; none where the lake or Kafka does not answer."""
    if find_spec("deltalake") is None:
        return {}
    from clickwell.sinks import standing  # noqa: PLC0415  # of an extra
    from clickwell.sinks.table import TABLES  # noqa: PLC0415

    with suppress(LakeError):
        tables = [standing.look(settings, table) for table in TABLES if standing.exists(settings, table)]
        return {f"lake/{one.table}": one.lag for one in tables if one.lag is not None}
    return {}


def kafka_answers(settings: Settings) -> bool:
    """Tell whether the broker of the settings answers."""
    config: dict[str, Any] = {**librdkafka_config(settings.kafka), "log_level": 0}
    try:
        return bool(AdminClient(config).list_topics(timeout=_KAFKA_SECONDS).brokers)
    except KafkaException:
        return False


def redis_version(settings: Settings) -> str | None:
    """Return the version of the server of the settings, None when it does not answer."""
    try:
        with connect(settings) as client:
            server = cast("dict[str, str]", client.info("server"))
    except redis.RedisError:
        return None
    return str(server.get("valkey_version") or server["redis_version"])


def without_password(url: str) -> str:
    """Return a Redis URL as it may be shown."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _is_up(part: Component, settings: Settings, supervisor: int | None) -> bool:
    if part.name == "kafka":
        return kafka_answers(settings)
    if part.name == "redis":
        return redis_version(settings) is not None
    return supervisor is not None and part.pid is not None


def _state(
    pid: int | None, stack: StackState | None, components: list[ComponentStatus]
) -> Literal["up", "starting", "degraded", "down"]:
    all_up = all(part.up for part in components)
    if pid is None:
        # A file without a supervisor was left by a stack that was killed; without either, the servers are the user's.
        return "up" if stack is None and all_up else "down"
    if stack is None or not stack.ready:
        return "starting"
    return "up" if all_up else "degraded"
