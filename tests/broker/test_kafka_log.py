"""What a worker asks of the log besides its records, on a real broker."""

import time

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from clickwell.errors import KafkaError
from clickwell.kafka import KafkaLog
from clickwell.settings import KafkaSettings
from tests.processes import wait_for

pytestmark = pytest.mark.broker


@pytest.fixture
def topic(kafka):
    """A new topic of one partition."""
    name = f"log-{time.time_ns()}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    return name


def test_transactions_leave_holes_that_are_found(kafka, topic):
    """Markers take offsets but are no records: the next record is found behind them, else the log's end."""
    log = KafkaLog(KafkaSettings(bootstrap_servers=kafka))
    assert log.first_record(topic, 0, 0) == 0
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(20)
    for _ in range(2):
        producer.begin_transaction()
        producer.produce(topic, b"one")
        producer.produce(topic, b"two")
        producer.commit_transaction(20)
    # Two records and a marker, twice; the broker writes markers when it has already answered.
    wait_for(lambda: log.latest(topic, [0]) == {0: 6}, 20, "both markers")
    assert [log.first_record(topic, 0, offset) for offset in range(7)] == [0, 1, 3, 3, 4, 6, 6]


def test_what_retention_took_is_not_jumped_over(kafka, topic):
    """An offset before the log's start is an error: the loss has to be declared, not passed in silence."""
    log = KafkaLog(KafkaSettings(bootstrap_servers=kafka))
    producer = Producer({"bootstrap.servers": kafka})
    for _ in range(5):
        producer.produce(topic, b"x")
    assert producer.flush(20) == 0
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_records([TopicPartition(topic, 0, 3)])[TopicPartition(topic, 0)].result(20)
    assert log.earliest(topic, 0) == 3
    assert log.first_record(topic, 0, 3) == 3
    with pytest.raises(KafkaError, match="no record"):
        log.first_record(topic, 0, 1)
