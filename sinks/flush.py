"""What a lane does with its table: look up how far it is, and write what has been read, with the offsets."""

import logging
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pyarrow as pa

from clickwell.dead_letters import DeadLetters, Source
from clickwell.erasures import ErasureLog
from clickwell.errors import DecodeError, DependencyError, KafkaError, TopicRecreatedError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.metrics import SINK_FRESHNESS, SINK_WRITE_SECONDS, Histogram
from clickwell.schemas.decode import Record
from clickwell.schemas.erased import Erased
from clickwell.settings import Settings
from clickwell.sinks.columns import LogRecord
from clickwell.sinks.commit import MovedError, Pending, TableWriter
from clickwell.sinks.recent import Ids
from clickwell.sinks.table import Table, recreated
from clickwell.tracing import tracing_of

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.2, 10.0


@dataclass
class Stats:
    """What a lane has done since the start.

    Attributes:
        rejected: bad records by reason.
        write_seconds, freshness: of each commit, as the metrics of these names say.
    """

    rows: int = 0
    repeats: int = 0
    suppressed: int = 0
    bad: int = 0
    dead_letters: int = 0
    commits: int = 0
    files: int = 0
    conflicts: int = 0
    rewinds: int = 0
    lost: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    write_seconds: Histogram = field(default_factory=SINK_WRITE_SECONDS.histogram)
    freshness: Histogram = field(default_factory=SINK_FRESHNESS.histogram)


@dataclass
class Buffer:
    """What has been read since the last flush began, and the offsets from which and up to which it goes."""

    expected: dict[int, int] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)
    rows: list[pa.RecordBatch] = field(default_factory=list)
    ids: list[Ids] = field(default_factory=list)
    bad: list[tuple[LogRecord, DecodeError]] = field(default_factory=list)
    count: int = 0
    size: int = 0
    urgent: bool = False
    since: float | None = None
    oldest_ms: int = 1 << 62
    requests: dict[bytes, None] = field(default_factory=dict)


