"""Kafka as librdkafka sees it: the settings in its words, and what must be known of the log besides its records."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka import KafkaError as KafkaCode
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # re-exported silently

from clickwell.errors import KafkaError
from clickwell.settings import KafkaSettings

# Longer than one lost leader of a healthy cluster takes to be replaced; callers that may wait longer ask again.
TIMEOUT = 15.0
END_REACHED = KafkaCode._PARTITION_EOF  # noqa: SLF001  # librdkafka's name for it

# A controller that has not answered in this time may be dead.
CONTROLLER_SECONDS = 3.0

# A partition that has records to give gives some within this time, unless its leader is gone. A transaction that its
# producer left alone is over within its own timeout and the ten seconds after which brokers look for such.
READ_SECONDS = 30.0

# Seconds for which a broker may answer so of a topic that was just made, or whose leader has just changed.
_SETTLING: dict[int | None, float] = {
    KafkaCode.LEADER_NOT_AVAILABLE: TIMEOUT,
    KafkaCode.NOT_LEADER_FOR_PARTITION: TIMEOUT,
    KafkaCode.UNKNOWN_TOPIC_OR_PART: 3.0,
}

T = TypeVar("T")


def librdkafka_config(kafka: KafkaSettings) -> dict[str, str | int]:
    """Return the connection part of a librdkafka configuration: addresses, TLS and SASL; no behaviour."""
    config: dict[str, str | int] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": "clickwell",
        "security.protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        config["sasl.mechanism"] = kafka.sasl_mechanism
        config["sasl.username"] = kafka.sasl_username
        config["sasl.password"] = kafka.sasl_password.get_secret_value()
    if kafka.security_protocol.endswith("SSL") and kafka.ssl_cafile is not None:
        config["ssl.ca.location"] = str(kafka.ssl_cafile)
    return config


def topic_id_text(topic_id: object) -> str:
    """Return a topic's id as Kafka's own tools print it: 22 characters of URL-safe base64.

    librdkafka gives plain base64, whose slash would end a part of a ledger field.
    """
    return str(topic_id).replace("+", "-").replace("/", "_")


class LogRecord(NamedTuple):
    """One record as it lies in a topic; `received_ms` is the broker's time, of repeated headers the last one counts."""

    partition: int
    offset: int
    received_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


