"""The engine under every fault at once: after it is over, the counts are those of the log, whatever happened.

Everything around the engine is simulated: a log that grows and has holes, consumers that drop, repeat, reorder and
delay, servers that fail before, during and after a call, a ledger that is rolled back or emptied, two workers that both
believe a partition is theirs, and people who are erased meanwhile. Time is virtual, so that a run of minutes takes
milliseconds, and it follows from a seed.
"""

import asyncio
import json
import random
from collections import Counter
from types import SimpleNamespace

import msgspec
import pytest

from clickwell.clock import MS_PER_HOUR
from clickwell.erasures import Batch, mark
from clickwell.schemas.controls import PREFIX, Fence, Retraction
from clickwell.schemas.erased import Erased
from clickwell.schemas.erasure import Erasure
from clickwell.schemas.interactions import MAX_AHEAD_MS
from clickwell.schemas.marks import Keys
from clickwell.schemas.rings import Generation, Layout
from clickwell.settings import PopularitySettings
from clickwell.stream_processors import engine as engine_module
from clickwell.stream_processors import resume as resume_module
from clickwell.stream_processors.engine import Engine
from clickwell.stream_processors.ledger import read_reply
from clickwell.stream_processors.part import NOWHERE
from clickwell.stream_processors.popularity import PopularityLane
from clickwell.stream_processors.resume import Resume
from clickwell.testing import FakeClock, FakeRecord, LedgerState, MemoryLedger, VirtualLoop, event


class BroadLane(PopularityLane):
    """A second lane: other signals, and all documents in the next shard, so that the lanes touch different shards."""

    name = "broad"

    def finish(self, work):
        super().finish(work)
        work.shards = {(shard + 1) % 64: share for shard, share in work.shards.items()}

    def add(self, work, batch, done):
        super().add(work, batch, done and done[1:] + done[:1])

    def take_back(self, work, offset, retraction, done):
        super().take_back(work, offset, retraction, done and done[1:] + done[:1])


SETTINGS = PopularitySettings()
BROAD = PopularitySettings(signals=("skip", "view", "click"))
LANES = [PopularityLane(SETTINGS), BroadLane(BROAD)]
LAYOUT = Layout.of(SETTINGS)
TOPIC = "interactions.v1"
KEYS = Keys({"k1": b"0123456789abcdef"})
PARTITIONS = 2
TYPES = [("click",), ("click", "purchase"), ("skip",), ("add_to_cart",), ("view", "click")]
# Drawn for each seed, so that some runs see one kind of fault only and others see all.
FAULTS = {
    "apply_before": 0.1,  # the call never arrives
    "apply_within": 0.1,  # some shards are applied, then the connection breaks
    "apply_after": 0.15,  # all is applied, the reply is lost
    "load": 0.1,
    "kafka": 0.05,
    "seek": 0.1,
    "drop": 0.1,  # the agent loses a chunk
    "repeat": 0.1,
    "reorder": 0.1,
    "stale": 0.1,  # a chunk comes again, much later
    "agent": 0.05,
    "dead_letter": 0.1,
    "rollback": 0.3,
    "flush": 0.15,
    "rebalance": 0.4,
    "zombie": 0.5,  # at a rebalance, the one who loses a partition does not hear of it
}


def is_control(record):
    return record.value is not None and record.value.startswith(PREFIX)


class BrokenError(Exception):
    """A fault of the simulation."""


