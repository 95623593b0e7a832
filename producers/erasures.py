"""Hands over a request to forget; the broker has it when the call returns."""

from confluent_kafka import KafkaError as KafkaCode
from confluent_kafka import KafkaException, Message, Producer

from clickwell.errors import KafkaError
from clickwell.kafka import librdkafka_config
from clickwell.producers.records import erasure_record
from clickwell.schemas.erasure import Erasure
from clickwell.schemas.topics import ERASURES
from clickwell.schemas.wire import headers
from clickwell.settings import Settings

ACK_SECONDS = 30.0


def request_erasure(settings: Settings, erasure: Erasure, source: str = "clickwell") -> None:
    """Write a request into the erasures topic; sent twice under one id it is carried out once.

    Raises:
        KafkaError: the broker did not acknowledge it.
    """
    failures: list[str] = []

    def delivered(error: KafkaCode | None, _message: Message) -> None:
        if error is not None:
            failures.append(error.str())

    config = {**librdkafka_config(settings.kafka), "enable.idempotence": True, "linger.ms": 0, "log_level": 0}
    producer = Producer({**config, "delivery.timeout.ms": int(ACK_SECONDS * 1000)})
    record = erasure_record(erasure)
    try:
        producer.produce(
            ERASURES.name,
            record.value,
            record.key,
            headers=headers(record.kind, record.id, source),  # type: ignore[arg-type]  # its stub knows str only
            on_delivery=delivered,
        )
    except KafkaException as error:
        failures.append(str(error))
    if producer.flush(ACK_SECONDS + 5) or failures:
        raise KafkaError(
            "the request was not acknowledged", why="; ".join(failures), fix="send it again; it counts once"
        )
