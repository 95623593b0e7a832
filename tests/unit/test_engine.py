"""The engine case by case, without servers: which chunks it takes, and what makes it begin again."""

import asyncio
from collections import Counter
from types import SimpleNamespace

import pytest

from clickwell.clock import MS_PER_HOUR
from clickwell.errors import TopicRecreatedError
from clickwell.schemas.decode import Decoder
from clickwell.schemas.keys import SHARDS
from clickwell.settings import PopularitySettings
from clickwell.stream_processors import engine as engine_module
from clickwell.stream_processors.engine import IDLE_BUCKETS, Engine
from clickwell.stream_processors.ledger import Call
from clickwell.stream_processors.part import IMPATIENCE, NOWHERE, Part
from clickwell.stream_processors.popularity import PopularityLane
from clickwell.testing import FakeClock, FakeRecord, LedgerState, MemoryLedger, VirtualLoop, event

TP = ("interactions.v1", 0)


class OtherLane(PopularityLane):
    """A second lane, which counts the same and has offsets of its own."""

    name = "other"


LANE = PopularityLane(PopularitySettings())
LANES = [LANE, OtherLane(PopularitySettings())]
FIELD = "popularity/id/0"


class Bench:
    """An engine with one partition, and everything around it in the test's hands.

    Attributes:
        log: every record that exists, by offset.
        end: the log's end.
        asked: offsets that the consumer was moved to.
        delays: seconds that the next answers of the ledger take.
        load_seconds: those that the next reloads take.
    """

    def __init__(self):
        self.clock = FakeClock()
        self.ledger = SlowLedger()
        self.log, self.end, self.asked, self.letters, self.fatal = {}, 0, [], [], []
        self.load_error, self.load_seconds = None, []
        self.engine = Engine(
            LANES,
            self.ledger,
            self,
            SimpleNamespace(send=self.send),
            self.seek,
            self.fatal.append,
            dedup_ms=MS_PER_HOUR,
            idle_seconds=2.0,
        )

    @property
    def part(self):
        return self.engine.parts[TP]

    async def load(self, topic, partition):
        part = Part(topic, partition, "g", "id")
        await asyncio.sleep(self.load_seconds.pop(0) if self.load_seconds else 0.01)
        if self.load_error:
            raise self.load_error
        for lane in LANES:
            field = part.field_of(lane.name)
            stored = await self.ledger.load("g", field)
            await self.ledger.open("g", field, [n for n, at in enumerate(stored) if at is None], 0)
            part.done[lane.name] = await self.ledger.load("g", field)
        return part

    async def first_record(self, _topic, _partition, offset):
        return min((at for at in self.log if at >= offset), default=self.end)

    async def seek(self, positions):
        self.asked.append(positions[TP])

    async def send(self, _source, bad):
        await asyncio.sleep(0.01)
        self.letters += [record.offset for record, _ in bad]
        return len(bad)

    def write(self, *offsets, value=None):
        """Add records of one click each."""
        for offset in offsets:
            self.log[offset] = FakeRecord(offset, self.clock.now_ms(), value or event(f"d{offset % 7}"))
            self.end = max(self.end, offset + 1)

    async def feed(self, *offsets):
        await self.engine.feed(TP, [self.log[offset] for offset in offsets])

    async def assign(self):
        return await self.engine.assign([TP])

    async def tick(self):
        await self.engine.tick(lambda _tp: self.end)

    def counted(self):
        """How often each document was counted, by every lane."""
        counts = {lane.name: Counter() for lane in LANES}
        for (_, lane, document, _, _), count in self.ledger.state.counts.items():
            counts[lane][document] += count
        assert counts["popularity"] == counts["other"]
        return counts["popularity"]

    def clicks(self, *offsets):
        return Counter(f"d{offset % 7}" for offset in offsets)

    def offsets(self):
        return [self.ledger.state.offsets["g", shard, FIELD] for shard in range(SHARDS)]


class SlowLedger(MemoryLedger):
    def __init__(self):
        super().__init__()
        self.delays, self.lost_replies, self.calls = [], 0, []

    async def _send(self, generation, calls):
        self.calls.append([(call.shard, call.expected, call.next, call.bucket) for call in calls])
        delay = self.delays.pop(0) if self.delays else 0.001
        replies = await super()._send(generation, calls)
        await asyncio.sleep(delay)
        if self.lost_replies:
            self.lost_replies -= 1
            raise ConnectionError("reply lost")
        return replies


