"""One topic into its table: read from Kafka, decode, hold for a while, write with the offsets."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka import KafkaError as KafkaCode

from clickwell.errors import ClickwellError, DependencyError, KafkaError, TopicRecreatedError
from clickwell.failpoints import Failpoints
from clickwell.kafka import END_REACHED, librdkafka_config
from clickwell.privacy import missing_key
from clickwell.schemas.controls import Fence
from clickwell.schemas.decode import Batch
from clickwell.schemas.erased import Erased
from clickwell.schemas.marks import UnknownKeyError
from clickwell.sealing import opener_of
from clickwell.settings import Settings
from clickwell.sinks.columns import COLUMNS, LogRecord, records_of
from clickwell.sinks.commit import MovedError
from clickwell.sinks.flush import RETRY_FIRST, RETRY_MOST, Buffer, Flusher, Stats
from clickwell.sinks.table import Table
from clickwell.tracing import MOST_LINKS, requests_of, tracing_of

log = logging.getLogger(__name__)

# Records taken at once: enough that a batch costs little for each of them, few enough that what they become stays in
# the processor's cache, which makes each of them a sixth cheaper than ten thousand would.
CHUNK = 2_000
POLL_SECONDS = 0.2
# A write that takes longer is waited for with the partitions paused: who polls too seldom is put out of the group.
PATIENCE_SECONDS = 5.0
# A topic that is created anew may have fewer records than were read, so that none ever comes to show it.
TOPIC_CHECK_SECONDS = 10.0
# SIGTERM must end within 20 s, whatever the storage does.
LAST_FLUSH_SECONDS = 12.0


class Lane(threading.Thread):
    """Consumes one topic until it is stopped or fails for good.

    Guarantees: every valid record of the topic that the log still holds is in the table once, every bad one is counted
    and, if this lane is told to, dead-lettered; any number of lanes for one table may run anywhere.

    Args:
        settings: everything.
        table: what to write.
        failpoints: where to die, in tests.
        stopping: set to stop all lanes; set by this lane when it fails for good.
    """

    def __init__(self, settings: Settings, table: Table, failpoints: Failpoints, stopping: threading.Event) -> None:
        super().__init__(name=f"sink-{table.name}")
        self.stats = Stats()
        self.error: ClickwellError | None = None
        self._settings = settings
        self._table = table
        self._stopping = stopping
        self._flusher = Flusher(self.name, settings, table, self.stats, failpoints, stopping)
        self._columns = COLUMNS[table.name]()
        self._columns.decoder.open_rows = opener_of(settings)
        # One thread does all that touches the table, so that reading and decoding go on meanwhile.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"{self.name}-table")
        self._flight: Future[None] | None = None
        self._buffer = Buffer()
        # Whose events are left out, by partition; new with every placing.
        self._erased: dict[int, Erased] = {}
        # Partitions given to this lane that must be looked up in the table before they are read.
        self._unplaced: list[int] | None = None
        self._next: dict[int, int] = {}
        # The log's ends, and those of them up to which the client has read.
        self._ends: dict[int, int] = {}
        self._reached: dict[int, int] = {}
        self._tracing = tracing_of(settings)
        self._checked_at = time.monotonic()

    def run(self) -> None:
        """Work until stopped."""
        try:
            consumer = self._consumer()
            try:
                while not self._stopping.is_set():
                    self._step(consumer)
                self._finish(consumer)
            finally:
                consumer.close()
        except ClickwellError as error:
            self.error = error
        except Exception as error:
            log.exception("%s crashed", self.name)
            self.error = ClickwellError(f"{self.name} crashed: {error!r}")
        finally:
            self._stopping.set()
            self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def table(self) -> str:
        """Name of the table."""
        return self._table.name

    @property
    def live_files(self) -> int:
        """How many files the table has, as far as this lane knows."""
        return self._flusher.live_files

    def lag(self) -> dict[int, int]:
        """Return how many records of each assigned partition are not in the table, as far as the consumer knows."""
        found = {}
        for partition, end in self._ends.items():
            written, taken = self._flusher.written.get(partition, end), self._next.get(partition, end)
            # Between the last record and the end there may be markers of transactions, which nobody writes.
            at = written if written < taken else max(taken, self._reached.get(partition, 0))
            found[partition] = max(0, end - at)
        return found

    def _consumer(self) -> Consumer:
        sink, kafka = self._settings.sink, self._settings.kafka
        consumer = Consumer(
            {
                **librdkafka_config(kafka),
                "group.id": f"{kafka.group}-sink-{self._table.name}",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                # An offset that the log does not hold is dealt with here, never skipped over.
                "auto.offset.reset": "error",
                # As the workers read it, so that both see the same events.
                "isolation.level": "read_uncommitted",
                "session.timeout.ms": int(sink.session_timeout * 1000),
                "queued.max.messages.kbytes": sink.fetch_bytes >> 10,
                "fetch.message.max.bytes": max(1 << 20, sink.fetch_bytes >> 5),
                # The default is a second, for which a partition would rest whenever it has fetched ahead enough.
                "fetch.queue.backoff.ms": 10,
                "topic.metadata.refresh.interval.ms": 30_000,
                "log_level": 3,
            }
        )
        consumer.subscribe(
            [self._table.topic.name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        return consumer

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign([])
        self._place_again([tp.partition for tp in partitions])

    def _on_revoke(self, consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        consumer.unassign()
        self._place_again(None)

    def _place_again(self, partitions: list[int] | None) -> None:
        """Drop what is not written; it will be read again from the stored offsets, here or elsewhere."""
        self._buffer = Buffer()
        self._next = {}
        self._unplaced = partitions

    def _step(self, consumer: Consumer) -> None:
        self._settle(consumer)
        if self._unplaced is not None:
            self._place(consumer, self._unplaced)
        if self._due():
            self._launch(consumer)
        if self._next and self._flight is None and time.monotonic() - self._checked_at > TOPIC_CHECK_SECONDS:
            self._checked_at = time.monotonic()
            self._flight = self._worker.submit(self._flusher.look_for_topic)
        self._take(consumer, consumer.consume(CHUNK, POLL_SECONDS))
        # Here, as the client answers no other thread while it consumes.
        topic = self._table.topic.name
        ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), cached=True) for p in self._next}
        self._ends = {partition: end for partition, (_, end) in ends.items()}

    def _place(self, consumer: Consumer, partitions: list[int]) -> None:
        """Look up where the partitions stand and begin to read there."""
        found = self._patiently(consumer, lambda: self._flusher.stand(partitions))
        # A rebalance meanwhile has given others.
        if found is None or self._unplaced is not partitions:
            return
        placed, self._erased = found
        self._unplaced = None
        self._next, self._reached = dict(placed), {}
        self._buffer = Buffer(expected=dict(placed), next=dict(placed))
        topic = self._table.topic.name
        places = [TopicPartition(topic, partition, offset) for partition, offset in placed.items()]
        consumer.assign(places)
        # The client keeps a pause for partitions that are taken away and given again while it lasts.
        consumer.resume(places)
        log.info("%s reads %s", self.name, ", ".join(f"{p} from {o}" for p, o in sorted(placed.items())) or "nothing")

    def _take(self, consumer: Consumer, messages: list[Message]) -> None:
        """Decode messages into the buffer."""
        if failed := [message for message in messages if message.error() is not None]:
            self._look_at(consumer, failed)
            messages = [message for message in messages if message.error() is None]
        if not messages or not self._next:
            return
        records = self._in_order(records_of(messages))
        if not records:
            return
        buffer = self._buffer
        for batch in self._decode(records):
            if batch.rows:
                buffer.rows.append(self._columns.of(batch, self._flusher.topic_id, time.time_ns() // 1_000_000))
                buffer.ids.append(self._columns.ids(batch.rows))
            buffer.bad += batch.bad  # type: ignore[arg-type]  # what goes in as LogRecord comes out as such
            # Somebody waits until all before a fence is in the table.
            buffer.urgent |= any(isinstance(control, Fence) for _, control in batch.controls)
        buffer.count += len(records)
        buffer.oldest_ms = min(buffer.oldest_ms, records[0].timestamp)
        if self._tracing is not None and len(buffer.requests) < MOST_LINKS:
            buffer.requests |= requests_of(message.headers() for message in messages)  # type: ignore[misc]  # its stubs
        buffer.size += sum([len(record.value) for record in records if record.value is not None])
        last = {record.partition: record.offset for record in records}
        buffer.next |= {partition: offset + 1 for partition, offset in last.items()}
        buffer.since = buffer.since or time.monotonic()
        self._next = dict(buffer.next)

    def _decode(self, records: list[LogRecord]) -> list[Batch[Any]]:
        """Decode records without what is erased."""
        batch = self._columns.decoder.decode(records)
        if all(erased.passes(batch) for erased in self._erased.values()):
            return [batch]
        by_partition: dict[int, list[LogRecord]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        batches = []
        try:
            for partition, part in by_partition.items():
                left, suppressed = self._erased[partition].apply(self._columns.decoder.decode(part))
                self.stats.suppressed += suppressed
                batches.append(left)
        except UnknownKeyError as error:
            raise missing_key(str(error)) from None
        return batches

    def _in_order(self, records: list[LogRecord]) -> list[LogRecord]:
        """Leave out records that were read before, as after a seek."""
        first = {record.partition: record.offset for record in reversed(records)}
        if all(0 <= self._next.get(partition, -1) <= offset for partition, offset in first.items()):
            return records
        return [r for r in records if r.partition in self._next and r.offset >= self._next[r.partition]]

    def _look_at(self, consumer: Consumer, failed: Sequence[Message]) -> None:
        for message in failed:
            error = message.error()
            assert error is not None
            if error.code() == END_REACHED:
                self._reached[message.partition()] = message.offset()  # type: ignore[index,assignment]  # it has both
                continue
            log.warning("%s: %s", self.name, error.str())
            if error.code() in {KafkaCode._AUTO_OFFSET_RESET, KafkaCode.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001  # its name
                self._rewind(consumer)
                return

    def _due(self) -> bool:
        buffer, sink = self._buffer, self._settings.sink
        if not buffer.count:
            return False
        assert buffer.since is not None
        return self._full() or buffer.urgent or time.monotonic() - buffer.since >= sink.flush_seconds

    def _full(self) -> bool:
        return (
            self._buffer.count >= self._settings.sink.flush_rows or self._buffer.size >= self._settings.sink.flush_bytes
        )

    def _launch(self, consumer: Consumer) -> None:
        """Hand the buffer over; when the one before is still being written and this one is full, wait."""
        if self._flight is not None and not self._full():
            return
        self._wait(consumer)
        if not self._buffer.count:
            return
        full, self._buffer = self._buffer, Buffer(expected=dict(self._buffer.next), next=dict(self._buffer.next))
        self._flight = self._worker.submit(self._flusher.flush, full)

    def _settle(self, consumer: Consumer) -> None:
        """Take the result of a flush that has ended."""
        if self._flight is None or not self._flight.done():
            return
        flight, self._flight = self._flight, None
        try:
            flight.result()
        except MovedError as error:
            log.info("%s rewinds: %s", self.name, error)
            self._rewind(consumer)

    def _rewind(self, consumer: Consumer) -> None:
        self.stats.rewinds += 1
        partitions = self._unplaced or list(self._next)
        consumer.assign([])
        self._place_again(partitions)

    def _wait(self, consumer: Consumer) -> None:
        """Wait for the flush in flight, without falling out of the group."""
        if self._flight is not None:
            wait([self._flight], PATIENCE_SECONDS)
            self._poll_until(consumer, self._flight)
        self._settle(consumer)

    def _patiently(self, consumer: Consumer, call: Callable[[], Any]) -> Any:
        """Run something on the table's thread until it succeeds; None when the lane is stopped meanwhile."""
        delay = RETRY_FIRST
        while not self._stopping.is_set():
            job = self._worker.submit(call)
            wait([job], PATIENCE_SECONDS)
            self._poll_until(consumer, job)
            try:
                return job.result() if job.done() else None
            except TopicRecreatedError:
                raise
            except (DependencyError, KafkaError) as error:
                log.warning("%s waits: %s", self.name, error)
                self._stopping.wait(delay)
                delay = min(2 * delay, RETRY_MOST)
        return None

    def _poll_until(self, consumer: Consumer, job: "Future[Any]") -> None:
        """Keep the membership alive until a job is done; records that come meanwhile are read again later."""
        paused: list[TopicPartition] = []
        while not job.done() and not self._stopping.is_set():
            if not paused and (paused := consumer.assignment()):
                consumer.pause(paused)
            message = consumer.poll(POLL_SECONDS)
            if message is not None and (message.error() is None or message.error().code() == END_REACHED):  # type: ignore[union-attr]
                self._take(consumer, [message])
        if paused and (still := consumer.assignment()) and not self._stopping.is_set():
            consumer.resume(still)

    def _finish(self, consumer: Consumer) -> None:
        """Write what is held, if the storage lets us in time."""
        deadline = time.monotonic() + LAST_FLUSH_SECONDS
        if self._flight is not None:
            wait([self._flight], LAST_FLUSH_SECONDS)
            self._settle(consumer)
        if self._flight is None and self._buffer.count:
            last = self._worker.submit(self._flusher.flush, self._buffer)
            wait([last], max(0.1, deadline - time.monotonic()))
