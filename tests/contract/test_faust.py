"""What is assumed of Faust and aiokafka, on a real broker: a new pin of either has to pass this.

The engine trusts none of it for its counts; but if the order of calls were another, a worker would stand still or read
everything again after each rebalance.
"""

import asyncio
import time
from contextlib import asynccontextmanager
from importlib.metadata import version

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from clickwell.settings import KafkaSettings, Settings, WorkerSettings
from clickwell.stream_processors.chunks import PassThrough, build_app

pytestmark = pytest.mark.broker

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PATIENCE = 40.0


@pytest.fixture
def topic(kafka, request):
    """A new topic of two partitions."""
    name = f"contract-{request.node.name.replace('[', '-').strip(']')}-{time.time_ns()}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(20)
    return name


def produce(kafka, topic, values, partition=0, codec="none"):
    """Write records that are acknowledged when this returns."""
    # Batches of a few records, so that a fetch brings several; idempotent, so that a retry keeps their order.
    settings = {"compression.type": codec, "batch.num.messages": 7, "enable.idempotence": True}
    producer = Producer({"bootstrap.servers": kafka, **settings})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(20) == 0


def numbers(*span):
    return [b"%d" % n for n in range(*span)]


async def until(condition, what):
    """Wait for a condition."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, f"not within {PATIENCE:.0f} s: {what}"
        await asyncio.sleep(0.05)


async def quiet(reader):
    """Wait until nothing has come for a second."""
    seen = -1
    while len(reader.events) != seen:
        seen = len(reader.events)
        await asyncio.sleep(1)


class Reader:
    """An app as the worker builds it, whose agent notes what it gets.

    Attributes:
        events: what happened, in order: ("assign", partitions), ("assigned", partitions), ("chunk", it).
        positions: of each partition, what was taken without gaps, and where it begins when it is assigned.
        values: of each partition, the values that were taken.
        on_chunk: called by the agent with each chunk, before it is noted.
    """

    def __init__(self, kafka, topic, start=0):
        self.topic, self.events = topic, []
        self.positions, self.values = [start, start], [[], []]
        self.applied = {}
        self.app = build_app(
            Settings(
                kafka=KafkaSettings(bootstrap_servers=kafka, group=f"group-{topic}"),
                worker=WorkerSettings(chunk_records=4, session_timeout=6, heartbeat_interval=0.5, metadata_max_age=1),
            )
        )
        self.app.assign, self.app.applied_offset = self.assign, self.applied.get

        async def nothing(_chunk):
            pass

        self.on_chunk = nothing

        @self.app.agent(self.app.topic(topic, schema=PassThrough()), name="reader")
        async def reader(stream):
            async for chunk in stream:
                await self.on_chunk(chunk)
                self.events.append(("chunk", chunk))
                await self.take(chunk)

    async def assign(self, tps):
        self.events.append(("assign", sorted(partition for _, partition in tps)))
        positions = {tp: self.positions[tp[1]] for tp in tps}
        await self.app.seek(positions)
        # Time enough for records to flow too early.
        await asyncio.sleep(0.3)
        self.events.append(("assigned", sorted(partition for _, partition in tps)))
        return positions

    async def take(self, chunk):
        """As the engine does: drop what is old, seek back where something is missing."""
        position = self.positions[chunk.partition]
        if chunk.records[0].offset > position:
            await self.app.seek({(self.topic, chunk.partition): position})
            return
        new = [record for record in chunk.records if record.offset >= position]
        self.values[chunk.partition] += [record.value for record in new]
        self.positions[chunk.partition] = max(position, chunk.offset + 1)

    def chunks(self):
        """Every chunk that reached the agent, repeats too."""
        return [chunk for what, chunk in self.events if what == "chunk"]

    def delivered(self):
        """Every record of partition 0 that reached the agent, repeats too."""
        return [record for chunk in self.chunks() if chunk.partition == 0 for record in chunk.records]

    def assignments(self):
        return [partitions for what, partitions in self.events if what == "assigned"]


@asynccontextmanager
async def running(kafka, topic, **options):
    """A started reader, stopped at the end."""
    reader = Reader(kafka, topic, **options)
    reader.app.finalize()
    await reader.app.start()
    try:
        yield reader
    finally:
        await reader.app.stop()


def test_the_versions_are_those_that_were_tried():
    """Parts of both are overridden, so another version is another program."""
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka") == "0.14.0"


@pytest.mark.parametrize("codec", CODECS)
def test_chunks_carry_every_record_in_order(kafka, topic, codec):
    """A chunk is one message with consecutive records, bounded in size, in every codec that a producer may use."""
    values = [b"%d" % n * 20 for n in range(50)]
    produce(kafka, topic, values, codec=codec)
    produce(kafka, topic, [b"other"], partition=1, codec=codec)

    async def main():
        async with running(kafka, topic) as reader:
            await until(lambda: len(reader.values[0]) == 50 and reader.values[1], "all records")
            assert reader.values == [values, [b"other"]]
            now = time.time() * 1000
            for chunk in reader.chunks():
                assert 1 <= len(chunk.records) <= 4
                first = chunk.records[0].offset
                assert [record.offset for record in chunk.records] == [*range(first, first + len(chunk.records))]
                assert chunk.offset == chunk.records[-1].offset
                assert all(now - 120_000 < record.timestamp <= now + 1000 for record in chunk.records)

    asyncio.run(main())


def test_records_begin_where_the_assignment_says(kafka, topic):
    """Not at the group's offset, not at the log's start; and a partition without records is assigned as well."""
    produce(kafka, topic, numbers(20))

    async def main():
        async with running(kafka, topic, start=13) as reader:
            await until(lambda: len(reader.values[0]) == 7, "the last seven")
            assert reader.values[0] == numbers(13, 20)
            assert min(record.offset for record in reader.delivered()) == 13
            assert reader.events[0] == ("assign", [0, 1])

    asyncio.run(main())


def test_every_rebalance_asks_before_records_flow(kafka, topic):
    """When a second worker comes and when it goes, both are asked where to start, and nothing flows meanwhile."""

    async def main():
        async with running(kafka, topic) as first:
            await until(lambda: [0, 1] in first.assignments(), "the first assignment")
            produce(kafka, topic, numbers(8))
            produce(kafka, topic, numbers(8), partition=1)
            await until(lambda: list(map(len, first.values)) == [8, 8], "records of both")
            before = len(first.assignments())
            async with running(kafka, topic) as second:
                await until(lambda: second.assignments() and second.assignments()[-1], "a share for the second")
                await until(lambda: len(first.assignments()) > before, "another assignment of the first")
                await until(lambda: len(first.assignments()[-1]) == len(second.assignments()[-1]) == 1, "one each")
                (kept,), (given,) = first.assignments()[-1], second.assignments()[-1]
                assert kept != given
                await until(lambda: len(second.values[given]) == 8, "the second's records from its start")
            await until(lambda: first.assignments()[-1] == [0, 1], "both partitions again")
            for reader in (first, second):
                asked = [what for what, _ in reader.events]
                for n, what in enumerate(asked):
                    if what == "assign":
                        assert asked[n + 1] in {"assigned", "assign"}, "a chunk came while the assignment was asked for"

    asyncio.run(main())


def test_seek_moves_a_running_consumer(kafka, topic):
    """What was fetched from elsewhere is thrown away by the consumer, and partitions that are gone do not matter."""
    produce(kafka, topic, numbers(30))

    async def main():
        async with running(kafka, topic) as reader:
            await until(lambda: len(reader.values[0]) == 30, "all records")
            await quiet(reader)
            before = len(reader.delivered())
            await reader.app.seek({(topic, 0): 20, (topic, 77): 5, ("elsewhere", 0): 1})
            await until(lambda: len(reader.delivered()) == before + 10, "the last ten again")
            # Faust's own filter of what was read would have dropped them silently.
            await reader.app.seek({(topic, 0): 0})
            await until(lambda: len(reader.delivered()) == before + 40, "all of it again")
            again = [record.value for record in reader.delivered()[before:]]
            assert again == numbers(20, 30) + numbers(30)

    asyncio.run(main())


def test_chunks_of_an_earlier_generation_are_dropped(kafka, topic):
    """What was queued before a rebalance does not reach the agent after it."""
    produce(kafka, topic, numbers(40))

    async def main():
        async with running(kafka, topic) as reader:
            held, inside = asyncio.Event(), asyncio.Event()

            async def hold(_chunk):
                inside.set()
                await held.wait()

            reader.on_chunk = hold
            await inside.wait()
            # Now the buffer fills behind the agent: it holds eight chunks, and one more waits to be put in.
            (actor,) = reader.app.agents["reader"]._actors
            await until(actor.stream.channel.queue.full, "a full buffer")
            reader.app.consumer_generation_id += 1
            reader.positions[0] = 40
            held.set()
            produce(kafka, topic, [b"new"])
            await until(lambda: b"new" in reader.values[0], "what came after")
            assert len(reader.delivered()) < 20, "chunks of the earlier generation came through"

    asyncio.run(main())


def test_an_exception_in_the_agent_loses_its_chunk(kafka, topic):
    """Faust goes on behind it, after a while: nobody but the engine's own position would notice."""
    produce(kafka, topic, numbers(4))

    async def main():
        async with running(kafka, topic) as reader:
            failed = asyncio.Event()

            async def fail(_chunk):
                if not failed.is_set():
                    failed.set()
                    raise RuntimeError("as a bug would")

            reader.on_chunk = fail
            await failed.wait()
            produce(kafka, topic, numbers(4, 8))
            await until(reader.chunks, "the next chunk")
            assert reader.chunks()[0].records[0].offset == 4, "without the gap, the engine could not know"
            await until(lambda: reader.values[0] == numbers(8), "the lost ones, after a seek")

    asyncio.run(main())