@pytest.fixture
def bench(monkeypatch):
    """A function that runs a test's steps on an engine, in virtual time."""

    def run(steps):
        loop = VirtualLoop()

        async def main():
            here = Bench()
            clocks = SimpleNamespace(monotonic=loop.time, time_ns=lambda: here.clock.now_ms() * 1_000_000)
            monkeypatch.setattr(engine_module, "time", clocks)
            await steps(here)
            await here.engine.settle()

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    return run


def test_each_record_counts_once_however_chunks_come(bench):
    """Old chunks are dropped, overlapping ones trimmed, whatever the consumer repeats."""

    async def steps(here):
        here.write(*range(10))
        assert await here.assign() == {TP: 0}
        for chunk in [(0, 1, 2), (0, 1, 2), (1, 2, 3, 4), (4,), (3, 4, 5, 6, 7, 8, 9)]:
            await here.feed(*chunk)
        await here.engine.settle()
        assert here.counted() == here.clicks(*range(10))
        assert here.engine.stats.rewinds == 1
        assert here.engine.stats.counted == {"popularity": 10, "other": 10}

    bench(steps)


def test_a_gap_is_fetched_again(bench):
    """A chunk beyond the position is refused, and the consumer is sent back to where the stored offsets stand."""

    async def steps(here):
        here.write(*range(9))
        await here.assign()
        await here.feed(0, 1, 2)
        await here.feed(6, 7, 8)
        assert here.part.position == NOWHERE
        await asyncio.sleep(1)
        assert here.asked == [0, 3]
        # From before the seek, and then the same as before: only the log can say whether there is a hole.
        await here.feed(7, 8)
        assert here.part.position == 3
        await here.feed(6, 7, 8)
        await asyncio.sleep(1)
        assert here.asked == [0, 3, 3]
        await here.feed(3, 4, 5)
        await here.feed(6, 7, 8)
        await here.engine.settle()
        assert here.counted() == here.clicks(*range(9))

    bench(steps)


def test_nothing_slips_in_while_offsets_are_reloaded(bench):
    """A queued chunk that still fits must not be taken between the start of a rewind and its end."""

    async def steps(here):
        here.write(*range(6))
        await here.assign()
        await here.feed(0, 1, 2)
        await here.engine.settle()
        # The server loses everything; a rewind begins, and the next chunk is already there.
        here.ledger.state = LedgerState()
        here.engine.fail(TP, ConnectionError())
        await here.feed(3, 4, 5)
        await asyncio.sleep(1)
        await here.feed(3, 4, 5)
        assert here.part.position == 0
        for _ in range(2):
            await here.feed(0, 1, 2)
            await here.feed(3, 4, 5)
        await here.engine.settle()
        assert here.counted() == here.clicks(*range(6))

    bench(steps)


def test_a_reload_that_was_overtaken_changes_nothing(bench):
    """It may be of an earlier generation, which did not know of erasures that the present one leaves out everywhere."""

    async def steps(here):
        here.write(0)
        await here.assign()
        here.load_seconds = [1.0, 0.1]
        here.engine.fail(TP, ConnectionError())
        await asyncio.sleep(0)
        here.engine.fail(TP, ConnectionError())
        await asyncio.sleep(0.5)
        stands = here.part.generation, here.part.topic_id, here.part.done, here.part.erased
        assert here.part.position == 0
        await asyncio.sleep(1)
        now = here.part.generation, here.part.topic_id, here.part.done, here.part.erased
        assert all(a is b for a, b in zip(stands, now, strict=True))

    bench(steps)


def test_ahead_is_not_already_applied(bench):
    """Another worker went further: what is decoded against the old offsets must not count on top of the new ones."""

    async def steps(here):
        here.write(*range(9))
        await here.assign()
        here.ledger.delays = [1.0]
        await here.feed(0, 1, 2)
        # The call is on its way; meanwhile somebody else applies up to 6, and the next chunk waits, decoded.
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(here.feed(3, 4, 5, 6, 7, 8))
        await asyncio.sleep(0.1)
        other = Bench()
        other.ledger.state, other.log, other.end = here.ledger.state, here.log, 9
        await other.assign()
        await other.feed(0, 1, 2)
        await other.feed(3, 4, 5)
        await other.engine.settle()
        await waiting
        await asyncio.sleep(2)
        assert here.part.position < 9, "its records up to 6 are counted twice now"
        await here.feed(*range(here.part.position, 9))
        await here.engine.settle()
        assert here.counted() == here.clicks(*range(9))

    bench(steps)


