"""Makes the Kafka topics, and tells how far they reach."""

import time
from collections.abc import Iterable
from typing import Any, Literal

from confluent_kafka import KafkaError as Report
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not marked so in its stubs
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from clickwell.clock import MS_PER_DAY
from clickwell.errors import KafkaError
from clickwell.kafka import KafkaLog, librdkafka_config
from clickwell.producers.connection import MAX_RECORD_BYTES
from clickwell.schemas.topics import TOPICS, Topic
from clickwell.settings import KafkaSettings, Settings

# A broker that answers does so within milliseconds; one that starts takes a few seconds.
TIMEOUT_SECONDS = 10.0

# Receipt times are the broker's: dedup and rebuild go by them, and a client's clock must not decide about those.
_STAMP = ("message.timestamp.type", "LogAppendTime")

Outcome = Literal["created", "exists", "altered"]


def ensure_topics(settings: Settings, topics: Iterable[Topic] = TOPICS) -> dict[str, Outcome]:
    """Create the topics that are missing, let the broker stamp receipt times on all; return what was done to each.

    Partitions and retention of a topic that exists are left as they are.

    Raises:
        KafkaError: the broker is away, or refuses.
    """
    wanted = {topic.name: topic for topic in topics}
    admin = _admin(settings.kafka)
    try:
        present = admin.list_topics(timeout=TIMEOUT_SECONDS).topics.keys() & wanted.keys()
        outcome: dict[str, Outcome] = dict.fromkeys(present, "exists")
        missing = [_new_topic(wanted[name], settings.kafka) for name in wanted if name not in present]
        if missing:
            for name, future in admin.create_topics(missing, request_timeout=TIMEOUT_SECONDS).items():
                outcome[name] = "created" if _is_done(future) else "exists"
        for name in sorted(present):
            if wanted[name].keeps_events and _stamp(admin, name):
                outcome[name] = "altered"
    except KafkaException as error:
        raise _kafka_error(settings.kafka, error.args[0]) from None
    return {name: outcome[name] for name in wanted}


def end_offsets(settings: Settings, topics: Iterable[str]) -> dict[str, dict[int, int]]:
    """Return the next offset of each partition of each topic that holds or held events: what a reader must reach.

    Raises:
        KafkaError: the broker is away.
    """
    log = KafkaLog(settings.kafka)
    try:
        known = _admin(settings.kafka).list_topics(timeout=TIMEOUT_SECONDS).topics
    except KafkaException as error:
        raise _kafka_error(settings.kafka, error.args[0]) from None
    ends = {topic: log.latest(topic, known[topic].partitions) if topic in known else {} for topic in topics}
    return {topic: {number: end for number, end in found.items() if end} for topic, found in ends.items()}


def _admin(kafka: KafkaSettings) -> AdminClient:
    return AdminClient({**librdkafka_config(kafka), "log_level": 0})


def _new_topic(topic: Topic, kafka: KafkaSettings) -> NewTopic:
    config = {"cleanup.policy": "delete", "max.message.bytes": str(MAX_RECORD_BYTES)}
    if topic.keeps_events:
        config |= {"retention.ms": str(kafka.retention_days * MS_PER_DAY), _STAMP[0]: _STAMP[1]}
    return NewTopic(topic.name, num_partitions=kafka.partitions, replication_factor=kafka.replication, config=config)


def _is_done(creation: Any) -> bool:
    """Wait for a creation; False when another process was quicker."""
    try:
        creation.result()
    except KafkaException as error:
        if error.args[0].code() == Report.TOPIC_ALREADY_EXISTS:
            return False
        raise
    return True


def _stamp(admin: AdminClient, name: str) -> bool:
    """Make the broker stamp receipt times on a topic and wait until it does; False when it did already."""
    if _is_stamped(admin, name):
        return False
    change = ConfigEntry(*_STAMP, incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[change])
    admin.incremental_alter_configs([topic], request_timeout=TIMEOUT_SECONDS)[topic].result()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not _is_stamped(admin, name) and time.monotonic() < deadline:
        time.sleep(0.05)
    return True


def _is_stamped(admin: AdminClient, name: str) -> bool:
    key, value = _STAMP
    topic = ConfigResource(ResourceType.TOPIC, name)
    config = admin.describe_configs([topic], request_timeout=TIMEOUT_SECONDS)[topic].result()
    return bool(config[key].value == value)


def _kafka_error(kafka: KafkaSettings, report: Report) -> KafkaError:
    if report.code() in {Report._TRANSPORT, Report._TIMED_OUT, Report._ALL_BROKERS_DOWN, Report._RESOLVE}:  # noqa: SLF001  # librdkafka's own codes
        return KafkaError(
            f"Kafka at {kafka.bootstrap_servers} does not answer",
            why=report.str(),
            fix="`clickwell up` starts one here; CLICKWELL_KAFKA__BOOTSTRAP_SERVERS names another",
        )
    return KafkaError(f"Kafka at {kafka.bootstrap_servers} refuses: {report.str()}")
