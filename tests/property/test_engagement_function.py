"""The engagement lane and its function on a real server against a model that sees all events of a search at once."""

import asyncio
import itertools
import json
import time
from collections import Counter, defaultdict
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from clickwell.analytics import audit_windows
from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.failpoints import Failpoints
from clickwell.schemas.decode import Decoder
from clickwell.schemas.decode_searches import SearchDecoder
from clickwell.schemas.keys import SHARDS
from clickwell.schemas.rings import Generation, Layout
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.serving.windows import read_windows
from clickwell.settings import EngagementSettings, PopularitySettings
from clickwell.sinks.table import TABLES
from clickwell.stream_processors.engagement import EngagementLane
from clickwell.stream_processors.folding import fold
from clickwell.stream_processors.ledger import Call, Ledger, Outcome
from clickwell.testing import FakeRecord

pytestmark = pytest.mark.broker

NOW = time.time_ns() // 1_000_000
DECODERS = {INTERACTIONS.name: Decoder(), SEARCHES.name: SearchDecoder()}
WIDTHS = {"hour": MS_PER_HOUR, "day": MS_PER_DAY}

documents = st.sampled_from(["a", "b", "c", "日本", "other"])
times = st.sampled_from([0, 1000, MS_PER_HOUR, 30 * MS_PER_HOUR, 9 * MS_PER_DAY, 89 * MS_PER_DAY, 92 * MS_PER_DAY])
heads = {
    "execution_id": st.sampled_from(["e1", "e2", "e3", "e4"]),
    "timestamp": times.map(lambda age: NOW - age),
    "retriever_id": st.sampled_from(["site", "app"]),
}
searches = st.fixed_dictionaries(
    {**heads, "query": st.sampled_from(["shoes", "", "tent"]), "results": st.lists(documents, max_size=6)}
)
kinds = st.sampled_from(
    [["click"], ["skip"], ["impression"], ["purchase"], ["click", "add_to_cart"], ["view"], ["own"]]
)
interactions = st.fixed_dictionaries(
    {"feature_id": documents, "interaction_type": kinds, "timestamp": heads["timestamp"]},
    optional={
        **{name: heads[name] for name in ("execution_id", "retriever_id")},
        "interaction_id": st.sampled_from(["i1", "i2"]),
        "position": st.integers(0, 5),
        "metadata": st.just({"query": "tent"}),
    },
)
events = st.lists(searches | interactions | interactions, max_size=14)


def search_of(event, place):
    """What tells which events belong together."""
    if "execution_id" in event:
        return "execution", event["execution_id"]
    return ("interaction", event["interaction_id"]) if "interaction_id" in event else ("place", place)


def facts_of(one, source):
    """Return what the events of one search say about its results: {(position, document): names}."""
    listed = source == "shown" or (source == "auto" and any("results" in event for event in one))
    explicit = source == "explicit" or (source == "auto" and not listed)
    names = {"view": "impression", "add_to_cart": "conversion", "purchase": "conversion"}
    facts = defaultdict(set)
    for event in one:
        for place in enumerate(event.get("results", ())) if listed else ():
            facts[place].add("shown")
        told = {names.get(name, name) for name in event.get("interaction_type", ())}
        if counted := told & {"click", "skip", "conversion", *(["impression"] if explicit else [])}:
            facts[event.get("position"), event["feature_id"]] |= counted
    for place in [place for place in facts if place[0] is None]:
        there = [position for position, document in facts if document == place[1] and position is not None]
        if there:
            facts[min(there), place[1]] |= facts.pop(place)
    return facts


def model(events, source="auto"):
    """Return {(width, start, retriever, by, key): [exposures, clicks, skips, conversions]}, at the top in a second."""
    known = defaultdict(list)
    for place, event in enumerate(events):
        late = event["timestamp"] // MS_PER_DAY < NOW // MS_PER_DAY - 90
        if event.get("interaction_type") != ["own"] and not late:
            known[search_of(event, place)].append(event)
    windows, top = defaultdict(Counter), defaultdict(Counter)
    for one in known.values():
        told = [("results" not in e, e["timestamp"], e.get("retriever_id", ""), query_of(e)) for e in one]
        _, at, retriever, query = min(told)
        facts = facts_of(one, source)
        clicked = {document for (_, document), names in facts.items() if "click" in names}
        deepest = max((p for (p, _), names in facts.items() if "click" in names and p is not None), default=-1)
        for (position, document), names in facts.items():
            skip = document not in clicked and "conversion" not in names
            skip = skip and ("skip" in names or (position is not None and position < deepest))
            counts = {"exposures": 1, "clicks": "click" in names, "skips": skip, "conversions": "conversion" in names}
            for width, size in WIDTHS.items():
                for by, key in (("position", position), ("query", query or None), ("document", document)):
                    name = width, at // size * size, retriever or None, by, key
                    windows[name].update(counts)
                    if by == "document" and position is not None and position < 3:
                        top[name].update(counts)
    return windows, top