class World:
    """All that is shared by the workers: the log, the ledger's server, the broker's clock, chance."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        on = self.chance.random() ** 0.5
        self.faults = {name: rate for name, rate in FAULTS.items() if self.chance.random() < on}
        self.clock = FakeClock()
        self.log = [[] for _ in range(PARTITIONS)]
        self.ends = [0] * PARTITIONS
        self.dead_letters = set()
        self.ledger = FaultyLedger(self)
        self.snapshots = [(LedgerState(), None)]
        self.generation = None
        self.named = 0
        self.erasures = []

    def strikes(self, fault):
        return fault in self.faults and self.chance.random() < self.faults[fault]

    async def pause(self, often=0.5):
        """Let the others go on, sometimes for long."""
        if self.chance.random() < often:
            await asyncio.sleep(self.chance.choice([0, 0, 0, 0.001, 0.01, 0.1, 1.0]))

    async def network(self, fault):
        """Be asked something over a network."""
        await self.pause()
        if self.strikes(fault):
            await self.pause()
            raise BrokenError(fault)

    def write(self):
        """Append some records to a partition, some of them bad, repeated or late; now and then leave a hole."""
        partition = self.chance.randrange(PARTITIONS)
        log = self.log[partition]
        for _ in range(self.chance.randint(1, 12)):
            self.clock.advance(self.chance.choice([1, 1, 50, 1000, MS_PER_HOUR // 8]))
            # Holes as transactions leave them: also right before what comes next, and at the end.
            if self.chance.random() < 0.05:
                self.ends[partition] += self.chance.randint(1, 3)
            log.append(FakeRecord(self.ends[partition], self.clock.now_ms(), self.value(log, partition)))
            self.ends[partition] += 1
        if self.chance.random() < 0.1:
            self.ends[partition] += 1

    def value(self, log, partition):
        draw = self.chance.random()
        if draw < 0.03:
            return self.chance.choice([None, b"", b"{", b"[]", event("d", position=-1)])
        if draw < 0.13 and (events := [record.value for record in log[-20:] if not is_control(record)]):
            return self.chance.choice(events)
        fields = {}
        if self.chance.random() < 0.8:
            fields["interaction_id"] = f"{partition}-{self.chance.randrange(10**9)}"
        if self.chance.random() < 0.5:
            fields["user_id"] = f"u{self.chance.randrange(9)}"
        if "user_id" in fields or self.chance.random() < 0.9:
            back = self.chance.choice([0, 100, MS_PER_HOUR, 30 * MS_PER_HOUR, 190 * MS_PER_HOUR, 210 * MS_PER_HOUR])
            fields["timestamp"] = self.clock.now_ms() - back
        if self.chance.random() < 0.3:
            fields["metadata"] = {"duration_ms": self.chance.choice([0, 29_999, 30_000])}
        return event(f"d{self.chance.randrange(12)}", *self.chance.choice(TYPES), **fields)

    async def erase(self):
        """Fence some users in every partition, then take back what of theirs was counted, with pauses between."""
        now_ms, place = self.clock.now_ms(), len(self.erasures)
        users = self.chance.sample([f"u{n}" for n in range(9)], 2)
        subjects = tuple(mark(Erasure(erasure_id=user, user_id=user), now_ms, KEYS) for user in users)
        batch = Batch(f"b{place}", place, "fencing", subjects)
        self.erasures.append((batch, set(users), now_ms, {}))
        fences = self.erasures[-1][-1]
        for partition in self.chance.sample(range(PARTITIONS), PARTITIONS):
            await asyncio.sleep(self.chance.choice([0, 0.01, 0.5]))
            fences[partition] = self.append(partition, Fence(batch.name, subjects))
        for partition, record, content, _ in list(self.counted(but=batch.name)):
            if (batch.name, True) in self.erased_by(partition, record, content, content.get("timestamp")):
                self.append(partition, self.retraction(batch.name, record, content))
                await asyncio.sleep(self.chance.choice([0, 0, 0.01]))
        batch.step = "retracted"

    def append(self, partition, control):
        offset = self.ends[partition]
        self.log[partition].append(FakeRecord(offset, self.clock.now_ms(), msgspec.json.encode(control)))
        self.ends[partition] += 1
        return offset

    def retraction(self, batch, record, content):
        to_the_hour = [at // MS_PER_HOUR * MS_PER_HOUR for at in (record.timestamp, content["timestamp"])]
        types, duration = tuple(content["interaction_type"]), content.get("metadata", {}).get("duration_ms")
        return Retraction(batch, record.offset, *to_the_hour, content["feature_id"], types, duration)

    def erased_by(self, partition, record, content, at):
        """Yield the batches that take an event, and whether it lies before their fence."""
        for batch, users, now_ms, fences in self.erasures:
            if content.get("user_id") in users and at < now_ms:
                yield batch.name, record.offset < fences.get(partition, record.offset + 1)

    def erased(self, _topic, _topic_id, partition, position, known):
        """Return the erasures in force at a position, as the erasures topic tells them."""
        erased = Erased(lambda: KEYS, {batch.name for batch, *_ in self.erasures if known(batch)})
        for batch, _, _, fences in self.erasures:
            if partition in fences and (fences[partition] < position or batch.step == "retracted"):
                erased.fence(batch.name, batch.subjects, fences[partition])
            elif known(batch):
                erased.fence(batch.name, batch.subjects, -1)
        return erased

    def steps_end(self):
        return len(self.erasures)

    def records(self, partition, offset, most):
        return [record for record in self.log[partition] if record.offset >= offset][:most]

    def recount(self):
        """What the log says, and which records are bad."""
        counts, bad = Counter(), set()
        for *_, cells in self.counted(bad=bad):
            counts.update(cells)
        return counts, bad

    def counted(self, bad=None, but=None):  # noqa: C901  # one documented rule after the other
        """Yield the events that count, with their cells; `but` names a batch that has taken none yet."""
        bad, seen = set() if bad is None else bad, {}
        for partition, log in enumerate(self.log):
            for record in list(log):
                if is_control(record):
                    continue
                try:
                    content = json.loads(record.value)
                    types, at = set(content["interaction_type"]), content.get("timestamp", record.timestamp)
                    assert "position" not in content
                    assert at <= record.timestamp + MAX_AHEAD_MS
                except (TypeError, ValueError, AssertionError, KeyError):
                    bad.add((partition, record.offset))
                    continue
                if "click" in types and content.get("metadata", {}).get("duration_ms", 0) >= SETTINGS.long_view_ms:
                    types.add("long_view")
                taken = dict(self.erased_by(partition, record, content, at))
                if any(not (name == but and before) for name, before in taken.items()):
                    continue
                slot, document, cells = at // LAYOUT.slot_ms, content["feature_id"], []
                if slot < record.timestamp // LAYOUT.slot_ms - LAYOUT.window:
                    continue
                for lane in LANES:
                    signals = lane.layout.signals
                    if not types & set(signals):
                        continue
                    if "interaction_id" in content:
                        key = lane.name, content["interaction_id"], document
                        bucket = record.timestamp // SETTINGS.dedup_ms
                        if bucket - seen.get(key, -9) <= 1:
                            continue
                        seen[key] = bucket
                    cells += [(lane.name, document, signals.index(signal), slot) for signal in types & set(signals)]
                if cells:
                    yield partition, record, content, cells

    # What `Resume` asks of the broker, from a thread; and of Redis, beside the ledger.

    def describe(self, _topic):
        return "topic-id", PARTITIONS

    def at(self, _topic, _partition, _time_ms):
        return 0

    def earliest(self, _topic, _partition):
        return 0

    def latest(self, _topic, partitions):
        return {partition: self.ends[partition] for partition in partitions}

    def first_record(self, _topic, partition, offset):
        found = self.records(partition, offset, 1)
        return found[0].offset if found else self.ends[partition]

    async def target(self):
        await self.network("load")
        return self.generation, False

    async def begin(self, _targets, erasures):
        await self.network("load")
        if self.generation is None:
            self.named += 1
            self.generation = Generation(
                name=f"g{self.named}",
                layout=LAYOUT,
                half_life_hours=24,
                started_ms=self.clock.now_ms(),
                erasures=erasures,
            )
        return self.generation

    async def hkeys(self, _key):
        await self.network("load")
        return []

    async def to_thread(self, function, *arguments):
        await self.network("kafka")
        return function(*arguments)


class FaultyLedger(MemoryLedger):
    def __init__(self, world):
        super().__init__()
        self.world = world

    async def load(self, generation, field):
        await self.world.network("load")
        return await super().load(generation, field)

    async def open(self, generation, field, shards, start):
        await self.world.network("load")
        await super().open(generation, field, shards, start)

    async def _send(self, generation, calls):
        await self.world.network("apply_before")
        fails_at = self.world.chance.randrange(len(calls)) if calls and self.world.strikes("apply_within") else None
        replies = []
        for n, call in enumerate(calls):
            if n == fails_at:
                raise BrokenError("apply_within")
            replies.append(self.answer(generation, call))
            await self.world.pause(0.03)
        await self.world.network("apply_after")
        return replies

    def answer(self, generation, call):
        # An emptied server also forgets which generation it had.
        if self.world.generation is None:
            return read_reply(call, [b"LOST"])
        return super().answer(generation, call)


class Worker:
    """One engine with the consumer before it."""

    def __init__(self, world):
        self.world = world
        self.positions = {}
        self.queue = asyncio.Queue()
        self.late = []
        resume = Resume(world, world.ledger, world, world, LANES, world, dedup_ms=SETTINGS.dedup_ms)
        self.engine = Engine(
            LANES, world.ledger, resume, self, self.seek, self.fatal, dedup_ms=SETTINGS.dedup_ms, idle_seconds=2.0
        )

    def fatal(self, error):
        raise AssertionError(f"nothing here is fatal: {error!r}")

    async def send(self, source, bad):
        await self.world.network("dead_letter")
        self.world.dead_letters.update((source.partition, record.offset) for record, _ in bad)
        await self.world.network("dead_letter")
        return len(bad)

    async def seek(self, positions):
        await self.world.network("seek")
        for tp, offset in positions.items():
            if tp in self.positions:
                self.positions[tp] = offset
        await self.world.network("seek")

    async def assign(self, tps):
        """Be given partitions: the consumer starts anywhere until it is told better."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.positions = {tp: self.world.chance.randint(0, self.world.ends[tp[1]]) for tp in tps}
        self.positions.update(await self.engine.assign(tps))

    def end_of(self, tp):
        return self.world.ends[tp[1]] if self.world.chance.random() < 0.9 else 0

    async def fetch(self):
        chance = self.world.chance
        while True:
            fetched = False
            for tp in list(self.positions):
                if tp not in self.positions or self.queue.qsize() > 4:
                    continue
                records = self.world.records(tp[1], self.positions[tp], chance.randint(1, 15))
                if records:
                    fetched = True
                    self.positions[tp] = records[-1].offset + 1
                    self.queue.put_nowait((tp, records))
            await asyncio.sleep(chance.choice([0.001, 0.01, 0.05]) if fetched else 0.25)

    async def work(self):
        world = self.world
        while True:
            tp, records = await self.queue.get()
            if world.strikes("stale"):
                self.late.append((tp, records))
            if self.late and world.chance.random() < 0.1:
                self.queue.put_nowait(self.late.pop())
            if not self.queue.empty() and world.strikes("reorder"):
                self.queue.put_nowait((tp, records))
                continue
            for _ in range(1 + world.strikes("repeat")):
                if world.strikes("agent"):
                    self.engine.fail(tp, BrokenError("agent"))
                elif not world.strikes("drop"):
                    await self.engine.feed(tp, records)
                await world.pause(0.2)

    async def tick(self):
        """What the worker's timer does, with its switch to another generation."""
        while True:
            await asyncio.sleep(self.world.chance.uniform(0.5, 2.0))
            try:
                await self.engine.tick(self.end_of)
                generation, _ = await self.world.target()
            except BrokenError:
                continue
            parts = self.engine.parts.values()
            if generation is None or any(part.generation not in {generation.name, ""} for part in parts):
                self.engine.rewind_all("another generation")

    def caught_up(self):
        return all(
            part.position != NOWHERE and part.least >= self.world.ends[tp[1]] for tp, part in self.engine.parts.items()
        )


