"""What the eraser writes into the log, exactly once whoever dies: fences, retractions and steps.

A new eraser takes over the producer's transactional id, after which nothing of an earlier one can get into the log any
more. What is there by then is found by reading, also in transactions that were never completed: workers read those
too. Only what is missing is written.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError as KafkaCode
from confluent_kafka import KafkaException, Message, Producer

from clickwell.clock import MS_PER_HOUR
from clickwell.erasures import STEPS_PARTITION, Batch, ErasureLog, Offsets, Step
from clickwell.errors import KafkaError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog, librdkafka_config
from clickwell.schemas.controls import Fence, Retraction
from clickwell.schemas.topics import ERASURES, INTERACTIONS, SEARCHES
from clickwell.settings import Settings

log = logging.getLogger(__name__)

FENCED = (INTERACTIONS.name, SEARCHES.name)
SECONDS = 60.0
# Of a transaction; bounds what the producer holds.
MOST_AT_ONCE = 5000


class TakenOverError(Exception):
    """Another eraser has begun; this one must end."""


class LogWriter:
    """Writes for one eraser; the last one that was made is the only one that can.

    Raises:
        KafkaError: here and by every method, the broker is away.
        TakenOverError: by every method, another one was made since.
    """

    def __init__(self, settings: Settings, kafka: KafkaLog, log: ErasureLog, failpoints: Failpoints) -> None:
        self._kafka, self._log, self._failpoints = kafka, log, failpoints
        self._delivered: list[tuple[str, int, int]] = []
        self._producer = Producer(
            {
                **librdkafka_config(settings.kafka),
                "transactional.id": f"{settings.kafka.group}-eraser",
                "transaction.timeout.ms": int(SECONDS * 1000),
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.max.bytes": 8 << 20,
                "log_level": 0,
            }
        )
        with _errors():
            self._producer.init_transactions(SECONDS)

    def begin(self, step: Step) -> None:
        """Write the first step of a batch, with where the topics end before its fences."""
        for topic in FENCED:
            topic_id, partitions = self._kafka.describe(topic)
            step.topic_ids[topic] = topic_id
            step.starts[topic] = self._kafka.latest(topic, range(partitions))
        self.step(step)

    def step(self, step: Step) -> None:
        """Write a step."""
        step.at_ms = time.time_ns() // 1_000_000
        log.info("batch %s: %s", step.batch, step.name)
        with self._transaction():
            self._produce(ERASURES.name, STEPS_PARTITION, step, b"steps")

    def fence(self, batch: Batch) -> Offsets:
        """Write the fences of a batch where there are none; return their offsets."""
        fences: Offsets = {topic: {} for topic in FENCED}
        missing: list[tuple[str, int]] = []
        self._failpoints.visit("before_fences")
        for topic in FENCED:
            ends = self._kafka.latest(topic, batch.starts[topic])
            for partition, start in batch.starts[topic].items():
                found = self._log.controls(topic, partition, start, ends[partition])
                own = (offset for offset, each in found if isinstance(each, Fence) and each.batch == batch.name)
                if (offset := next(own, None)) is None:
                    missing.append((topic, partition))
                else:
                    fences[topic][partition] = offset
        with self._transaction() as delivered:
            for number, (topic, partition) in enumerate(missing):
                if number == len(missing) // 2:
                    self._producer.flush(1.0)
                    self._failpoints.visit("between_fences")
                self._produce(topic, partition, Fence(batch.name, batch.subjects))
        for topic, partition, offset in delivered:
            fences[topic][partition] = offset
        self._failpoints.visit("after_fences")
        return fences

    def retract(self, batch: Batch, tables: Iterable[pa.Table]) -> Offsets:
        """Take back what was counted before the fences and is not taken back yet; return the offsets after the last.

        Args:
            batch: fenced.
            tables: rows of the lake's interactions that belong to the batch, each once.
        """
        topic = INTERACTIONS.name
        fences = batch.fences[topic]
        ends = self._kafka.latest(topic, fences)
        done: set[tuple[int, int]] = set()
        reached = {partition: fence + 1 for partition, fence in fences.items()}
        for partition, fence in fences.items():
            for offset, control in self._log.controls(topic, partition, fence, ends[partition]):
                if isinstance(control, Retraction) and control.batch == batch.name:
                    done.add((partition, control.offset))
                    reached[partition] = offset + 1
        waiting: list[tuple[int, Retraction]] = []
        for table in tables:
            rows = table.filter(pc.equal(table["kafka_topic_id"], batch.topic_ids[topic]))
            for row in rows.to_pylist():
                place = row["kafka_partition"], row["kafka_offset"]
                if place not in done and place[1] < fences.get(place[0], 0):
                    waiting.append((place[0], _retraction(batch, row)))
            while len(waiting) >= MOST_AT_ONCE:
                self._send(waiting[:MOST_AT_ONCE], reached)
                del waiting[:MOST_AT_ONCE]
        self._send(waiting, reached)
        self._failpoints.visit("after_retractions")
        return {topic: reached}

    def _send(self, retractions: list[tuple[int, Retraction]], reached: dict[int, int]) -> None:
        if not retractions:
            return
        with self._transaction() as delivered:
            for partition, retraction in retractions:
                self._produce(INTERACTIONS.name, partition, retraction, retraction.feature_id.encode())
            self._producer.flush(1.0)
            self._failpoints.visit("between_retractions")
        for _, partition, offset in delivered:
            reached[partition] = max(offset + 1, reached[partition])

    def _produce(self, topic: str, partition: int, content: msgspec.Struct, key: bytes | None = None) -> None:
        def delivered(error: KafkaCode | None, message: Message) -> None:
            offset = message.offset()
            if error is None and offset is not None:
                self._delivered.append((topic, partition, offset))

        self._producer.produce(topic, msgspec.json.encode(content), key=key, partition=partition, on_delivery=delivered)

    @contextmanager
    def _transaction(self) -> Iterator[list[tuple[str, int, int]]]:
        """Begin and end a transaction; afterwards the list has what was written."""
        self._delivered = []
        with _errors():
            self._producer.begin_transaction()
            yield self._delivered
            self._producer.commit_transaction(SECONDS)


def _retraction(batch: Batch, row: dict[str, object]) -> Retraction:
    def hour(name: str) -> int:
        return int(row[name].timestamp()) * 1000 // MS_PER_HOUR * MS_PER_HOUR  # type: ignore[attr-defined]

    same = ("feature_id", "duration_ms", "position", "query", "retriever_id", "execution_id")
    return Retraction(
        batch=batch.name,
        offset=row["kafka_offset"],  # type: ignore[arg-type]
        received_ms=hour("received_at"),
        timestamp=hour("timestamp"),
        interaction_type=tuple(row["interaction_type"]),  # type: ignore[arg-type]
        **{name: row[name] for name in same},  # type: ignore[arg-type]
    )


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        code = error.args[0]
        if code.code() in {KafkaCode._FENCED, KafkaCode.PRODUCER_FENCED, KafkaCode.INVALID_PRODUCER_EPOCH}:  # noqa: SLF001  # librdkafka's name
            raise TakenOverError("another eraser has taken over") from None
        raise KafkaError(f"the eraser cannot write to Kafka: {code.str()}") from None
