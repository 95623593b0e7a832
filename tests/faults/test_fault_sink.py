"""Sinks that are killed, frozen, joined and starved of space, each time followed by equality with the log."""

import os
import signal
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from deltalake import DeltaTable

from clickwell.analytics.audit import audit
from clickwell.errors import TopicRecreatedError
from clickwell.failpoints import NAMES
from clickwell.producers.topics import ensure_topics
from tests.processes import clickwell, own_environment, wait_for

from . import parts
from .harness import Stack
from .lake import assert_lake_is_log, publish_searches, wait_written
from .parts import Part

pytestmark = [pytest.mark.fault, pytest.mark.broker]


@pytest.fixture
def sinks(stack: Stack, tmp_path: Path) -> Iterator["Sinks"]:
    """Return a maker of sinks into an empty lake."""
    made = Sinks(stack, tmp_path)
    yield made
    made.kill()


class Sinks:
    """Makes sinks, and checks what they wrote."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder, self.kafka = stack, folder, stack.kafka.address
        self.made: list[Part] = []

    def start(self, *failpoints: str, options: Sequence[str] = (), **settings: str) -> Part:
        """Start one."""
        sink = parts.sink(f"sink-{len(self.made) + 1}", self.folder, self.kafka, failpoints, options, **settings)
        sink.spawn()
        self.made.append(sink)
        return sink

    def settle(self, timeout: float = 60, lake: Path | None = None, *, letters_once: bool = True) -> int:
        """Wait for the log's end and compare."""
        wait_written(lake or self.folder / "lake", self.kafka, self.made, timeout)
        return assert_lake_is_log(lake or self.folder / "lake", self.kafka, letters_once=letters_once)

    def maintain(self, failpoint: str = "") -> int:
        """Compact and vacuum, with an early death if asked for; return the exit code."""
        env = own_environment(CLICKWELL_SINK__FAILPOINT=failpoint, CLICKWELL_SINK__COMPACT_ROWS="100000")
        return clickwell("lake", "compact", "--all", "--vacuum", "--data", self.folder, env=env).returncode

    def live(self, lake: Path | None = None) -> list[Path]:
        """Return the live files of both tables."""
        tables = [DeltaTable(str(lake or self.folder / "lake") + f"/{name}") for name in ("interactions", "searches")]
        return [Path(uri.removeprefix("file://")) for table in tables for uri in table.file_uris()]

    def rows(self) -> int:
        """Return how many interactions are in the lake."""
        uri = str(self.folder / "lake" / "interactions")
        return DeltaTable(uri).count() if DeltaTable.is_deltatable(uri) else 0

    def kill(self) -> None:
        """End all."""
        for sink in self.made:
            sink.kill()


@pytest.mark.parametrize(
    "name", ["before_files", "after_files", "after_commit", "before_dead_letter", "after_dead_letter"]
)
def test_killed_at_a_failpoint(stack: Stack, sinks: Sinks, name: str) -> None:
    """A sink that is killed at the 1st, 2nd and 4th visit of a place leaves every event in the lake once."""
    assert name in NAMES
    visits = [f"{name}:{visit}" for visit in (1, 2, 4)]
    stack.publish(seed=3, count=3000)
    publish_searches(sinks.kafka, 300)
    sink = sinks.start(*visits)
    with stack.load(seed=4, rate=1000, poison=0.02):
        wait_for(lambda: sink.tend() or len(sink.exits) == len(visits), 60, "the kills")
    assert sink.exits == [-9] * len(visits)
    assert sinks.settle() > 3000


def test_a_frozen_sink_wakes_up_beside_its_successor(stack: Stack, sinks: Sinks) -> None:
    """Two sinks share a group; one is frozen past its session, the other takes over, the first one wakes up."""
    with stack.load(seed=5, rate=1500, poison=0.01):
        first, second = sinks.start(), sinks.start()
        for _ in range(2):
            stack.publish(seed=6, count=1000)
            wait_for(
                lambda: "wrote" in first.log.read_text() and "wrote" in second.log.read_text(), 30, "both to write"
            )
            assert first.pid
            os.kill(first.pid, signal.SIGSTOP)
            told = second.said("reads 0 from")
            wait_for(lambda told=told: second.said("reads 0 from") > told, 40, "the take-over")
            os.kill(first.pid, signal.SIGCONT)
    sinks.settle()
    assert first.exits == second.exits == []