def test_a_lost_reply_counts_nothing_twice(bench):
    """All was applied, the reply was lost: the reload finds it applied and goes on behind it."""

    async def steps(here):
        here.write(*range(6))
        await here.assign()
        here.ledger.lost_replies = 1
        await here.feed(0, 1, 2)
        await asyncio.sleep(1)
        await here.feed(0, 1, 2)
        await here.feed(3, 4, 5)
        await here.engine.settle()
        assert here.counted() == here.clicks(*range(6))
        assert here.engine.stats.rewinds == 2

    bench(steps)


def test_shards_ahead_of_others_are_filtered(bench):
    """After a crash between two shards, records of those that were applied are skipped and the others' count."""

    async def steps(here):
        here.write(*range(7))
        await here.assign()
        work = LANE.begin(*TP)
        LANE.add(work, Decoder().decode([here.log[n] for n in range(7)]), None)
        half = list(work.shards)[::2]
        for shard in half:
            here.ledger.answer("g", Call(LANE.function, FIELD, shard, 0, 7, 1, LANE.arguments(work.shards[shard])))
        await here.assign()
        assert here.part.position == 0
        await here.feed(*range(7))
        await here.engine.settle()
        assert here.counted() == here.clicks(*range(7))
        assert here.engine.stats.counted == {"popularity": 7 - len(half), "other": 7}

    bench(steps)


@pytest.mark.parametrize("at", ["between chunks", "at the start", "at the end"])
def test_a_hole_in_the_log_is_passed(bench, at):
    """Transactions leave offsets without records: wherever they lie, the partition goes on and has no lag."""

    async def steps(here):
        here.write(*{"between chunks": (0, 1, 5), "at the start": (3, 4, 5), "at the end": (0, 1, 2)}[at])
        here.end = 6
        await here.assign()
        for _ in range(20):
            for offset in here.log:
                if offset >= (here.asked[-1] if here.asked else 0):
                    await here.feed(offset)
            await asyncio.sleep(1)
            await here.tick()
        await here.engine.settle()
        assert here.counted() == here.clicks(*here.log)
        assert here.offsets() == [6] * SHARDS
        settled = here.engine.stats.rewinds
        for _ in range(20):
            await asyncio.sleep(1)
            await here.tick()
        assert here.engine.stats.rewinds == settled

    bench(steps)


def test_a_lost_last_chunk_is_fetched_again(bench):
    """No later chunk shows the gap, but the log's end does."""

    async def steps(here):
        here.write(*range(6))
        await here.assign()
        await here.feed(0, 1, 2)
        for _ in range(4):
            await asyncio.sleep(IMPATIENCE / 2)
            await here.tick()
        assert here.asked[-1] == 3

    bench(steps)


def test_idle_shards_move_along(bench):
    """The timer brings shards without records to the position, so that a restart need not read all again."""

    async def steps(here):
        here.write(0, 7)
        await here.assign()
        here.part.all_at = engine_module.time.monotonic()
        await here.feed(0, 7)
        await here.engine.settle()
        assert min(here.offsets()) == 0
        await here.tick()
        await here.engine.settle()
        assert here.offsets() == [8] * SHARDS

    bench(steps)


def test_an_idle_partition_does_not_hold_ids(bench):
    """With nothing to read, dedup buckets are passed by the clock, a day behind; with lag they stay."""

    async def steps(here):
        here.write(0)
        await here.assign()
        await here.feed(0)
        await here.engine.settle()
        here.clock.advance(100 * MS_PER_HOUR)
        await here.tick()
        await here.engine.settle()
        passed = here.clock.now_ms() // MS_PER_HOUR - IDLE_BUCKETS
        assert {bucket for *_, bucket in here.ledger.calls[-1]} == {passed}
        here.end += 1
        await here.tick()
        await here.engine.settle()
        assert {bucket for *_, bucket in here.ledger.calls[-1]} == {0}

    bench(steps)