class KafkaLog:
    """Asks the broker about topics and offsets; every method may be called from any thread."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = AdminClient({**librdkafka_config(settings), "log_level": 0})

    def describe(self, topic: str) -> tuple[str, int]:
        """Return a topic's id (22 characters, another one after the topic was created anew) and partition count.

        Raises:
            KafkaError: the broker is away or the topic does not exist.
        """
        description = self._ask(topic, lambda: self._describe(topic))
        return topic_id_text(description.topic_id), len(description.partitions)

    def earliest(self, topic: str, partition: int) -> int:
        """Return the offset of the first record that retention has left.

        Raises:
            KafkaError: the broker is away or the partition does not exist.
        """
        return self._offsets(topic, [partition], OffsetSpec.earliest())[partition]  # type: ignore[no-untyped-call]

    def latest(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset that the next record of each partition will get.

        Raises:
            KafkaError: the broker is away or a partition does not exist.
        """
        return self._offsets(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the offset of the first record that the broker received at or after a time; the end if there is none.

        Raises:
            KafkaError: the broker is away or the partition does not exist.
        """
        offset = self._offsets(topic, [partition], OffsetSpec.for_timestamp(time_ms))[partition]
        return offset if offset >= 0 else self.latest(topic, [partition])[partition]

    def first_record(self, topic: str, partition: int, offset: int) -> int:
        """Return the offset of the first record that exists at or after `offset`, or the log's end if none follows.

        Markers of transactions take offsets too, but are no records.

        Raises:
            KafkaError: the broker is away, or the log does not hold `offset`.
        """
        consumer = Consumer(
            {
                **librdkafka_config(self._settings),
                "group.id": "clickwell-probe",
                "isolation.level": "read_uncommitted",
                "enable.partition.eof": True,
                # Any other value would jump over records if retention removed `offset` meanwhile.
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, partition, offset)])
            message = consumer.poll(TIMEOUT)
            error = message.error() if message is not None else None
            if message is None or (error is not None and error.code() != END_REACHED):
                raise KafkaError(f"{topic}-{partition}: no record at or after offset {offset}", why=str(error or ""))
            found = message.offset()
            assert found is not None
            return found
        finally:
            consumer.close()

    def read(
        self,
        topic: str,
        begin: Mapping[int, int],
        end: Mapping[int, int],
        *,
        committed: bool = False,
        whole: Collection[int] = (),
    ) -> Iterator[LogRecord]:
        """Yield the records of some partitions; those of one partition in order.

        Args:
            topic: its name.
            begin: partition -> first offset; what retention has taken of it is passed over.
            end: partition -> offset after the last one, for the same partitions; at most the log's end.
            committed: leave out what belongs to a Kafka transaction that was aborted or is not over, and what lies
                behind the latter.
            whole: with `committed`, the partitions in which to wait for transactions that are not over, instead.

        Raises:
            KafkaError: the broker is away, or a transaction that was to be waited for is not over after half a minute.
        """
        left = {partition for partition, offset in begin.items() if offset < end[partition]}
        if not left:
            return
        consumer = Consumer(
            {
                **librdkafka_config(self._settings),
                "group.id": "clickwell-read",
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                # A partition that ends in a marker is known to be over after one answer that brings nothing.
                "fetch.wait.max.ms": 20,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, partition, begin[partition]) for partition in left])
            while left:
                # One at a time: `consume` waits for a full batch until its time is over, and its caller with it.
                message = consumer.poll(READ_SECONDS)
                if message is None:
                    raise KafkaError(f"topic {topic} could not be read to its end")
                partition, offset, error = message.partition(), message.offset(), message.error()
                assert partition is not None
                assert offset is not None
                if error is None:
                    if offset < end[partition]:
                        yield _log_record(message)
                    offset += 1
                elif error.code() != END_REACHED:
                    raise KafkaError(f"topic {topic} cannot be read: {error.str()}")
                if offset >= end[partition] or (error is not None and committed and partition not in whole):
                    left.discard(partition)
        except KafkaException as error:
            raise KafkaError(f"topic {topic} cannot be read: {error.args[0].str()}") from None
        finally:
            consumer.close()

    def _describe(self, topic: str) -> Any:
        try:
            return self._ask_controller(topic, CONTROLLER_SECONDS)
        except (KafkaException, TimeoutError) as error:
            if isinstance(error, KafkaException) and error.args[0].code() != KafkaCode._TIMED_OUT:  # noqa: SLF001
                raise
            # librdkafka waits, on a whole core, for the controller it last heard of; others may have another by now.
            self._admin.list_topics(timeout=TIMEOUT)
            return self._ask_controller(topic, TIMEOUT)

    def _ask_controller(self, topic: str, seconds: float) -> Any:
        futures = self._admin.describe_topics(TopicCollection([topic]), request_timeout=seconds)
        return futures[topic].result(seconds)

    def _offsets(self, topic: str, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(topic, partition): spec for partition in partitions}

        def ask() -> dict[int, int]:
            answers = self._admin.list_offsets(asked, request_timeout=TIMEOUT)
            return {tp.partition: future.result(TIMEOUT).offset for tp, future in answers.items()}

        return self._ask(topic, ask)

    def _ask(self, topic: str, call: Callable[[], T]) -> T:
        """Call until the broker answers for a topic that was just made or whose leader has just changed."""
        began = time.monotonic()
        while True:
            try:
                return call()
            except (KafkaException, TimeoutError) as error:
                code = error.args[0].code() if isinstance(error, KafkaException) else None
                if time.monotonic() - began > _SETTLING.get(code, 0.0):
                    raise KafkaError(
                        f"Kafka at {self._settings.bootstrap_servers} does not answer for topic {topic}",
                        why=error.args[0].str() if isinstance(error, KafkaException) else "it takes too long",
                        fix="`clickwell up` starts a local broker; `clickwell topics` creates missing topics",
                    ) from None
            time.sleep(0.1)


def _log_record(message: Message) -> LogRecord:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    said: list[tuple[str, Any]] = message.headers() or []  # type: ignore[assignment]  # its stubs know more forms
    headers = {name: value or b"" for name, value in said}
    key, value = message.key(), message.value()
    return LogRecord(partition, offset, message.timestamp()[1], _bytes(key), _bytes(value), headers)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