def query_of(event):
    return event["query"] if "results" in event else event.get("metadata", {}).get("query", "")


class Counters:
    """An empty generation on a shared server, filled by one partition of each topic."""

    made = itertools.count()

    def __init__(self, runner, client, url, **given):
        self.lane = EngagementLane(EngagementSettings(**given), MS_PER_HOUR)
        shape = {"engagement": dict(self.lane.shape)}
        layout = Layout.of(PopularitySettings())
        name = f"engage{time.time_ns()}{next(self.made)}"
        self.generation = Generation(name=name, layout=layout, half_life_hours=24, lanes=shape)
        self.client, self.url, self.run = client, url, runner.run
        self.ledger = Ledger(client, Failpoints())
        self.ends = dict.fromkeys(DECODERS, 0)
        self.next = {topic: [0] * SHARDS for topic in DECODERS}
        for topic in DECODERS:
            self.run(self.ledger.open(name, f"engagement/{topic}/0", range(SHARDS), 0))

    def feed(self, topic, values, *, received_ms=NOW, taken_back=()):
        """Apply some events, and retractions after them, as one chunk; return how often Redis was asked."""
        first, done = self.ends[topic], self.next[topic]
        behind = first + len(values)
        following, bucket = behind + len(taken_back), received_ms // MS_PER_HOUR
        self.ends[topic] = following
        work = self.lane.begin(topic, 0)
        if values:
            records = [FakeRecord(first + n, received_ms, json.dumps(value).encode()) for n, value in enumerate(values)]
            self.lane.add(work, DECODERS[topic].decode(records), None)
        for n, retraction in enumerate(taken_back):
            self.lane.take_back(work, behind + n, retraction, None)
        self.lane.finish(work)
        field, left, rounds = f"engagement/{topic}/0", set(work.shards), 0
        while left:
            rounds += 1
            calls = [
                Call(self.lane.function, field, shard, done[shard], following, bucket, self.lane.arguments(share))
                for shard, share in work.shards.items()
                if shard in left
            ]
            for call, reply in zip(calls, self.run(self.ledger.apply(self.generation.name, calls)), strict=True):
                if reply.outcome is Outcome.KNOWN:
                    self.lane.amend(work, call.shard, reply.known)
                else:
                    assert reply.outcome is Outcome.APPLIED
                    left.remove(call.shard)
                    done[call.shard] = following
        return rounds

    def feed_all(self, events, cuts=()):
        """Apply events in order, cut into chunks at these indices and wherever the topic changes."""
        chunk = []
        for n, event in enumerate(events):
            topic = SEARCHES.name if "results" in event else INTERACTIONS.name
            if chunk and (chunk[0][0] != topic or n in cuts):
                self.feed(chunk[0][0], [value for _, value in chunk])
                chunk = []
            chunk.append((topic, event))
        if chunk:
            self.feed(chunk[0][0], [value for _, value in chunk])

    def windows(self, **options):
        """What a reader sees, in the form of the model; hourly windows that are too old for it are left out there."""
        with redis.Redis.from_url(self.url) as client:
            found = {}
            for row in read_windows(client, self.generation, since_ms=NOW - 100 * MS_PER_DAY, **options):
                name = row.width, row.window_start, row.retriever_id, row.by, row.key
                assert name not in found
                found[name] = [row.exposures, row.clicks, row.skips, row.conversions]
            return found


@contextmanager
def maker(kind, url):
    """A function that makes empty counters of a kind, on a Redis that has the functions."""
    with asyncio.Runner() as runner:
        client = Redis.from_url(url)
        runner.run(Ledger(client, Failpoints()).install())
        yield lambda **given: kind(runner, client, url, **given)
        runner.run(client.aclose())


@pytest.fixture(scope="module")
def counters(redis_server):
    """A function that makes empty counters."""
    with maker(Counters, redis_server) as make:
        yield make


