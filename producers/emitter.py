"""Sends events to Kafka from any thread, without ever holding up or losing them silently."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from confluent_kafka import KafkaError as Report
from confluent_kafka import KafkaException, Message, Producer
from pydantic_core import from_json

from clickwell.clock import SystemClock
from clickwell.errors import BufferFullError, KafkaError, UsageError
from clickwell.kafka import librdkafka_config
from clickwell.producers.deliveries import Counts, Delivery, OnDelivery, tell
from clickwell.producers.records import (
    ID_OF,
    KIND_OF,
    TOPIC_OF,
    Kind,
    Record,
    interaction_record,
    search_record,
    unpack,
)
from clickwell.producers.spool import Spool
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import MAX_EVENT_BYTES, headers
from clickwell.settings import Settings
from clickwell.tracing import tracing_of

if TYPE_CHECKING:
    from clickwell.producers.edge import Edge

# Room for the key, the headers and the batch's own framing beside the largest event.
MAX_RECORD_BYTES = MAX_EVENT_BYTES + (1 << 20)
# A buffer of the default 200,000 events holds 1.3 KiB of each; larger events fill it before their number does.
BUFFER_KBYTES = 256 << 10
# Without a spool an event is given up after this; longer than a broker's restart or a change of leader (about 10 s).
DELIVERY_SECONDS = 120
# With a spool, what is in memory, where a crash of the process would take it, goes to the disk when the broker has
# acknowledged nothing for this long.
SPOOL_AFTER_SECONDS = 15
# Records of the spool that are in flight at once; the next ones follow when all of these are acknowledged.
REPLAY_RECORDS = 5000
# Reports about the record itself: it will never be taken, so that keeping it would block all behind it.
HOPELESS = frozenset({Report.MSG_SIZE_TOO_LARGE, Report.INVALID_MSG, Report.INVALID_MSG_SIZE, Report.INVALID_RECORD})

# All of librdkafka's own codes begin with an underscore.
FATAL, QUEUE_FULL = Report._FATAL, Report._QUEUE_FULL  # noqa: SLF001

_log = logging.getLogger(__name__)
# librdkafka tells of every reconnect; whoever wants to read that turns this logger on.
_client_log = logging.getLogger("clickwell.librdkafka")
_client_log.addHandler(logging.NullHandler())
_client_log.propagate = False


def _edge(settings: Settings) -> "Edge | None":
    if not (settings.privacy.pseudonyms or settings.privacy.shred):
        return None
    try:
        from clickwell.producers.edge import edge_of  # noqa: PLC0415  # a base install lacks what it needs
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[privacy]'") from None
    return edge_of(settings)


@dataclass(slots=True)
class _Replay:
    """Records of the spool that are in flight, oldest first, and what is known of each."""

    records: list[Record]
    outcomes: list[Literal["waiting", "acked", "again", "hopeless"]] = field(default_factory=list)
    waiting: int = 0


class Emitter:
    """Sends interactions and searches; idempotent, acks=all, in order for each document and calling thread.

    `emit` checks the event, puts it into a bounded buffer and returns. A thread of its own delivers it, at least once;
    repeats are harmless because of the `interaction_id`. What the broker does not take goes, where `emitter.spool`
    names a folder, to the disk, and later events queue up behind it; they are replayed in order when the broker is
    back, by this process or the next. Without a spool, an event not acknowledged within 120 s is counted as failed.
    A `kill -9` takes what is only in memory, none of it reported as acked; with a spool that is what came since the
    broker last acknowledged something, and at most 15 s of it.

    Thread-safe. Not usable in a forked child: make the emitter after the fork (gunicorn: in `post_fork`).

    Args:
        settings: read from the environment when absent.
        source: the CloudEvents `ce_source` of every event: name of the service that emits.

    Raises:
        SettingsError: the spool or the keys of pseudonyms cannot be used.
    """

    def __init__(self, settings: Settings | None = None, *, source: str = "python") -> None:
        self._settings = settings or Settings.load()
        self._clock = SystemClock()
        # Replaces names before they leave the process; None leaves them.
        self.edge = _edge(self._settings)
        self._headers = {kind: headers(kind, "", source) for kind in TOPIC_OF}
        self._tracing = tracing_of(self._settings)
        buffers = self._settings.emitter
        self._spool = Spool.claim(buffers.spool, max_bytes=buffers.spool_bytes) if buffers.spool else None
        self._spooling = bool(self._spool)  # new events go behind those on disk
        self._producer = self._connect()
        self._pid = os.getpid()

        # Counters have one writer each: what callers count is guarded by the lock, the rest belongs to the thread.
        self.stats: dict[Kind, Counts] = {kind: Counts() for kind in TOPIC_OF}
        self._reports = {kind: partial(self._reported, self.stats[kind]) for kind in TOPIC_OF}
        self._handed = 0
        self._resolved = 0
        self._replayed_reports = 0
        self._stranded: list[tuple[Record, OnDelivery | None]] = []  # failed in memory, on their way to the spool
        self._replay: _Replay | None = None
        self._replay_at = 0.0
        self._fatal = False

        self._lock = threading.RLock()
        self._progress = threading.Condition(self._lock)
        self._closed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clickwell-emitter", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def emit(self, interaction: Interaction | Mapping[str, Any], *, on_delivery: OnDelivery | None = None) -> str:
        """Take one interaction and return its id, which is minted if absent.

        Blocks for `emitter.block_seconds` at most, and only when the buffer is full.

        Args:
            interaction: a mapping is checked; its unknown fields move under `metadata`.
            on_delivery: called once, from another thread, when the event's fate is known; must be quick.

        Raises:
            DecodeError: it is not a valid interaction; nothing was taken.
            BufferFullError: buffer and spool are full; nothing was taken.
            KafkaError: the client refuses for good, for example because the emitter is closed.
        """
        return self.send(interaction_record(interaction, self._clock.now_ms()), on_delivery)

    def emit_search(self, search: Search | Mapping[str, Any], *, on_delivery: OnDelivery | None = None) -> str:
        """Take one search, what was shown, and return its execution_id; otherwise like `emit`."""
        return self.send(search_record(search, self._clock.now_ms()), on_delivery)

    def emit_many(self, interactions: Iterable[Interaction | Mapping[str, Any]]) -> list[str]:
        """Take several interactions and return their ids; all are checked before the first is taken."""
        now = self._clock.now_ms()
        return [self.send(record) for record in [interaction_record(one, now) for one in interactions]]

    def send(self, record: Record, on_delivery: OnDelivery | None = None) -> str:
        """Take a record that is encoded already; blocks and raises as `emit` does."""
        record = self.named(record)
        if not self.offer(record, on_delivery):
            deadline = time.monotonic() + self._settings.emitter.block_seconds
            with self._lock:
                while not self.offer(record, on_delivery):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        self.overflow(record, on_delivery)
                        break
                    self._progress.wait(left)
        return record.id

    def named(self, record: Record) -> Record:
        """Return a record as it may leave the process: with what the settings want in place of names.

        Raises:
            DependencyError: the users' keys are out of reach.
        """
        return record if self.edge is None else self.edge.apply(record)

    def offer(self, record: Record, on_delivery: OnDelivery | None = None) -> bool:
        """Take a record that was `named` without waiting; False when the buffer is full: then nothing was taken."""
        if self._pid != os.getpid():
            raise UsageError("this emitter was made before a fork", fix="make the Emitter in the child, after the fork")
        with self._lock:
            if self._closed:
                raise KafkaError("the emitter is closed")
            if self._spooling:
                self.overflow(record, on_delivery)
                return True
            counts = self.stats[record.kind]
            report = (
                self._reports[record.kind]
                if on_delivery is None
                else partial(self._reported_to, counts, record, on_delivery)
            )
            self._handed += 1
            error = self._produce(record, report)
            if error is None:
                counts.accepted += 1
                return True
            self._handed -= 1
            if error.code() in HOPELESS or (self._spool is None and error.code() not in {QUEUE_FULL, FATAL}):
                raise KafkaError(f"the Kafka client does not take the event: {error.str()}")
            return False

    def overflow(self, record: Record, on_delivery: OnDelivery | None = None) -> None:
        """Put a record that was `named` at the end of the spool.

        Raises:
            BufferFullError: there is no spool, or it is full.
        """
        with self._lock:
            counts = self.stats[record.kind]
            if self._spool is None or not self._spool.append(record.pack()):
                counts.refused += 1
                raise BufferFullError(
                    f"{self.pending} events are waiting for Kafka at {self._settings.kafka.bootstrap_servers}",
                    why="the broker is away or slower than the events come",
                    fix="try later with the same interaction_id"
                    + ("" if self._spool else ", or set CLICKWELL_EMITTER__SPOOL to a folder"),
                )
            self._spooling = True
            counts.accepted += 1
            counts.spooled += 1
        if on_delivery:
            tell(on_delivery, Delivery(record.id, "spooled"))

    @property
    def pending(self) -> int:
        """Events in memory and on disk that no broker has acknowledged."""
        return self._in_memory + (len(self._spool) if self._spool else 0)

    @property
    def _in_memory(self) -> int:
        return self._handed - self._resolved + len(self._stranded)

    @property
    def _in_flight(self) -> int:
        return self._handed - self._resolved + (self._replay.waiting if self._replay else 0)

    def flush(self, timeout: float = 30.0) -> int:
        """Wait until everything is acknowledged, at most `timeout` seconds; return what is not."""
        deadline = time.monotonic() + timeout
        with self._lock:
            while self.pending and (left := deadline - time.monotonic()) > 0:
                self._progress.wait(left)
            return self.pending

    def close(self, timeout: float = 10.0) -> int:
        """Flush, put the rest on disk if there is a spool, and end; return what was not acknowledged.

        Without a spool the rest is counted as failed and a warning is logged. Runs by itself when Python exits.
        """
        if self._pid != os.getpid() or self._closed:
            return 0
        with self._lock:
            self._closed = True
        atexit.unregister(self.close)
        self.flush(timeout)
        self._stopping.set()
        self._thread.join()
        if self._spool is None:
            return sum(counts.failed for counts in self.stats.values())
        self._spool.close()
        if self._spool:
            _log.warning("%d events wait in the spool for the next emitter", len(self._spool))
        return len(self._spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> Producer:
        buffers = self._settings.emitter
        config: dict[str, Any] = {
            **librdkafka_config(self._settings.kafka),
            "enable.idempotence": True,
            "acks": "all",
            # As the Java client picks partitions, so that all clients put a document into the same one.
            "partitioner": "murmur2_random",
            "compression.type": buffers.compression,
            "linger.ms": buffers.linger_ms,
            # With a spool no event may run out of time on its own: a younger one could be delivered before it.
            "delivery.timeout.ms": DELIVERY_SECONDS * 1000 if self._spool is None else 0,
            "message.max.bytes": MAX_RECORD_BYTES,
            "queue.buffering.max.messages": buffers.buffer_events,
            "queue.buffering.max.kbytes": BUFFER_KBYTES,
            # The default of 10 s would let a broker that is back wait that long for the first event.
            "reconnect.backoff.max.ms": 1000,
            "error_cb": self._on_error,
        }
        return Producer(config, logger=_client_log)

    def _produce(self, record: Record, report: Callable[[Report | None, Message], None]) -> Report | None:
        """Hand a record to the client; return why it does not take it, None if it does."""
        version, _, *rest = self._headers[record.kind]
        if self._tracing is not None:
            rest += self._tracing.headers()
        try:
            self._producer.produce(
                TOPIC_OF[record.kind],
                record.value,
                record.key,
                on_delivery=report,
                headers=[version, ("ce_id", record.id.encode()), *rest],
            )
        except BufferError:
            return Report(QUEUE_FULL)
        except KafkaException as error:
            self._on_error(error.args[0])
            return error.args[0]  # type: ignore[no-any-return]  # it is always a KafkaError
        return None

    # What follows runs in the emitter's own thread, and so do all delivery reports.

    def _run(self) -> None:
        synced = heard = time.monotonic()
        while not (self._stopping.is_set() and self._in_memory == 0 and self._replay is None):
            if self._stopping.is_set():
                self._producer.purge()
            before = self._resolved, self._replayed_reports
            self._producer.poll(0.1)
            now = time.monotonic()
            if self._in_flight == 0 or before != (self._resolved, self._replayed_reports):
                heard = now
            elif self._spool is not None and now - heard > SPOOL_AFTER_SECONDS:
                with self._lock:
                    self._spooling = True
                    self._producer.purge()
                heard = now
            self._advance()
            with self._lock:
                self._progress.notify_all()
            if self._spool and now - synced >= 1:
                self._spool.sync()
                synced = now

    def _advance(self) -> None:
        """Do what is due when nothing that was handed over directly is in flight: those events are the oldest."""
        if self._handed != self._resolved:
            return
        if self._fatal and not len(self._producer):
            with self._lock:
                _log.warning("the Kafka client met an error that it cannot mend and was made anew")
                self._producer = self._connect()
                self._fatal = False
        if self._spool is None:
            return
        if self._stranded:
            self._move_to_spool(self._spool)
        elif self._replay is not None:
            if self._replay.waiting == 0:
                self._end_replay(self._spool, self._replay)
        elif self._spooling and not self._stopping.is_set():
            self._begin_replay(self._spool)

    def _move_to_spool(self, spool: Spool) -> None:
        stranded = self._stranded
        outcome: Literal["spooled", "failed"] = "spooled"
        try:
            spool.prepend(record.pack() for record, _ in stranded)
        except OSError as error:
            outcome = "failed"
            _log.error("%d events are lost: the spool cannot be written: %s", len(stranded), error)
        for record, on_delivery in stranded:
            if outcome == "spooled":
                self.stats[record.kind].spooled += 1
            else:
                self.stats[record.kind].failed += 1
            if on_delivery:
                tell(on_delivery, Delivery(record.id, outcome, error="" if outcome == "spooled" else "disk full"))
        with self._lock:
            self._stranded = []

    def _begin_replay(self, spool: Spool) -> None:
        if time.monotonic() < self._replay_at:
            return
        with self._lock:
            payloads = spool.take(min(REPLAY_RECORDS, self._settings.emitter.buffer_events))
        self._replay = replay = _Replay([unpack(payload) for payload in payloads])
        for index, record in enumerate(replay.records):
            replay.outcomes.append("waiting")
            replay.waiting += 1
            error = self._produce(record, partial(self._replayed, replay, index))
            if error is not None:
                replay.outcomes[index] = "hopeless" if error.code() in HOPELESS else "again"
                replay.waiting -= 1
                break

    def _replayed(self, replay: _Replay, index: int, error: Report | None, _: Message) -> None:
        self._replayed_reports += 1
        replay.waiting -= 1
        if error is None:
            replay.outcomes[index] = "acked"
        else:
            self._on_error(error)
            replay.outcomes[index] = "hopeless" if error.code() in HOPELESS else "again"

    def _end_replay(self, spool: Spool, replay: _Replay) -> None:
        """Drop the records up to the first that must be sent again; that one and all behind it stay."""
        outcomes = replay.outcomes
        ended = outcomes.index("again") if "again" in outcomes else len(outcomes)
        for record, outcome in zip(replay.records[:ended], outcomes, strict=False):
            if outcome == "hopeless":
                self._give_up(record, "the broker refuses this record")
            else:
                self.stats[record.kind].acked += 1
                self.stats[record.kind].replayed += 1
        with self._lock:
            spool.done(ended)
            spool.rewind()
            self._spooling = len(spool) > 0
        self._replay = None
        # A report that comes at once, such as for a missing topic, must not make a busy loop.
        self._replay_at = 0.0 if ended else time.monotonic() + 1

    def _reported(self, counts: Counts, error: Report | None, message: Message) -> None:
        if error is None:
            self._resolved += 1
            counts.acked += 1
            return
        kind, value = KIND_OF[message.topic() or ""], message.value() or b""
        event_id = from_json(value)[ID_OF[kind]]
        self._failed(Record(kind, event_id, message.key() or b"", value), None, error)

    def _reported_to(
        self, counts: Counts, record: Record, on_delivery: OnDelivery, error: Report | None, message: Message
    ) -> None:
        if error is not None:
            self._failed(record, on_delivery, error)
            return
        self._resolved += 1
        counts.acked += 1
        tell(on_delivery, Delivery(record.id, "acked", message.partition() or 0, message.offset() or 0))

    def _failed(self, record: Record, on_delivery: OnDelivery | None, error: Report) -> None:
        self._on_error(error)
        if self._spool is not None and error.code() not in HOPELESS:
            with self._lock:
                self._spooling = True
                self._stranded.append((record, on_delivery))
                self._resolved += 1
            return
        self._resolved += 1
        self._give_up(record, error.str())
        if on_delivery:
            tell(on_delivery, Delivery(record.id, "failed", error=error.str()))

    def _give_up(self, record: Record, why: str) -> None:
        counts = self.stats[record.kind]
        counts.failed += 1
        # The first of a row says it all; the counter has the rest.
        if counts.failed & (counts.failed - 1) == 0:
            _log.warning("%d events of kind %s were not delivered: %s", counts.failed, record.kind, why)

    def _on_error(self, error: Report) -> None:
        if error.fatal() or error.code() == FATAL:
            self._fatal = True
