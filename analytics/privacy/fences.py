"""What the eraser writes into the log, exactly once whoever dies: fences, retractions and steps.

A new eraser takes over the producer's transactional id, after which nothing of an earlier one can get into the log any
more. What is there by then is found by reading, also in transactions that were never completed: workers read those
too. Only what is missing is written.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec
from confluent_kafka import KafkaError as KafkaCode
from confluent_kafka import KafkaException, Message, Producer

from clickwell.analytics.privacy.retractions import Place
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
        self._config: dict[str, Any] = {
            **librdkafka_config(settings.kafka),
            "transactional.id": f"{settings.kafka.group}-eraser",
            "transaction.timeout.ms": int(SECONDS * 1000),
            "linger.ms": 5,
            "compression.type": "lz4",
            "message.max.bytes": 8 << 20,
            "log_level": 0,
        }
        self._ready = False
        self.settle()

    def settle(self) -> None:
        """Make the client anew if its last transaction was broken off: it would take no other.

        From then on nothing of that transaction can get into the log any more, so this is for before looking there.
        """
        if not self._ready:
            self._producer = Producer(self._config)
            with _errors():
                self._producer.init_transactions(SECONDS)
            self._ready = True

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

    def retract(self, batch: Batch, retractions: Iterable[tuple[Place, Retraction]]) -> Offsets:
        """Take back what was counted before the fences and is not taken back yet; return the offsets after the last.

        Args:
            batch: fenced.
            retractions: of events that belong to the batch, with where these lie; each once.
        """
        done: set[Place] = set()
        reached: Offsets = {}
        for topic, fences in batch.fences.items():
            ends = self._kafka.latest(topic, fences)
            reached[topic] = {partition: fence + 1 for partition, fence in fences.items()}
            for partition, fence in fences.items():
                for offset, control in self._log.controls(topic, partition, fence, ends[partition]):
                    if isinstance(control, Retraction) and control.batch == batch.name:
                        done.add(Place(topic, partition, control.offset))
                        reached[topic][partition] = offset + 1
        waiting = (
            (place, retraction)
            for place, retraction in retractions
            if place not in done and place.offset < batch.fences[place.topic].get(place.partition, 0)
        )
        while some := list(islice(waiting, MOST_AT_ONCE)):
            self._send(some, reached)
        self._failpoints.visit("after_retractions")
        return reached

    def _send(self, retractions: Iterable[tuple[Place, Retraction]], reached: Offsets) -> None:
        with self._transaction() as delivered:
            for place, retraction in retractions:
                self._produce(place.topic, place.partition, retraction, retraction.feature_id.encode())
            self._producer.flush(1.0)
            self._failpoints.visit("between_retractions")
        for topic, partition, offset in delivered:
            reached[topic][partition] = max(offset + 1, reached[topic][partition])

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
        self._ready = False
        with _errors():
            self._producer.begin_transaction()
            yield self._delivered
            self._producer.commit_transaction(SECONDS)
        self._ready = True


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        code = error.args[0]
        if code.code() in {KafkaCode._FENCED, KafkaCode.PRODUCER_FENCED, KafkaCode.INVALID_PRODUCER_EPOCH}:  # noqa: SLF001  # librdkafka's name
            raise TakenOverError("another eraser has taken over") from None
        raise KafkaError(f"the eraser cannot write to Kafka: {code.str()}") from None