async def troubles(world, workers):
    """Let the log grow and things go wrong for a while."""
    erasing = None
    for _ in range(world.chance.randint(5, 25)):
        world.write()
        await asyncio.sleep(world.chance.choice([0, 0.01, 0.1, 0.5, 2.0, 6.0]))
        if world.chance.random() < 0.3:
            world.snapshots.append((world.ledger.state.copy(), world.generation))
        if world.strikes("rollback"):
            world.ledger.state, world.generation = world.chance.choice(world.snapshots[-3:])
            world.ledger.state = world.ledger.state.copy()
        if world.strikes("flush"):
            world.ledger.state, world.generation = LedgerState(), None
        if world.strikes("rebalance"):
            await rebalance(world, workers)
        if world.chance.random() < 0.15 and (erasing is None or erasing.done()):
            erasing = asyncio.create_task(world.erase())
    if erasing:
        await erasing


async def rebalance(world, workers):
    owned = [[], []]
    for partition in range(PARTITIONS):
        owned[world.chance.randrange(2)].append((TOPIC, partition))
    for worker, tps in zip(workers, owned, strict=True):
        if set(tps) - set(worker.positions) or not world.strikes("zombie"):
            await worker.assign(tps)


async def life(world):
    workers = [Worker(world), Worker(world)]
    running = [
        asyncio.create_task(task) for worker in workers for task in (worker.fetch(), worker.work(), worker.tick())
    ]
    await rebalance(world, workers)
    await troubles(world, workers)
    world.faults = {}
    for worker, tp in zip(workers, [(TOPIC, 0), (TOPIC, 1)], strict=True):
        await worker.assign([tp])
    healed_by = asyncio.get_running_loop().time() + 60
    while not all(worker.caught_up() for worker in workers):
        assert asyncio.get_running_loop().time() < healed_by, f"no progress: {[w.engine.parts for w in workers]}"
        await asyncio.sleep(0.5)
    rewinds = sum(worker.engine.stats.rewinds for worker in workers)
    # Long enough for whatever still is on its way, and for rewinds without end.
    await asyncio.sleep(30)
    settled = sum(worker.engine.stats.rewinds for worker in workers) - rewinds
    for task in running:
        if task.done():
            task.result()
        task.cancel()
    return settled


def simulate(seed, monkeypatch):
    world = World(seed)
    loop = VirtualLoop()
    monkeypatch.setattr(
        engine_module, "time", SimpleNamespace(monotonic=loop.time, time_ns=lambda: world.clock.now_ms() * 1_000_000)
    )
    monkeypatch.setattr(resume_module, "asyncio", SimpleNamespace(to_thread=world.to_thread))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        settled = runner.run(life(world))
    counts, bad = world.recount()
    written = Counter(
        {key[1:]: count for key, count in world.ledger.state.counts.items() if key[0] == world.generation.name}
    )
    return written, counts, world.dead_letters, bad, settled


@pytest.mark.parametrize("block", range(8))
def test_counts_equal_the_log_whatever_happened(block, monkeypatch):
    """Each seed is another history of faults; once they are over, no event is missing and none counts twice."""
    for seed in range(block * 25, block * 25 + 25):
        written, counts, dead, bad, settled = simulate(seed, monkeypatch)
        assert written == counts, f"seed {seed}: too many {written - counts}, missing {counts - written}"
        assert dead == bad, f"seed {seed}"
        assert settled <= 4, f"seed {seed}: still rewinds {settled} times in 30 s when nothing is wrong"
