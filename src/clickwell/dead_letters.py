"""Records that are not valid events: kept byte for byte, with the reason, once, before the chunk counts."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple, TypeVar

from confluent_kafka import KafkaException, Producer

from clickwell.errors import DecodeError, KafkaError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog, librdkafka_config
from clickwell.schemas.decode import Record
from clickwell.schemas.topics import DEAD_LETTERS
from clickwell.schemas.wire import MAX_EVENT_BYTES, dead_letter_key
from clickwell.settings import KafkaSettings

# Whoever takes over ends the transaction of the one before. Until then, or until the broker ends it after this time,
# nobody can read what lies behind it: a source that nobody takes over must not hold up others for long.
TRANSACTION_SECONDS = 10.0
# A transaction has to reach the broker within that time, on a slow line too.
BATCH = 1000
BATCH_BYTES = 16 << 20
# Each has some five threads and its own connections. A bad record is rare, and one that is made again costs what a
# rebalance costs: asking the broker, and reading what came since the last look.
MOST_PRODUCERS = 16
# A document's id, by which records are keyed, has 2 KiB at most.
MAX_KEY = 4096

T = TypeVar("T")


class Source(NamedTuple):
    """Where bad records come from. Offsets mean something within one topic id only."""

    topic: str
    topic_id: str
    partition: int


class DeadLetters:
    """Writes dead letters, each once, whichever workers of a group come, die, freeze and wake up.

    All who write letters of one source partition do so in transactions of one `transactional.id`:

    1. Whoever takes over ends and fences the one before: what that one had not committed by then never will be.
    2. Then it reads from the topic which records have a letter; nobody else can add one any more.
    3. As long as it is not fenced itself, what it read and what it wrote since is all there is.

    After every assignment, after any failure, and after too many other sources this begins anew. A source partition's
    letters go to one partition of the topic. Readers must leave out what is not committed.

    A value that is longer than any event may be is cut to that length, with its size in the header `cut_from`: a
    compressed record may be small in its topic and larger than any broker takes when it is written again.
    """

    def __init__(self, settings: KafkaSettings, kafka: KafkaLog, failpoints: Failpoints) -> None:
        self._settings = settings
        self._log = kafka
        self._failpoints = failpoints
        self._lock = Lock()
        # Only those that have looked at the topic; the least recently used is the first.
        self._producers: OrderedDict[Source, Producer] = OrderedDict()
        self._stale = False
        self._partitions = 0
        # Some 60 bytes a letter, for as many as retention keeps: a million of them is a producer that needs mending.
        self._known: dict[tuple[str, int], set[int]] = {}
        self._read_to: dict[int, int] = {}

    def forget(self) -> None:
        """Take over anew before the next letter: another worker may have written meanwhile. Waits for nobody."""
        self._stale = True

    async def send(self, source: Source, bad: Sequence[tuple[Record, DecodeError]]) -> int:
        """Write the letters that are not in the topic yet and return their number once all are committed.

        A rebalance that cancels it does not stop the writing: the letters are committed before the next owner looks,
        or never.

        Raises:
            KafkaError: they may or may not be in the topic, or another worker has taken over; the caller must not go
                on. Calling again finds out.
        """
        await self._failpoints.reach("before_dead_letter")
        sent = await asyncio.to_thread(self.write, source, bad)
        await self._failpoints.reach("after_dead_letter")
        return sent

    def write(self, source: Source, bad: Sequence[tuple[Record, DecodeError]]) -> int:
        """Do what `send` does, for callers that may block.

        Raises:
            KafkaError: as `send`.
        """
        with self._lock:
            if self._stale:
                self._stale = False
                self._producers.clear()
            # Put back when all went well: one that failed must not be used again.
            producer = self._producers.pop(source, None)
            try:
                if producer is None:
                    producer = self._take_over(source)
                known = self._known.setdefault(source[1:], set())
                new = [(record, error) for record, error in bad if record.offset not in known]
                for batch in batches(new, lambda letter: len(letter[0].value or b""), BATCH, BATCH_BYTES):
                    self._commit(producer, source, batch)
                    known.update(record.offset for record, _ in batch)
            except KafkaException as error:
                raise KafkaError(f"dead letters cannot be written: {error.args[0].str()}") from None
            self._producers[source] = producer
            if len(self._producers) > MOST_PRODUCERS:
                self._producers.popitem(last=False)
            return len(new)

    def _take_over(self, source: Source) -> Producer:
        """Return the only producer that can write letters of this source, knowing those that are there."""
        producer = Producer(
            {
                **librdkafka_config(self._settings),
                "transactional.id": f"{self._settings.group}-letters-{source.topic_id}-{source.partition}",
                "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "message.max.bytes": 8 << 20,
                "linger.ms": 0,
                "log_level": 0,
            }
        )
        producer.init_transactions(TRANSACTION_SECONDS)
        self._look(source)
        return producer

    def _commit(self, producer: Producer, source: Source, letters: Sequence[tuple[Record, DecodeError]]) -> None:
        """Write letters, all or none; if it fails, whoever takes over next ends the transaction."""
        producer.begin_transaction()
        for record, error in letters:
            producer.produce(
                DEAD_LETTERS.name,
                key=dead_letter_key(source.topic, source.partition, record.offset),
                value=record.value and record.value[:MAX_EVENT_BYTES],
                partition=self._home(source),
                headers=_headers(source, record, error),
            )
        producer.commit_transaction(TRANSACTION_SECONDS)

    def _home(self, source: Source) -> int:
        """Return the partition of the topic to which a source's letters go."""
        return (source.partition + sum(source.topic.encode())) % self._partitions

    def _look(self, source: Source) -> None:
        """Read the keys of all letters of a source, and of others as far as nobody has to be waited for.

        All partitions are read: a source's older letters lie elsewhere if the topic had fewer partitions then.
        """
        _, self._partitions = self._log.describe(DEAD_LETTERS.name)
        home, ends = self._home(source), self._log.latest(DEAD_LETTERS.name, range(self._partitions))
        begin = {partition: self._read_to.get(partition, 0) for partition in ends}
        for letter in self._log.read(DEAD_LETTERS.name, begin, ends, committed=True, whole={home}):
            try:
                origin = (letter.headers["topic_id"].decode(), int(letter.headers["partition"]))
                self._known.setdefault(origin, set()).add(int(letter.headers["offset"]))
            except (KeyError, ValueError):
                pass  # not a letter of ours
            self._read_to[letter.partition] = letter.offset + 1
        self._read_to[home] = ends[home]


def batches(items: Iterable[T], size_of: Callable[[T], int], most: int, most_bytes: int) -> Iterator[list[T]]:
    """Cut items into lists that fit into one transaction, and into memory; one that is too large is alone."""
    batch: list[T] = []
    size = 0
    for item in items:
        if batch and (len(batch) == most or size + size_of(item) > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += size_of(item)
    if batch:
        yield batch


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
