"""The function in Redis, called through the ledger on a real server, against models that are plain dictionaries."""

import asyncio
import itertools
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import clickwell.serving
import clickwell.stream_processors
from clickwell.clock import MS_PER_HOUR
from clickwell.failpoints import Failpoints
from clickwell.schemas.keys import ledger_field, ledger_key, shard_prefix, trending_key
from clickwell.schemas.rings import slots_of
from clickwell.settings import PopularitySettings
from clickwell.stream_processors.ledger import Call, Ledger, Outcome
from clickwell.stream_processors.popularity import PopularityLane, ShardWork

pytestmark = pytest.mark.broker

SHARD = 7
FIELD = ledger_field("popularity", "topic-id", 0)
OTHER = ledger_field("popularity", "topic-id", 1)
SIGNALS = PopularitySettings().signals
LANE = PopularityLane(PopularitySettings())
LAYOUT = LANE.layout
HOURS = LAYOUT.slot_ms // MS_PER_HOUR
# Rings expire by the server's clock, so slots lie about the present one.
SLOT = LAYOUT.slot(time.time_ns() // 1_000_000)
FULL = 2**32 - 1

documents = st.sampled_from(["a", "b", "日本", "with space", "{s000}", "x" * 300])
gains = st.dictionaries(st.sampled_from(SIGNALS), st.sampled_from([1, 2, 300, 65_535]), min_size=1)
near = st.integers(SLOT - 20, SLOT + 2)
slots = near | near | st.integers(SLOT - 20, SLOT + 100) | st.sampled_from([SLOT + 10_000])
groups = st.dictionaries(slots, st.dictionaries(documents, gains, min_size=1, max_size=4), max_size=4)


class Shard:
    """One shard of a generation of its own on a shared server, seen by one worker."""

    generations = itertools.count()

    def __init__(self, runner, client, lane=LANE):
        self.generation = f"ring{time.time_ns()}{next(self.generations)}"
        self.run, self.client, self.lane = runner.run, client, lane
        self.ledger = Ledger(client, Failpoints())
        for field in (FIELD, OTHER):
            self.run(self.ledger.open(self.generation, field, [SHARD], 0))

    def apply(self, expected, following, work=None, bucket=1000, field=FIELD):
        call = Call(self.lane.function, field, SHARD, expected, following, bucket, self.lane.arguments(work))
        (reply,) = self.run(self.ledger.apply(self.generation, [call]))
        return reply

    def key(self, name):
        return shard_prefix(SHARD, self.generation) + name

    def stored(self, field=FIELD):
        return self.run(self.client.hget(ledger_key(SHARD, self.generation), field))

    def dump(self):
        """Everything that the shard has: each key's content and when it expires."""

        async def look():
            keys = [key async for key in self.client.scan_iter(match=self.key("*"), count=1000)]
            return {key: (await self.client.dump(key), await self.client.pexpiretime(key)) for key in keys}

        return self.run(look())

    def remembered(self):
        """The dedup buckets that are there."""

        async def look():
            found = [key async for key in self.client.scan_iter(match=self.key("d:popularity:*"), count=1000)]
            return sorted(int(key.rsplit(b":", 1)[1]) for key in found)

        return self.run(look())


@pytest.fixture(scope="module")
def shard(redis_server):
    """A function that makes an empty shard."""
    with asyncio.Runner() as runner:
        client = Redis.from_url(redis_server)
        runner.run(Ledger(client, Failpoints()).install())
        yield lambda lane=LANE: Shard(runner, client, lane)
        runner.run(client.aclose())


def work_of(groups, ids=()):
    """What one call carries, from {slot: {document: {signal: count}}}."""
    counts = {
        slot * HOURS: {
            document: sum(count << 16 * SIGNALS.index(signal) for signal, count in gain.items())
            for document, gain in each.items()
        }
        for slot, each in groups.items()
    }
    return ShardWork(ids=[b"%-8d" % id_ for id_ in ids], counts=counts)


def kept(model, document):
    """What a ring holds of all that was counted: the newest `cells` slots."""
    last = max(slot for of, _, slot in model if of == document)
    return {
        (signal, slot, min(count, FULL))
        for (of, signal, slot), count in model.items()
        if of == document and slot > last - LAYOUT.cells
    }, last


@settings(max_examples=150, deadline=None)
@given(st.lists(groups, min_size=1, max_size=8))
def test_rings_equal_the_model(shard, calls):
    """Whatever order slots come in, a ring holds the newest ones exactly and expires when the last has left."""
    here, model = shard(), Counter()
    for n, call in enumerate(calls):
        assert here.apply(n, n + 1, work_of(call)).outcome is Outcome.APPLIED
        for slot, each in call.items():
            for document, gain in each.items():
                model.update({(document, signal, slot): count for signal, count in gain.items()})
    for document in {document for document, _, _ in model}:
        expected, last = kept(model, document)
        value = here.run(here.client.get(here.key(f"c:{document}")))
        # Read one slot before the newest: from there on the window reaches to the last cell.
        assert set(slots_of(value, LAYOUT, (last - 1) * LAYOUT.slot_ms)) == expected
        assert here.run(here.client.pexpiretime(here.key(f"c:{document}"))) == LAYOUT.expires_ms(last)
    assert here.stored() == b"%d 1000" % len(calls)


@settings(max_examples=40, deadline=None)
@given(st.lists(groups, min_size=1, max_size=5), st.data())
def test_what_is_taken_back_leaves_no_trace(shard, calls, data):
    """Counting some groups and taking them back equals never having counted them, slot by slot."""
    here, model = shard(), Counter()
    taken = [data.draw(st.booleans()) for _ in calls]
    newest = {}
    for n, call in enumerate(calls):
        here.apply(n, n + 1, work_of(call))
        for slot, each in call.items():
            for document, gain in each.items():
                newest[document] = max(slot, newest.get(document, 0))
                if not taken[n]:
                    model.update({(document, signal, slot): count for signal, count in gain.items()})
    for n, call in enumerate(calls):
        if taken[n]:
            work = work_of(call)
            here.apply(len(calls) + n, len(calls) + n + 1, ShardWork(retracted=work.counts))
        else:
            here.apply(len(calls) + n, len(calls) + n + 1)
    for document, last in newest.items():
        value = here.run(here.client.get(here.key(f"c:{document}")))
        found = set(slots_of(value, LAYOUT, (last - 1) * LAYOUT.slot_ms)) if value else set()
        assert found == {
            (signal, slot, count)
            for (of, signal, slot), count in model.items()
            if of == document and slot > last - LAYOUT.cells
        }
    if all(taken):
        assert not [key for key in here.dump() if b":c:" in key]


def test_a_document_that_lost_all_leaves_the_trend(shard):
    """What was taken back weighs nothing any more; a document without gains is in no list."""
    here, click = shard(), {"click": 3}
    here.apply(0, 1, work_of({SLOT: {"a": click, "b": click}}))
    here.apply(1, 2, ShardWork(retracted=work_of({SLOT: {"a": click, "b": {"click": 1}}}).counts))
    (key,) = [key for key in here.dump() if b":t:" in key]
    scores = here.run(here.client.zrange(key, 0, -1, withscores=True))
    assert [name for name, _ in scores] == [b"b"]
    here.apply(2, 3, ShardWork(retracted=work_of({SLOT: {"b": {"click": 2}}}).counts))
    assert not [key for key in here.dump() if b":t:" in key or b":c:" in key]


@settings(max_examples=60, deadline=None)
@given(groups, groups, st.integers(0, 30), st.integers(0, 30), st.lists(st.integers(0, 99), max_size=3, unique=True))
def test_a_call_that_expects_another_offset_changes_nothing(shard, first, second, expected, following, ids):
    """Behind, ahead, backwards or repeated: unless Redis stands where the caller believes, not one byte changes."""
    here = shard()
    assert here.apply(0, 10, work_of(first, ids=[1000])).outcome is Outcome.APPLIED
    before = here.dump()
    reply = here.apply(expected, following, work_of(second, ids), bucket=1001)
    if expected == 10 and following >= 10:
        assert reply.outcome is Outcome.APPLIED
        assert here.stored() == b"%d 1001" % following
        return
    assert here.dump() == before
    # Only its own next offset tells a caller that an earlier try of the same call has won.
    assert reply.outcome is (Outcome.APPLIED if following == 10 != expected else Outcome.REWIND)


def test_a_shard_that_lost_its_ledger_takes_nothing(shard):
    """Without ledger, field or generation the server was emptied: nothing may begin there unasked."""
    here = shard()
    for key, field in [(ledger_key(SHARD, here.generation), FIELD), (ledger_key(SHARD, here.generation), "generation")]:
        here.run(here.client.hdel(key, field))
        before = here.dump()
        assert here.apply(0, 5, work_of({SLOT: {"a": {"click": 1}}}, ids=[1])).outcome is Outcome.REWIND
        assert here.dump() == before
        here.run(here.ledger.open(here.generation, FIELD, [SHARD], 0))
    here.run(here.client.delete(ledger_key(SHARD, here.generation)))
    assert here.apply(0, 5).outcome is Outcome.REWIND
    assert here.dump() == {}


def test_opening_leaves_what_another_worker_has_begun(shard):
    """A worker that finds a shard open takes its offset as it is."""
    here = shard()
    here.apply(0, 5)
    here.run(here.ledger.open(here.generation, FIELD, [SHARD], 3))
    loaded = here.run(here.ledger.load(here.generation, FIELD))
    assert loaded == [5 if shard == SHARD else None for shard in range(64)]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(101, 105), st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True)), max_size=8
    )
)
def test_ids_equal_the_model(shard, calls):
    """An id counts unless it counted in its own or a neighbouring bucket; a refused call changes nothing at all."""
    here, model = shard(), Counter()
    # The other partition stays behind, so that nothing is forgotten.
    here.apply(0, 1, bucket=100, field=OTHER)
    for n, (bucket, ids) in enumerate(calls):
        seen = [index for index, id_ in enumerate(ids) if any(model[b, id_] for b in (bucket - 1, bucket, bucket + 1))]
        before = here.dump()
        reply = here.apply(n, n + 1, work_of({SLOT: {"a": {"click": len(ids)}}}, ids), bucket=bucket)
        if seen:
            assert (reply.outcome, sorted(reply.known)) == (Outcome.KNOWN, seen)
            assert here.dump() == before
            new = [id_ for index, id_ in enumerate(ids) if index not in seen]
            reply = here.apply(n, n + 1, work_of({}, new), bucket=bucket)
        assert reply.outcome is Outcome.APPLIED
        model.update((bucket, id_) for index, id_ in enumerate(ids) if index not in seen)


