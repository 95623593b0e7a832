"""Records that are not valid events: kept byte for byte, with the reason, once, before the chunk counts."""

import asyncio
import time
from collections.abc import Sequence
from math import inf
from threading import Lock
from typing import NamedTuple

from confluent_kafka import KafkaError as KafkaCode
from confluent_kafka import KafkaException, Message, Producer

from clickwell.errors import DecodeError, KafkaError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog, librdkafka_config
from clickwell.schemas.decode import Record
from clickwell.schemas.topics import DEAD_LETTERS
from clickwell.schemas.wire import MAX_EVENT_BYTES, dead_letter_key
from clickwell.settings import KafkaSettings

ACK_SECONDS = 30.0
# A worker that was frozen for a while may have lost its partition to one that went on writing letters. Asking how far
# the topic reaches takes some 10 ms, so it is done at most this often.
TRUSTED_SECONDS = 1.0
# A letter takes some milliseconds; what has not been acknowledged by then may be written once more by the next owner.
SETTLE_SECONDS = 5.0
# A document's id, by which records are keyed, has 2 KiB at most.
MAX_KEY = 4096


class Source(NamedTuple):
    """Where bad records come from. Offsets mean something within one topic id only."""

    topic: str
    topic_id: str
    partition: int


class DeadLetters:
    """Writes dead letters and knows which were written before, by whichever worker.

    The topic itself says which records have a letter: it is read after every assignment, after any failure, and when it
    was last looked at a second ago. So a replay adds nothing, in whatever order writers came. A source partition's
    letters go to one partition of the topic.

    A value that is longer than any event may be is cut to that length, with its size in the header `cut_from`: a
    compressed record may be small in its topic and larger than any broker takes when it is written again.
    """

    def __init__(self, settings: KafkaSettings, kafka: KafkaLog, failpoints: Failpoints) -> None:
        self._settings = settings
        self._log = kafka
        self._failpoints = failpoints
        self._lock = Lock()
        self._producer: Producer | None = None
        self._partitions = 0
        # Some 60 bytes a letter, for as many as retention keeps: a million of them is a producer that needs mending.
        self._known: dict[tuple[str, int], set[int]] = {}
        self._read_to: dict[int, int] = {}
        self._read_at = -inf
        self._sending: set[asyncio.Task[int]] = set()

    def forget(self) -> None:
        """Look at the topic again before the next letter: another worker may have written meanwhile."""
        with self._lock:
            self._read_at = -inf

    async def send(self, source: Source, bad: Sequence[tuple[Record, DecodeError]]) -> int:
        """Write the letters that are not in the topic yet and return their number once all are acknowledged.

        Raises:
            KafkaError: the broker did not acknowledge; the caller must not go on.
        """
        await self._failpoints.reach("before_dead_letter")
        task = asyncio.create_task(asyncio.to_thread(self.write, source, bad))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        # A rebalance cancels who waits here, not the thread that writes.
        sent = await asyncio.shield(task)
        await self._failpoints.reach("after_dead_letter")
        return sent

    async def settle(self) -> None:
        """Wait until no letter is under way; not for ever, as the group would take a long wait for a death."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=SETTLE_SECONDS)

    def write(self, source: Source, bad: Sequence[tuple[Record, DecodeError]]) -> int:
        """Do what `send` does, for callers that may block.

        Raises:
            KafkaError: as `send`.
        """
        with self._lock:
            try:
                if time.monotonic() - self._read_at > TRUSTED_SECONDS:
                    self._catch_up()
                    self._read_at = time.monotonic()
                known = self._known.setdefault(source[1:], set())
                new = [(record, error) for record, error in bad if record.offset not in known]
                self._produce(source, new)
            except KafkaException as error:
                self._read_at = -inf
                raise KafkaError(f"dead letters cannot be written: {error}") from None
            except KafkaError:
                self._read_at = -inf
                raise
            known.update(record.offset for record, _ in new)
            return len(new)

    def _produce(self, source: Source, letters: Sequence[tuple[Record, DecodeError]]) -> None:
        if not letters:
            return
        if self._producer is None:
            self._producer = Producer(
                {
                    **librdkafka_config(self._settings),
                    "enable.idempotence": True,
                    "message.max.bytes": 8 << 20,
                    "delivery.timeout.ms": int(ACK_SECONDS * 1000),
                    "linger.ms": 0,
                    "log_level": 0,
                }
            )
        failures: list[str] = []

        def delivered(error: KafkaCode | None, _message: Message) -> None:
            if error is not None:
                failures.append(str(error))

        for record, error in letters:
            self._producer.produce(
                DEAD_LETTERS.name,
                key=dead_letter_key(source.topic, source.partition, record.offset),
                value=record.value and record.value[:MAX_EVENT_BYTES],
                partition=(source.partition + sum(source.topic.encode())) % self._partitions,
                headers=_headers(source, record, error),
                on_delivery=delivered,
            )
            self._producer.poll(0)
        left = self._producer.flush(ACK_SECONDS + 5)
        if failures or left:
            raise KafkaError(f"{len(failures) or left} dead letters were not acknowledged: {failures[:1]}")

    def _catch_up(self) -> None:
        """Read the keys of the letters that came since the last time; asking for the ends is all there mostly is."""
        _, self._partitions = self._log.describe(DEAD_LETTERS.name)
        ends = self._log.latest(DEAD_LETTERS.name, range(self._partitions))
        begin = {partition: self._read_to.get(partition, 0) for partition in range(self._partitions)}
        for letter in self._log.read(DEAD_LETTERS.name, begin, ends):
            try:
                source = (letter.headers["topic_id"].decode(), int(letter.headers["partition"]))
                self._known.setdefault(source, set()).add(int(letter.headers["offset"]))
            except (KeyError, ValueError):
                pass  # not a letter of ours
            self._read_to[letter.partition] = letter.offset + 1
        self._read_to.update(ends)


def _headers(source: Source, record: Record, error: DecodeError) -> list[tuple[str, str | bytes | None]]:
    key, size = getattr(record, "key", None), len(record.value or b"")
    return [
        ("reason", error.reason.encode()),
        ("field", error.field.encode()),
        ("detail", str(error)[:500].encode(errors="replace")),
        ("topic", source.topic.encode()),
        ("topic_id", source.topic_id.encode()),
        ("partition", str(source.partition).encode()),
        ("offset", str(record.offset).encode()),
        ("received_ms", str(record.timestamp).encode()),
        ("key", key[:MAX_KEY] if isinstance(key, bytes) else b""),
        *([("cut_from", str(size).encode())] if size > MAX_EVENT_BYTES else []),
    ]
