"""The emitters against a real broker."""

import asyncio
import threading
from collections import defaultdict

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from clickwell.errors import DecodeError
from clickwell.producers.aio import AsyncEmitter
from clickwell.producers.deliveries import Delivery
from clickwell.producers.emitter import Emitter
from clickwell.producers.topics import end_offsets, ensure_topics
from clickwell.schemas.keys import murmur2
from clickwell.schemas.topics import INTERACTIONS, SEARCHES, Topic
from clickwell.schemas.wire import new_id
from clickwell.settings import Settings

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def settings(kafka):
    settings = Settings(kafka={"bootstrap_servers": kafka})
    ensure_topics(settings)
    return settings


def read_back(settings, topic, since):
    """All messages of a topic from the given end offsets on, in log order within a partition."""
    ends = end_offsets(settings, [topic])[topic]
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": new_id()})
    consumer.assign([TopicPartition(topic, number, since.get(number, 0)) for number in ends])
    left = sum(end - since.get(number, 0) for number, end in ends.items())
    messages = []
    while len(messages) < left:
        messages += consumer.consume(min(1000, left - len(messages)), timeout=10)
    consumer.close()
    return messages


def test_an_event_arrives_as_the_contract_says(settings):
    """Key, partition, CloudEvents headers and receipt time of a record are what other clients rely on."""
    since = end_offsets(settings, [INTERACTIONS.name])[INTERACTIONS.name]
    told: list[Delivery] = []
    with Emitter(settings, source="shop-front") as emitter:
        event_id = emitter.emit({"feature_id": "dök-1", "interaction_type": ["click"]}, on_delivery=told.append)
        assert emitter.flush(20) == 0
    (message,) = read_back(settings, INTERACTIONS.name, since)
    assert message.key() == "dök-1".encode()
    assert message.partition() == murmur2("dök-1".encode()) % settings.kafka.partitions
    assert dict(message.headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": event_id.encode(),
        "ce_type": b"clickwell.interaction.v1",
        "ce_source": b"shop-front",
        "content-type": b"application/json",
    }
    assert message.timestamp()[0] == 2  # LogAppendTime
    assert told == [Delivery(event_id, "acked", message.partition(), message.offset())]


def test_many_threads_share_one_emitter(settings):
    """Nothing is lost or doubled, everything is counted, and each thread's events of a document keep their order."""
    since = end_offsets(settings, [INTERACTIONS.name])[INTERACTIONS.name]
    with Emitter(settings) as emitter:

        def emit(thread):
            for n in range(500):
                emitter.emit(
                    {"interaction_id": f"{thread}-{n}", "feature_id": f"d{n % 7}", "interaction_type": ["click"]}
                )

        threads = [threading.Thread(target=emit, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        emitter.emit_search({"execution_id": "e1"})
        assert emitter.flush(20) == 0
        counts = emitter.stats["interaction"]
        assert (counts.accepted, counts.acked, counts.failed, counts.spooled) == (2000, 2000, 0, 0)
        assert emitter.stats["search"].acked == 1
    orders = defaultdict(list)
    for message in read_back(settings, INTERACTIONS.name, since):
        thread, number = dict(message.headers())["ce_id"].decode().split("-")
        orders[thread, message.key()].append(int(number))
    assert sum(map(len, orders.values())) == 2000
    assert all(numbers == sorted(set(numbers)) for numbers in orders.values())


def test_the_async_emitter_answers_after_the_ack(settings):
    """With `wait` the event is in the log when the coroutine returns; without, after a flush."""

    async def run():
        since = end_offsets(settings, [INTERACTIONS.name])[INTERACTIONS.name]
        async with AsyncEmitter(settings) as emitter:
            with pytest.raises(DecodeError):
                await emitter.emit({"feature_id": ""})
            waited = await emitter.emit({"feature_id": "a", "interaction_type": ["click"]}, wait=True)
            assert emitter.stats["interaction"].acked == 1
            found = {dict(m.headers())["ce_id"].decode() for m in read_back(settings, INTERACTIONS.name, since)}
            assert found == {waited}
            event = {"feature_id": "a", "interaction_type": ["click"]}
            ids = await emitter.emit_many([event] * 100, wait=True)
            ids += await emitter.emit_many([event] * 100)
            await emitter.emit_search({"execution_id": "e2", "results": ["a"]})
            assert await emitter.flush() == 0
            assert len(set(ids)) == 200
            assert emitter.stats["interaction"].acked == 201
            assert emitter.pending == 0

    asyncio.run(run())


def test_a_full_buffer_does_not_block_the_event_loop(settings):
    """While one coroutine waits for room, others run; with room again the event is taken."""

    async def run():
        small = settings.model_copy(
            update={"emitter": settings.emitter.model_copy(update={"buffer_events": 1, "block_seconds": 30.0})}
        )
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async with AsyncEmitter(small) as emitter:
            ticking = asyncio.create_task(tick())
            await emitter.emit_many([{"feature_id": "a", "interaction_type": ["click"]}] * 5)
            ticking.cancel()
            assert await emitter.flush() == 0
        assert ticks > 5

    asyncio.run(run())


def test_topics_are_made_once_and_stamped_by_the_broker(settings):
    """Missing topics are created as the settings say; one that keeps the clients' times is changed, once."""
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    new, old = Topic(f"new.{new_id()}.v1", "id"), Topic(f"old.{new_id()}.v1", "id")
    create = NewTopic(old.name, num_partitions=2, config={"message.timestamp.type": "CreateTime"})
    admin.create_topics([create])[old.name].result()
    assert ensure_topics(settings, [new, old, SEARCHES]) == {
        new.name: "created",
        old.name: "altered",
        SEARCHES.name: "exists",
    }
    assert set(ensure_topics(settings, [new, old]).values()) == {"exists"}
    resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in (new, old)]
    for resource, future in admin.describe_configs(resources).items():
        config = future.result()
        assert config["message.timestamp.type"].value == "LogAppendTime"
        if resource.name == new.name:
            assert config["retention.ms"].value == str(10 * 86_400_000)
    assert len(admin.list_topics(timeout=10).topics[new.name].partitions) == settings.kafka.partitions
    admin.delete_topics([new.name, old.name])