def test_the_group_shows_what_was_applied(kafka, topic):
    """The committed offset is the engine's, which is all that lag displays can see; unknown ones commit nothing."""
    produce(kafka, topic, numbers(40))
    group = Consumer({"bootstrap.servers": kafka, "group.id": f"group-{topic}", "log_level": 0})

    def committed():
        found = group.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], timeout=10)
        return [tp.offset for tp in found]

    async def main():
        async with running(kafka, topic) as reader:
            await until(lambda: len(reader.values[0]) == 40, "all records")
            reader.applied[topic, 0] = 17
            await until(lambda: committed()[0] == 17, "the applied offset as the group's")
            assert committed()[1] < 0
            assert not any(reader.app.consumer._acked.values()), "lists of acknowledged chunks grow for ever"

    try:
        asyncio.run(main())
    finally:
        group.close()


def test_the_end_of_the_log_is_known(kafka, topic):
    """Where the log ends is read without asking the broker; 0 before it is known and for what is not assigned."""
    produce(kafka, topic, numbers(12))

    async def main():
        async with running(kafka, topic) as reader:
            await until(lambda: len(reader.values[0]) == 12, "all records")
            await until(lambda: reader.app.end_of((topic, 0)) == 12, "the log's end")
            assert reader.app.end_of((topic, 99)) == 0
            assert reader.app.end_of(("elsewhere", 0)) == 0

    asyncio.run(main())