def test_thousands_of_ids_fit_into_one_call(shard):
    """A chunk may be one document's: more ids than Lua can hand to a command at once, none left out."""
    here, ids = shard(), list(range(20_000))
    assert here.apply(0, 1, work_of({}, ids)).outcome is Outcome.APPLIED
    assert here.run(here.client.scard(here.key("d:popularity:1000"))) == 20_000
    reply = here.apply(1, 2, work_of({}, [30_000, *ids]), bucket=1001)
    assert (reply.outcome, sorted(reply.known)) == (Outcome.KNOWN, list(range(1, 20_001)))


def test_ids_are_forgotten_when_every_partition_has_passed(shard):
    """The bucket before the slowest partition's own stays, older ones go; and each has an end of its own."""
    here = shard()
    for n, bucket in enumerate(range(100, 110)):
        here.apply(n, n + 1, work_of({}, [n]), bucket=bucket)
        # The second partition follows four buckets behind, from before the first one's start.
        here.apply(n, n + 1, work_of({}, [50 + n]), bucket=bucket - 4, field=OTHER)
    assert here.remembered() == list(range(104, 110))
    ttl = here.run(here.client.ttl(here.key("d:popularity:109")))
    assert 172_700 < ttl <= 172_800


def test_a_partition_far_behind_the_others_finds_its_own_ids(shard):
    """During a rebuild one partition may be days behind another: its repeats count once all the same."""
    here = shard()
    here.apply(0, 1, work_of({}, [1]), bucket=100, field=OTHER)
    for n, bucket in enumerate(range(100, 400, 10)):
        here.apply(n, n + 1, work_of({}, [1000 + n]), bucket=bucket)
    assert here.apply(1, 2, work_of({}, [1]), bucket=101, field=OTHER).outcome is Outcome.KNOWN
    here.apply(1, 2, work_of({}, [2]), bucket=101, field=OTHER)
    assert here.apply(2, 3, work_of({}, [2]), bucket=102, field=OTHER).outcome is Outcome.KNOWN