def test_a_lost_ledger_is_noticed_without_traffic(bench):
    """An emptied server is found by the timer, and everything is read again."""

    async def steps(here):
        here.write(0, 1)
        await here.assign()
        await here.feed(0, 1)
        await here.engine.settle()
        here.ledger.state = LedgerState()
        await here.tick()
        await asyncio.sleep(1)
        assert here.asked[-1] == 0

    bench(steps)


def test_a_chunk_across_a_dedup_border_is_applied_in_two(bench):
    """Each call carries the ids of one bucket; repeats in the neighbouring one are found all the same."""

    async def steps(here):
        for offset in range(4):
            here.write(offset, value=event("d", interaction_id=f"{offset % 2}"))
            here.clock.advance(MS_PER_HOUR // 2 * (offset == 1) + 1)
        here.clock.at_ms += MS_PER_HOUR
        await here.assign()
        first = here.log[0].timestamp
        here.log = {n: FakeRecord(n, first + MS_PER_HOUR * (n > 1), here.log[n].value) for n in here.log}
        await here.feed(0, 1, 2, 3)
        await here.engine.settle()
        assert here.counted() == Counter(d=2)
        assert here.engine.stats.duplicates["popularity"] == 2
        buckets = {bucket for calls in here.ledger.calls for *_, bucket in calls}
        assert buckets == {first // MS_PER_HOUR, first // MS_PER_HOUR + 1}

    bench(steps)


def test_bad_records_are_written_before_their_chunk_counts(bench):
    """Dead letters first; a chunk of bad records only still moves the offsets."""

    async def steps(here):
        here.write(0, 2)
        here.write(1, 3, 4, value=b"{")
        await here.assign()
        await here.feed(0, 1, 2)
        await here.feed(3, 4)
        await here.engine.settle()
        assert here.letters == [1, 3, 4]
        assert here.engine.stats.dead_letters == 3
        assert here.part.position == 5
        assert here.counted() == here.clicks(0, 2)

    bench(steps)


def test_a_dead_letter_that_cannot_be_written_holds_the_chunk(bench):
    """Without the letter nothing of the chunk counts; when the broker is back, all of it does."""

    async def steps(here):
        here.write(0, 2)
        here.write(1, value=b"{")
        await here.assign()
        sent, here.engine._dead_letters.send = here.engine._dead_letters.send, None
        await here.feed(0, 1, 2)
        assert here.part.position == NOWHERE
        assert here.counted() == Counter()
        here.engine._dead_letters.send = sent
        await asyncio.sleep(1)
        await here.feed(0, 1, 2)
        await here.engine.settle()
        assert here.letters == [1]
        assert here.counted() == here.clicks(0, 2)

    bench(steps)


def test_an_unreachable_redis_does_not_hold_a_rebalance(bench):
    """Faust waits for the assignment: it gets an answer soon, and the partition begins when Redis is back."""

    async def steps(here):
        here.write(0)
        here.load_error = ConnectionError("away")
        started = asyncio.get_running_loop().time()
        assert await here.assign() == {}
        assert asyncio.get_running_loop().time() - started <= IMPATIENCE + 0.1
        await here.feed(0)
        assert here.counted() == Counter()
        here.load_error = None
        await asyncio.sleep(3)
        await here.feed(0)
        await here.engine.settle()
        assert here.counted() == here.clicks(0)

    bench(steps)


def test_a_recreated_topic_ends_the_worker(bench):
    """No retry can mend that, so none is made."""

    async def steps(here):
        here.load_error = TopicRecreatedError("gone")
        await here.assign()
        assert here.fatal == [here.load_error]
        assert here.part.position == NOWHERE

    bench(steps)


def test_partitions_that_went_away_are_left_alone(bench):
    """Chunks, failures and calls of a partition that belongs to somebody else now have no effect."""

    async def steps(here):
        here.write(0, 1)
        await here.assign()
        here.ledger.delays = [1.0]
        await here.feed(0)
        assert await here.engine.assign([]) == {}
        await here.feed(1)
        here.engine.fail(TP, ConnectionError())
        await asyncio.sleep(2)
        assert here.engine.parts == {}
        assert here.counted() == here.clicks(0)

    bench(steps)
