"""Sends events to Kafka from any thread, without ever holding up or losing them silently."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from confluent_kafka import KafkaError as Report
from confluent_kafka import Message
from pydantic_core import from_json

from clickwell.clock import SystemClock
from clickwell.errors import BufferFullError, KafkaError, UsageError
from clickwell.producers.connection import FATAL, HOPELESS, QUEUE_FULL, Connection
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
from clickwell.producers.replay import Replay
from clickwell.producers.spool import Spool
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.producers.edge import Edge

# With a spool, what is in memory, where a crash of the process would take it, goes to the disk when the broker has
# acknowledged nothing for this long.
SPOOL_AFTER_SECONDS = 15
# Records of the spool that are in flight at once; the next ones follow when all of these are acknowledged.
REPLAY_RECORDS = 5000

_log = logging.getLogger(__name__)


def edge_for(settings: Settings) -> "Edge | None":
    """Return what replaces names before they leave the process; None when they stay.

    Raises:
        SettingsError: the secret keys cannot be used.
        UsageError: the settings want it, and a package that it needs is not installed.
    """
    if not (settings.privacy.pseudonyms or settings.privacy.shred):
        return None
    try:
        from clickwell.producers.edge import edge_of  # noqa: PLC0415  # a base install lacks what it needs
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[privacy]'") from None
    return edge_of(settings)


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
        self.edge = edge_for(self._settings)
        buffers = self._settings.emitter
        self._spool = Spool.claim(buffers.spool, max_bytes=buffers.spool_bytes) if buffers.spool else None
        self._spooling = bool(self._spool)  # new events go behind those on disk
        # With a spool no event may run out of time on its own: a younger one could be delivered before it.
        self._connection = Connection(self._settings, source, expires=self._spool is None)
        self._pid = os.getpid()

        # Counters have one writer each: what callers count is guarded by the lock, the rest belongs to the thread.
        self.stats: dict[Kind, Counts] = {kind: Counts() for kind in TOPIC_OF}
        self._reports = {kind: partial(self._reported, self.stats[kind]) for kind in TOPIC_OF}
        self._handed = 0
        self._resolved = 0
        self._stranded: list[tuple[Record, OnDelivery | None]] = []  # failed in memory, on their way to the spool
        self._replay: Replay | None = None
        self._replay_at = 0.0

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
            error = self._connection.produce(record, report)
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

    # What follows runs in the emitter's own thread, and so do all delivery reports.

    def _run(self) -> None:
        synced = heard = time.monotonic()
        while not (self._stopping.is_set() and self._in_memory == 0 and self._replay is None):
            if self._stopping.is_set():
                self._connection.purge()
            before = self._unreported()
            self._connection.poll(0.1)
            now = time.monotonic()
            if self._in_flight == 0 or before != self._unreported():
                heard = now
            elif self._spool is not None and now - heard > SPOOL_AFTER_SECONDS:
                with self._lock:
                    self._spooling = True
                    self._connection.purge()
                heard = now
            self._advance()
            with self._lock:
                self._progress.notify_all()
            if self._spool and now - synced >= 1:
                self._spool.sync()
                synced = now

    def _unreported(self) -> tuple[int, int]:
        """Return what changes with every report, and with nothing else while reports are awaited."""
        return self._resolved, self._replay.waiting if self._replay else 0

    def _advance(self) -> None:
        """Do what is due when nothing that was handed over directly is in flight: those events are the oldest."""
        if self._handed != self._resolved:
            return
        if self._connection.broken:
            with self._lock:
                self._connection.mend()
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
        self._replay = Replay([unpack(payload) for payload in payloads], self._connection)

    def _end_replay(self, spool: Spool, replay: Replay) -> None:
        """Drop the records up to the first that must be sent again; that one and all behind it stay."""
        ended = replay.ended()
        for record, acked in ended:
            if acked:
                self.stats[record.kind].acked += 1
                self.stats[record.kind].replayed += 1
            else:
                self._give_up(record, "the broker refuses this record")
        with self._lock:
            spool.done(len(ended))
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
        self._connection.note(error)
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