def test_sinks_of_other_groups_write_nothing_twice(stack: Stack, sinks: Sinks) -> None:
    """Sinks that know nothing of one another, all reading everything, write every event once together.

    Dead letters are written by whoever owns a partition, and here all do: each letter is there, maybe twice.
    """
    with stack.load(seed=7, rate=1500):
        for number in range(2):
            sinks.start(KAFKA__GROUP=f"group-{number}")
        publish_searches(sinks.kafka, 200)
        wait_for(lambda: all(sink.said("wrote") for sink in sinks.made), 60, "both to write")
    sinks.settle(letters_once=False)


@pytest.mark.parametrize("name", ["before_compaction", "after_compaction", "before_vacuum", "after_vacuum"])
def test_killed_in_maintenance(stack: Stack, sinks: Sinks, name: str) -> None:
    """A compaction or vacuum that dies anywhere, beside a busy sink, leaves the lake as it was and can be run again."""
    sinks.start(SINK__FLUSH_SECONDS="0.1")
    with stack.load(seed=8, rate=800):
        publish_searches(sinks.kafka, 100)
        wait_for(lambda: sinks.rows() > 2000, 60, "some files to compact")
        assert sinks.maintain(f"{name}:1") == -9
        assert sinks.maintain(f"{name}:2") == -9
        assert sinks.maintain() == 0
    before = len(sinks.live())
    sinks.settle()
    assert sinks.maintain() == 0
    assert len(sinks.live()) <= before
    sinks.settle()


def test_a_full_disk_delays_and_loses_nothing(stack: Stack, sinks: Sinks, tmp_path: Path) -> None:
    """While the lake's disk is full nothing half-written is listed; when there is room the sink goes on by itself."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False, capture_output=True)
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mount.stderr.decode().strip()}")
    try:
        (disk / "ballast").write_bytes(b"x" * (5 << 20))
        sink = sinks.start(LAKE=str(disk / "lake"), SINK__FLUSH_ROWS="4000")
        with stack.load(seed=9, rate=1500, poison=0.01):
            wait_for(lambda: sink.said("cannot be used"), 60, "the disk to be full")
            for name in ("interactions", "searches"):
                if DeltaTable.is_deltatable(f"{disk}/lake/{name}"):
                    DeltaTable(f"{disk}/lake/{name}").to_pyarrow_table()
            publish_searches(sinks.kafka, 50)
            (disk / "ballast").unlink()
        sinks.settle(lake=disk / "lake")
        unlisted = {str(p) for p in disk.glob("lake/*/event_date=*/*")} - {str(p) for p in sinks.live(disk / "lake")}
        assert not unlisted
        assert sink.exits == []
    finally:
        sinks.kill()
        subprocess.run(["umount", disk], check=True)


def test_a_topic_that_is_created_anew_is_refused_until_told(stack: Stack, sinks: Sinks) -> None:
    """A sink ends with the error's code when its topic is another one, and goes on from it when told to."""
    stack.publish(seed=10, count=500)
    sink = sinks.start()
    wait_for(lambda: sinks.rows() > 400, 60, "the first topic's events")
    stack.delete_topics()
    ensure_topics(stack.settings)
    stack.publish(seed=11, count=300)
    wait_for(lambda: sink.exit_code is not None, 60, "the sink to end")
    assert sink.exit_code == TopicRecreatedError.exit_code
    assert "created again" in sink.log.read_text()
    before = sinks.rows()
    again = sinks.start(options=["--new-topic"])
    wait_for(lambda: sinks.rows() > before + 200, 60, "the second topic's events")
    assert again.exit_code is None


def test_counts_and_lake_agree_after_kills(stack: Stack, sinks: Sinks) -> None:
    """After workers and sinks were killed the audit finds no difference; it finds a count that was changed."""
    stack.work(failpoints=["after_apply:3", "between_shards:5"])
    sink = sinks.start("after_files:2", "after_commit:3", SINK__DEAD_LETTER_TOPICS='["searches.v1"]')
    with stack.load(seed=12, rate=1200, poison=0.01):
        wait_for(lambda: sink.tend() or len(sink.exits) == 2, 60, "two kills")
    stack.settle()
    sinks.settle()
    settings = stack.settings.model_copy(update={"lake": str(sinks.folder / "lake")})
    found = audit(settings)
    assert found.differences == []
    assert found.cells > 1000
    key = next(stack.client.scan_iter(match="cw1:{s*:c:*", count=1000))
    ring = bytearray(stack.client.get(key))
    counts = struct.unpack_from(f"<{len(ring) // 4 - 1}I", ring, 4)
    place = max(range(len(counts)), key=counts.__getitem__)
    struct.pack_into("<I", ring, 4 + 4 * place, counts[place] + 7)
    stack.client.set(key, bytes(ring), keepttl=True)
    (wrong,) = audit(settings).differences
    assert wrong.redis == wrong.lake + 7
    assert key.decode().endswith(f":c:{wrong.feature_id}")
