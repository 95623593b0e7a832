"""A lake on S3, as moto serves it: sinks are killed, and connections cut in the middle of uploads."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from clickwell.analytics import lake as reading
from clickwell.devstack.process import Child, free_port, is_free
from tests.processes import wait_for

from . import parts
from .cutter import Cutter
from .harness import Stack
from .lake import assert_lake_is_log, publish_searches, wait_written

pytestmark = [pytest.mark.fault, pytest.mark.broker]


class Moto(Child):
    """An S3 of this machine, in a process of its own: the library holds the interpreter while it waits for S3."""

    def __init__(self, folder: Path) -> None:
        super().__init__("moto", folder / "moto.log")
        self.port = free_port()

    def command(self) -> list[str]:
        """Return the command line."""
        code = "import sys; from moto.server import main; main(sys.argv[1:])"
        return [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(self.port)]


def storage_options(port: int) -> dict[str, str]:
    """Return the options for an S3 of this machine."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[Moto]:
    """Return an S3 that has a bucket `lake`."""
    moto = Moto(tmp_path)
    moto.spawn()
    try:
        wait_for(lambda: not is_free(moto.port), 30, "moto")
        # A bucket is made with one request that needs no signature here.
        request = urllib.request.Request(f"http://127.0.0.1:{moto.port}/lake", method="PUT")
        with urllib.request.urlopen(request):
            yield moto
    finally:
        moto.kill()


def test_exactly_once_on_s3(stack: Stack, s3: Moto, tmp_path: Path) -> None:
    """Kills between files and commit and cut uploads leave every event in the bucket once."""
    proxy = Cutter(s3.port, after=20_000)
    proxy.start()
    storage = storage_options(s3.port)
    sink = parts.sink(
        "sink-s3",
        tmp_path,
        stack.kafka.address,
        ["after_files:1", "after_commit:2"],
        LAKE="s3://lake/below",
        SINK__STORAGE_OPTIONS=json.dumps(storage_options(proxy.port)),
        SINK__FLUSH_ROWS="1500",
        SINK__FLUSH_SECONDS="2",
    )
    stack.publish(seed=1, count=2500)
    publish_searches(stack.kafka.address, 200)
    proxy.cuts_left = 2
    try:
        sink.spawn()
        wait_for(lambda: sink.tend() or len(sink.exits) == 2, 90, "two kills")
        stack.publish(seed=2, count=1500)
        proxy.cuts_left += 2
        wait_written("s3://lake/below", stack.kafka.address, [sink], 120, storage=storage)
        assert assert_lake_is_log("s3://lake/below", stack.kafka.address, storage=storage) > 3500
        assert proxy.cuts >= 2
        settings = stack.settings.model_copy(
            update={
                "lake": "s3://lake/below",
                "sink": stack.settings.sink.model_validate({"storage_options": storage}),
            }
        )
        assert all(path.startswith("s3://lake/below/") for path in reading.files(settings, "interactions"))
        rows = reading.dataset(settings, "interactions").count_rows()
        assert reading.relation(settings, "interactions").shape[0] == rows
        assert reading.scan(settings, "interactions").collect().height == rows
    finally:
        sink.kill()
        proxy.close()