def test_a_partition_that_stands_still_can_be_moved_on(shard):
    """A call without records moves an idle partition's bucket, and with it what is forgotten; never backwards."""
    here = shard()
    here.apply(0, 1, work_of({}, [999]), bucket=100, field=OTHER)
    for n, bucket in enumerate(range(100, 130)):
        here.apply(n, n + 1, work_of({}, [n]), bucket=bucket)
    assert here.remembered() == list(range(100, 130))
    here.apply(1, 1, bucket=120, field=OTHER)
    assert here.remembered() == list(range(119, 130))
    here.apply(1, 1, bucket=110, field=OTHER)
    assert here.stored(OTHER) == b"1 120"


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_counter_stops_at_its_largest_value(shard, signal):
    """Counters have 32 bits: at the end they stay there, in place and when the ring is written anew."""
    here, bit = shard(), SIGNALS.index(signal)
    here.apply(0, 1, work_of({SLOT: {"a": dict.fromkeys(SIGNALS, 1)}}))
    at = 4 + (bit * LAYOUT.cells + SLOT % LAYOUT.cells) * 4
    here.run(here.client.setrange(here.key("c:a"), at, (FULL - 3).to_bytes(4, "little")))
    for n, slot in enumerate([SLOT, SLOT, SLOT + 1, SLOT], start=1):
        here.apply(n, n + 1, work_of({slot: {"a": {signal: 2}}}))
    found = slots_of(here.run(here.client.get(here.key("c:a"))), LAYOUT, (SLOT + 1) * LAYOUT.slot_ms)
    assert {(s, slot): count for s, slot, count in found} == {
        **{(s, SLOT): 1 for s in SIGNALS},
        (signal, SLOT): FULL,
        (signal, SLOT + 1): 2,
    }


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([1, 24]),
    st.integers(-600, 100),
    st.lists(st.tuples(st.integers(-200, 400), st.sampled_from(["a", "b", "c"]), st.sampled_from(SIGNALS)), min_size=1),
)
def test_trending_equals_forward_decay(shard, half_life, shift, events):
    """Each list is the sum of `weight * 2 ** age in half-lives`, also across the end of an era and for late events."""
    lane = PopularityLane(PopularitySettings(trending_half_life_hours=half_life))
    here, era_hours = shard(lane), 256 * half_life
    first = (SLOT * HOURS // era_hours + 2) * era_hours + shift
    weights = PopularitySettings().trending_weights
    newest = 0
    for n, (hour, document, signal) in enumerate(events):
        newest = max(newest, first + hour)
        work = ShardWork(counts={first + hour: {document: 1 << 16 * SIGNALS.index(signal)}})
        assert here.apply(n, n + 1, work).outcome is Outcome.APPLIED
    era = newest // era_hours
    found = dict(here.run(here.client.zrange(trending_key(SHARD, here.generation, era), 0, -1, withscores=True)))
    expected = Counter()
    for hour, document, signal in events:
        # What is older than an era weighs less than 2 ** -256 of what is new.
        if (first + hour) // era_hours >= era - 1:
            expected[document.encode()] += weights[signal] * 2.0 ** ((first + hour - era * era_hours) / half_life)
    assert {name: score for name, score in found.items() if score > 1e-60} == pytest.approx(
        {name: score for name, score in expected.items() if score > 1e-60}, rel=1e-9
    )


def test_the_trending_list_stays_short(shard):
    """Of ever new documents the heaviest thousand stay, whatever came in between."""
    here, hour = shard(), SLOT * HOURS
    for n in range(5):
        here.apply(n, n + 1, ShardWork(counts={hour: {f"{n}-{m}": 1 + m % 2 for m in range(900)}}))
    found = here.run(here.client.zrange(trending_key(SHARD, here.generation, hour // 6144), 0, -1, withscores=True))
    assert 1000 <= len(found) <= 2000
    assert {b"4-%d" % m for m in range(1, 900, 2)} <= {name for name, _ in found}


def test_no_command_is_newer_than_redis_7_0(shard):
    """Every command that the function and the Python code send is known to Redis 7.0."""
    here = shard()
    names = set()
    for file in Path(clickwell.stream_processors.__path__[0]).glob("*.lua"):
        names |= set(re.findall(r"redis\.call\('(\w+)'", file.read_text()))
    for package in (clickwell.stream_processors, clickwell.serving):
        for file in Path(package.__path__[0]).glob("*.py"):
            names |= set(re.findall(r"\b(?:_?client|pipe|pipeline)\.(\w+)\(", file.read_text()))
    # redis-py reads every reply to COMMAND as that of COMMAND without a subcommand.
    here.client.response_callbacks.pop("COMMAND", None)
    docs = here.run(here.client.execute_command("COMMAND", "DOCS", *sorted(names)))
    since = {name.decode(): tuple(map(int, about[b"since"].split(b"."))) for name, about in docs.items() if about}
    assert {"smismember", "zunionstore", "fcall"} <= {*since}
    assert {name: version for name, version in since.items() if version > (7, 0, 0)} == {}
