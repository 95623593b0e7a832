"""Records that are not valid events: kept byte for byte, with the reason, once, before the chunk counts."""

import asyncio
from collections.abc import Sequence
from threading import Lock

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import KafkaError as KafkaCode

from clickwell.errors import DecodeError, KafkaError
from clickwell.failpoints import Failpoints
from clickwell.kafka import librdkafka_config
from clickwell.schemas.decode import Record
from clickwell.schemas.topics import DEAD_LETTERS
from clickwell.schemas.wire import dead_letter_key
from clickwell.settings import KafkaSettings

ACK_SECONDS = 30.0


class DeadLetters:
    """Writes dead letters and knows which were written before, by whichever worker.

    A source partition's letters go to one partition of the topic, in offset order, so the highest source offset found
    there says what is already in: a replay adds nothing. What is found is read from the topic itself, when a partition
    is first written to and after any failure.
    """

    def __init__(self, settings: KafkaSettings, failpoints: Failpoints) -> None:
        self._settings = settings
        self._failpoints = failpoints
        self._lock = Lock()
        self._producer: Producer | None = None
        self._partitions = 0
        self._next: dict[tuple[str, int], int] = {}
        self._read_to: dict[int, int] = {}

    def forget(self) -> None:
        """Read the topic again before the next letter: another worker may have written meanwhile."""
        with self._lock:
            self._next.clear()

    async def send(self, topic: str, partition: int, bad: Sequence[tuple[Record, DecodeError]]) -> int:
        """Write the letters that are not in the topic yet and return their number once all are acknowledged.

        Raises:
            KafkaError: the broker did not acknowledge; the caller must not go on.
        """
        await self._failpoints.reach("before_dead_letter")
        sent = await asyncio.to_thread(self.write, topic, partition, bad)
        await self._failpoints.reach("after_dead_letter")
        return sent

    def write(self, topic: str, partition: int, bad: Sequence[tuple[Record, DecodeError]]) -> int:
        """Do what `send` does, for callers that may block.

        Raises:
            KafkaError: as `send`.
        """
        with self._lock:
            try:
                if (topic, partition) not in self._next:
                    self._catch_up()
                    self._next.setdefault((topic, partition), 0)
                new = [(record, error) for record, error in bad if record.offset >= self._next[topic, partition]]
                self._produce(topic, partition, new)
            except KafkaException as error:
                self._next.clear()
                raise KafkaError(f"dead letters cannot be written: {error}") from None
            except KafkaError:
                self._next.clear()
                raise
            if new:
                self._next[topic, partition] = new[-1][0].offset + 1
            return len(new)

    def _produce(self, topic: str, partition: int, letters: Sequence[tuple[Record, DecodeError]]) -> None:
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
                key=dead_letter_key(topic, partition, record.offset),
                value=record.value,
                partition=self._home(topic, partition),
                headers=_headers(topic, partition, record, error),
                on_delivery=delivered,
            )
            self._producer.poll(0)
        left = self._producer.flush(ACK_SECONDS + 5)
        if failures or left:
            raise KafkaError(f"{len(failures) or left} dead letters were not acknowledged: {failures[:1]}")

    def _home(self, topic: str, partition: int) -> int:
        return (partition + sum(topic.encode())) % self._partitions

    def _catch_up(self) -> None:
        """Read the keys of all letters since the last time."""
        consumer = Consumer(
            {
                **librdkafka_config(self._settings),
                "group.id": "clickwell-dead-letters",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # The broker need not hold an answer back: the end is what is asked for.
                "fetch.wait.max.ms": 5,
                "log_level": 0,
            }
        )
        try:
            metadata = consumer.list_topics(DEAD_LETTERS.name, timeout=ACK_SECONDS).topics[DEAD_LETTERS.name]
            if metadata.error is not None:
                raise KafkaError(f"topic {DEAD_LETTERS.name}: {metadata.error}", fix="run `clickwell topics`")
            self._partitions = len(metadata.partitions)
            self._read_to = {p: self._read_to.get(p, OFFSET_BEGINNING) for p in range(self._partitions)}
            consumer.assign([TopicPartition(DEAD_LETTERS.name, p, offset) for p, offset in self._read_to.items()])
            ended: set[int] = set()
            while len(ended) < self._partitions:
                # One at a time: `consume` waits for a full batch until its time is over, and all lanes with it.
                message = consumer.poll(ACK_SECONDS)
                if message is None:
                    raise KafkaError(f"topic {DEAD_LETTERS.name} could not be read to its end")
                self._take(message, ended)
        finally:
            consumer.close()

    def _take(self, message: Message, ended: set[int]) -> None:
        partition, key = message.partition(), message.key()
        assert partition is not None
        error = message.error()
        if error is not None:
            if error.code() != KafkaCode._PARTITION_EOF:  # noqa: SLF001  # librdkafka's name for "end reached"
                raise KafkaException(error)
            ended.add(partition)
            return
        self._read_to[partition] = (message.offset() or 0) + 1
        parts = (key or b"").decode(errors="replace").rsplit("/", 2)
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            source = (parts[0], int(parts[1]))
            self._next[source] = max(self._next.get(source, 0), int(parts[2]) + 1)


def _headers(topic: str, partition: int, record: Record, error: DecodeError) -> list[tuple[str, str | bytes | None]]:
    key = getattr(record, "key", None)
    return [
        ("reason", error.reason.encode()),
        ("field", error.field.encode()),
        ("detail", str(error)[:500].encode(errors="replace")),
        ("topic", topic.encode()),
        ("partition", str(partition).encode()),
        ("offset", str(record.offset).encode()),
        ("received_ms", str(record.timestamp).encode()),
        ("key", key if isinstance(key, bytes) else b""),
    ]