def visible(windows):
    """Leave out hourly windows that are not kept for readers."""
    oldest = (NOW // MS_PER_DAY - 7) * MS_PER_DAY
    names = ("exposures", "clicks", "skips", "conversions")
    return {
        name: [counts[each] for each in names]
        for name, counts in windows.items()
        if name[0] == "day" or name[1] >= oldest
    }


@settings(max_examples=120, deadline=None)
@given(events, st.sampled_from(["auto", "shown", "explicit", "implied"]), st.data())
def test_windows_equal_the_model_in_any_order(counters, found, source, data):
    """Whatever order events come in, whatever is repeated and wherever chunks end, windows say what the events say."""
    order = data.draw(st.permutations(found)) if found else []
    repeated = [event for event in found if ("execution_id" in event or "interaction_id" in event)]
    order += data.draw(st.lists(st.sampled_from(repeated), max_size=3)) if repeated else []
    here = counters(exposure=source)
    here.feed_all(order, data.draw(st.sets(st.integers(1, 20), max_size=4)))
    windows, top = model(found, source)
    assert here.windows() == visible(windows)
    assert here.windows(bys=["document"], at_top=True) == visible(top)


def search(execution_id, results, age_ms=0, **fields):
    return {"execution_id": execution_id, "results": results, "timestamp": NOW - age_ms, "query": "q", **fields}


def click(execution_id, document, position, age_ms=0, **fields):
    event = {"feature_id": document, "interaction_type": ["click"], "timestamp": NOW - age_ms, "position": position}
    return {**event, "execution_id": execution_id, **fields}


def totals(rows):
    """Sums over keys, which limits and folding must not change: {(width, start, by): counts}."""
    found = defaultdict(lambda: [0, 0, 0, 0])
    for (width, start, _, by, _), counts in rows.items():
        found[width, start, by] = [a + b for a, b in zip(found[width, start, by], counts, strict=True)]
    return found


def test_a_click_lies_in_the_window_of_its_search(counters):
    """However long after its search a click comes, no window has more clicks than exposures; nor does another's."""
    here = counters()
    here.feed(INTERACTIONS.name, [click("e", "b", 1)])
    here.feed(SEARCHES.name, [search("e", ["a", "b"], 5 * MS_PER_HOUR)])
    start = (NOW - 5 * MS_PER_HOUR) // MS_PER_HOUR * MS_PER_HOUR
    assert here.windows(widths=["hour"], bys=["position"]) == {
        ("hour", start, None, "position", 0): [1, 0, 1, 0],
        ("hour", start, None, "position", 1): [1, 1, 0, 0],
    }


def test_one_refusal_says_all_that_a_worker_did_not_know(counters):
    """Searches that another worker has read cost a second call; those beside them, which nobody knows, no third one."""
    here = counters()
    here.feed(SEARCHES.name, [search(f"e{n}", ["a", "b"]) for n in range(0, 400, 2)])
    here.lane = EngagementLane(EngagementSettings(), MS_PER_HOUR)
    assert here.feed(INTERACTIONS.name, [click(f"e{n}", "b", 1) for n in range(400)]) == 2
    assert here.feed(INTERACTIONS.name, [click(f"e{n}", "a", 0) for n in range(400)]) == 1


@pytest.mark.parametrize(("later", "exposures"), [(0, 2), (12, 2), (13, 2), (36, 3)])
def test_events_of_a_search_meet_within_a_stated_time(counters, later, exposures):
    """Up to the neighbouring 12 hours of receipt a click finds its search; much later it is a search of its own."""
    here = counters()
    received_ms = NOW // (12 * MS_PER_HOUR) * 12 * MS_PER_HOUR - 48 * MS_PER_HOUR
    here.feed(SEARCHES.name, [search("e", ["a", "b"], 72 * MS_PER_HOUR)], received_ms=received_ms)
    late = click("e", "a", 0, 71 * MS_PER_HOUR)
    here.feed(INTERACTIONS.name, [late], received_ms=received_ms + later * MS_PER_HOUR)
    rows = here.windows(widths=["day"], bys=["position"])
    assert sum(counts[0] for counts in rows.values()) == exposures
    assert sum(counts[1] for counts in rows.values()) == 1


def test_rows_beyond_the_limit_are_counted_as_other(counters):
    """A table keeps so many rows in each shard; nothing of what is beyond is lost, and it says so."""
    here, free = counters(table_rows=10), counters()
    found = [search(f"e{n}", [f"d{n}-{m}" for m in range(20)]) for n in range(200)]
    for each in (here, free):
        each.feed(SEARCHES.name, found)
    rows = here.windows(bys=["document"])
    assert totals(rows) == totals(free.windows(bys=["document"]))
    assert sum(counts[0] for (*_, key), counts in rows.items() if key == "other") > 1000
    assert len(rows) <= 2 * 64 * 12


def test_what_overflowed_in_an_hour_is_not_lost_when_it_becomes_a_day(counters):
    """Rows `other` of several hours, and what overflows their day's table, add up in the day's row `other`."""
    here = counters(table_rows=10)
    at_ms = (NOW // MS_PER_DAY - 8) * MS_PER_DAY + 2 * MS_PER_HOUR
    for hour in range(2):
        found = [search(f"e{hour}-{n}", [f"d{hour}-{n}-{m}" for m in range(20)]) for n in range(100)]
        found = [{**each, "timestamp": at_ms + hour * MS_PER_HOUR} for each in found]
        here.feed(SEARCHES.name, found, received_ms=at_ms + hour * MS_PER_HOUR)
    before = totals(here.windows(widths=["day"]))
    here.run(fold(here.client, here.generation.name, here.generation.lanes["engagement"], NOW))
    assert totals(here.windows(widths=["day"])) == before
    assert {counts[0] for counts in before.values()} == {4000}


def test_hours_become_days_and_readers_notice_nothing(counters):
    """Hourly tables of days that are past are put together; days stay what they were, and so do the hours in sight."""
    here = counters()
    ages = [0, 30, 24 * 6, 24 * 8, 24 * 8 + 1, 24 * 30]
    for n, hours in enumerate(ages):
        # As they came at their time: what comes late goes to the table of its day at once.
        at_ms = NOW - hours * MS_PER_HOUR
        here.feed(SEARCHES.name, [search(f"e{n}", ["a", "b"], hours * MS_PER_HOUR)], received_ms=at_ms)
        here.feed(INTERACTIONS.name, [click(f"e{n}", "b", 1, hours * MS_PER_HOUR)], received_ms=at_ms)
    before, shape = here.windows(), here.generation.lanes["engagement"]
    assert here.run(fold(here.client, here.generation.name, shape, NOW)) >= 9
    assert here.windows() == before
    assert here.run(fold(here.client, here.generation.name, shape, NOW)) == 0
    # Ten weeks later the first ones have left every window, and their names go too.
    here.run(fold(here.client, here.generation.name, shape, NOW + 70 * MS_PER_DAY))
    assert here.windows(widths=["day"]) == {
        name: counts for name, counts in before.items() if name[0] == "day" and name[1] > NOW - 20 * MS_PER_DAY
    }


def in_lake(found):
    """A connection with events as the sink writes them; each topic has one partition."""
    lake = duckdb.connect()
    lake.execute("set timezone = 'UTC'")
    for table in TABLES:
        topic = SEARCHES.name if table.name == "searches" else INTERACTIONS.name
        rows = []
        for event in found:
            if ("results" in event) == (table.name == "searches"):
                at, query = event["timestamp"] * 1000, event.get("query", event.get("metadata", {}).get("query"))
                kafka = {"kafka_topic_id": topic, "kafka_partition": 0, "kafka_offset": len(rows)}
                rows.append({**event, **kafka, "timestamp": at, "received_at": NOW * 1000, "query": query})
        kinds = [(kind.name, kind.type) for kind in table.schema]
        columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds}
        lake.register(table.name, pa.table(columns))
    return lake


@settings(max_examples=60, deadline=None)
@given(events, st.sampled_from(["auto", "shown", "explicit", "implied"]))
def test_the_audit_recounts_the_model(found, source):
    """What the audit's SQL makes of the lake is what the events say."""
    shape = EngagementSettings(exposure=source).model_dump(mode="json")
    generation = Generation(
        name="g",
        layout=Layout.of(PopularitySettings()),
        half_life_hours=24,
        lanes={"engagement": shape},
        started_ms=NOW,
    )
    reached = {(topic, 0, shard): 1000 for topic in DECODERS for shard in range(SHARDS)}
    windows = audit_windows.recount(in_lake(found), generation, reached, dedup_ms=MS_PER_HOUR, now_ms=NOW)
    counted = {}
    for (width, start, by), rows in windows.items():
        for (retriever, key), counts in rows.items():
            told = None if not key else int(key) if by == "position" else key
            counted[width, start, retriever or None, by, told] = counts[:4]
    assert counted == visible(model(found, source)[0])


def test_the_audit_finds_no_difference_and_each_that_is_made(counters):
    """What Redis holds equals the recount at its offsets; a count that somebody changes is named."""
    here = counters()
    found = [search(f"e{n}", ["a", "b", "c"]) for n in range(20)] + [click(f"e{n}", "b", 1) for n in range(5)]
    here.feed_all(found)
    with redis.Redis.from_url(here.url) as client:
        windows, reached = audit_windows.sample(client, here.generation, NOW)
        wanted = audit_windows.recount(in_lake(found), here.generation, reached, dedup_ms=MS_PER_HOUR, now_ms=NOW)
        assert audit_windows.differences(windows, wanted) == []
        key = next(client.scan_iter(match=f"*{here.generation.name}:w:position:*", count=10_000))
        client.hset(key, "\0" + "9", (1).to_bytes(4, "little") * 4)
        windows, _ = audit_windows.sample(client, here.generation, NOW)
        wrong = audit_windows.differences(windows, wanted)
    assert [(one.width, one.by, one.key, one.redis, one.lake) for one in wrong] == [
        (width, "position", "9", [1, 1, 1, 1], [0, 0, 0, 0]) for width in ("day", "hour")
    ]