class Flusher:
    """Writes the buffers of one lane; for one thread at a time, beside the one that reads.

    Args:
        name: of the lane, for the log.
        settings: everything.
        table: what to write.
        stats: where to count.
        failpoints: where to die, in tests.
        stopping: set when the lane is to end, so that nobody waits for the storage any longer.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        table: Table,
        stats: Stats,
        failpoints: Failpoints,
        stopping: threading.Event,
    ) -> None:
        self.topic_id = ""
        # The next offset of each partition that the table has.
        self.written: dict[int, int] = {}
        self.stats = stats
        self._name = name
        self._settings = settings
        self._table = table
        self._failpoints = failpoints
        self._stopping = stopping
        self._kafka = KafkaLog(settings.kafka)
        self._dead_letters = DeadLetters(settings.kafka, self._kafka, failpoints)
        self._erasures = ErasureLog(settings, self._kafka)
        self._tracing = tracing_of(settings)
        self._writer: TableWriter | None = None

    @property
    def live_files(self) -> int:
        """How many files the table has, as far as this one knows."""
        return self._writer.live_files if self._writer else 0

    def stand(self, partitions: list[int]) -> tuple[dict[int, int], dict[int, Erased]]:
        """Return for each partition the stored offset, and the erasures in force from there on."""
        placed, topic = self._offsets(partitions), self._table.topic.name
        self.written = dict(placed)

        def of(partition: int) -> Erased:
            # Once retractions are written, the table holds nothing of the subjects, and nobody would look again.
            return self._erasures.erased(
                topic, self.topic_id, partition, placed[partition], lambda batch: batch.past("retracted")
            )

        return placed, {partition: of(partition) for partition in placed}

    def _offsets(self, partitions: list[int]) -> dict[int, int]:
        """Return the stored offset of each partition, after storing the first where there is none."""
        topic = self._table.topic.name
        if self._writer is None:
            self.topic_id, _ = self._kafka.describe(topic)
            self._writer = TableWriter(self._settings, self._table, self.topic_id, self._failpoints)
        self._check_topic()
        self._dead_letters.forget()
        while True:
            stored = self._writer.stored(partitions)
            earliest = {partition: self._kafka.earliest(topic, partition) for partition in partitions}
            if new := {p: earliest[p] for p, offset in stored.items() if offset is None}:
                self._writer.begin(new)
                continue
            found = {partition: offset or 0 for partition, offset in stored.items()}
            lost = {p: (offset, earliest[p]) for p, offset in found.items() if offset < earliest[p]}
            if not lost:
                return found
            self._writer.skip(lost)
            self.stats.lost += sum(end - first for first, end in lost.values())
            log.error("%s: retention removed %s before they were written", self._name, lost)

    def flush(self, buffer: Buffer) -> None:
        """Write one buffer, for as long as it takes the storage to be there and to have room."""
        assert self._writer is not None
        delay = RETRY_FIRST
        while True:
            try:
                self._check_topic()
                # Before the letters: whoever has lost the partition must not write them a second time.
                stored = self._writer.stored(list(buffer.expected))
                if stored != buffer.expected:
                    raise MovedError(f"expected {buffer.expected}, the table has {stored}")
                self._send_dead_letters(buffer)
                moved = {p: offset for p, offset in buffer.next.items() if offset != buffer.expected[p]}
                expected = {partition: buffer.expected[partition] for partition in moved}
                began = time.monotonic()
                with self._traced(buffer):
                    written = self._writer.write(Pending(buffer.rows, buffer.ids, expected, moved))
            except TopicRecreatedError:
                raise
            except DependencyError as error:
                log.warning("%s waits: %s%s", self._name, error.message, f": {error.why}" if error.why else "")
                if self._stopping.wait(delay):
                    raise
                delay = min(2 * delay, RETRY_MOST)
            else:
                break
        stats = self.stats
        stats.rows += written.rows
        stats.repeats += written.repeats
        stats.files += written.files
        stats.conflicts += written.conflicts
        stats.commits += 1
        stats.bad += len(buffer.bad)
        stats.rejected.update(error.reason for _, error in buffer.bad)
        stats.write_seconds.observe(time.monotonic() - began)
        stats.freshness.observe(max(0.0, time.time() - buffer.oldest_ms / 1000))
        self.written.update(moved)
        log.info(
            "%s wrote %d rows into %d files, left out %d repeats, %d bad; %d others were first",
            *(self._name, written.rows, written.files, written.repeats, len(buffer.bad), written.conflicts),
        )

    def _traced(self, buffer: Buffer) -> AbstractContextManager[None]:
        if self._tracing is None:
            return nullcontext()
        return self._tracing.batch(f"write {self._table.name}", buffer.requests, records=buffer.count)

    def _check_topic(self) -> None:
        topic_id, _ = self._kafka.describe(self._table.topic.name)
        if topic_id != self.topic_id:
            raise recreated(self._table, self.topic_id, topic_id)

    def look_for_topic(self) -> None:
        """Do the same now and then while nothing comes; a broker that is away says nothing about it."""
        try:
            self._check_topic()
        except TopicRecreatedError:
            raise
        except KafkaError as error:
            log.warning("%s: %s", self._name, error)

    def _send_dead_letters(self, buffer: Buffer) -> None:
        if self._table.topic.name not in self._settings.sink.dead_letter_topics:
            return
        by_partition: dict[int, list[tuple[Record, DecodeError]]] = {}
        for record, error in buffer.bad:
            by_partition.setdefault(record.partition, []).append((record, error))
        self._failpoints.visit("before_dead_letter")
        for partition, bad in by_partition.items():
            source = Source(self._table.topic.name, self.topic_id, partition)
            self.stats.dead_letters += self._dead_letters.write(source, bad)
        self._failpoints.visit("after_dead_letter")
