"""The history lane against a naive model, and its function in Redis: order and repeats change nothing."""

import asyncio
import itertools
import json
import time
from collections import defaultdict

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st
from redis.asyncio import Redis

from clickwell.analytics.consumed import fill
from clickwell.clock import MS_PER_DAY
from clickwell.failpoints import Failpoints
from clickwell.producers.files import Lines
from clickwell.producers.publish import Form, publish
from clickwell.schemas.decode import Batch, Details, Row
from clickwell.schemas.keys import SHARDS, history_key, shard_of
from clickwell.settings import HistorySettings, Settings
from clickwell.sinks.load import Loader
from clickwell.stream_processors.history import HistoryLane, retract
from clickwell.stream_processors.ledger import Call, Ledger

NOW = time.time_ns() // 1_000_000
FIELD = "history/id/0"
SETTINGS = HistorySettings(signals=("click", "long_view", "purchase"), days=30, max_items=4)

users = st.none() | st.sampled_from(["u1", "u2", "user/🔥", "u:4"])
types = st.lists(st.sampled_from(["click", "purchase", "skip", "click"]), min_size=1, max_size=3).map(tuple)
rows = st.tuples(
    users,
    st.sampled_from([f"doc-{n}" for n in range(8)]),
    types,
    st.none() | st.sampled_from([0, 9_999, 30_000, 60_000]),
    st.integers(0, 40 * MS_PER_DAY).map(lambda age: NOW - age),
)


def batch_of(found):
    """A batch whose records were all received now."""
    return Batch(
        offsets=list(range(len(found))),
        received=[NOW] * len(found),
        times=[at for *_, at in found],
        rows=[
            Row(document, kinds, metadata=None if duration is None else Details(duration_ms=duration), user_id=user)
            for user, document, kinds, duration, _ in found
        ],
    )


def expected(found, done=None):
    """What has to be remembered: (user, signal) -> document -> newest time."""
    times = defaultdict(dict)
    for offset, (user, document, kinds, duration, at) in enumerate(found):
        if user is None or at < NOW - SETTINGS.days * MS_PER_DAY or (done and offset < done[shard_of(user)]):
            continue
        signals = {"click", "purchase"} & {*kinds}
        if "click" in kinds and duration is not None and duration >= 30_000:
            signals.add("long_view")
        for signal in signals:
            times[user, signal][document] = max(at, times[user, signal].get(document, 0))
    return {name: documents for name, documents in times.items() if documents}


def work_of(found, done=None):
    lane = HistoryLane(SETTINGS, long_view_ms=30_000)
    work = lane.begin(lane.topics[0], 0)
    half = len(found) // 2
    batch = batch_of(found)
    for part in (slice(None, half), slice(half, None)):
        piece = Batch(**{name: getattr(batch, name)[part] for name in ("offsets", "received", "times", "rows")})
        if piece.rows:
            lane.add(work, piece, done)
    lane.finish(work)
    return lane, work


@given(st.lists(rows, max_size=30), st.none() | st.lists(st.integers(0, 30), min_size=SHARDS, max_size=SHARDS))
def test_work_equals_the_model(found, done):
    """Each shard gets the newest time of its users' documents by signal, without what it has applied before."""
    _, work = work_of(found, done)
    remembered = {}
    for shard, share in work.shards.items():
        for name, times in share.items():
            signal, user = name.split(":", 1)
            assert shard_of(user) == shard
            remembered[user, signal] = times
    assert remembered == expected(found, done)
    assert work.late == sum(
        at < NOW - SETTINGS.days * MS_PER_DAY
        and user is not None
        and bool({"click", "purchase"} & {*kinds})
        and not (done and offset < done[shard_of(user)])
        for offset, (user, _, kinds, _, at) in enumerate(found)
    )


class Store:
    """A Redis with the function library, emptied of histories for each example."""

    numbers = itertools.count()

    def __init__(self, runner, url):
        self.run, self.client = runner.run, Redis.from_url(url)
        self.plain = redis.Redis.from_url(url)
        self.ledger = Ledger(self.client, Failpoints())
        self.run(self.ledger.install())

    def clear(self):
        keys = list(self.plain.scan_iter("cw1:{s???}:h:*"))
        if keys:
            self.plain.delete(*keys)

    def apply(self, found):
        lane, work = work_of(found)
        generation = f"history{time.time_ns()}{next(self.numbers)}"
        self.run(self.ledger.open(generation, FIELD, range(SHARDS), 0))
        calls = [
            Call(lane.function, FIELD, shard, 0, len(found), 1, lane.arguments(share))
            for shard, share in work.shards.items()
        ]
        if calls:
            self.run(self.ledger.apply(generation, calls))

    def content(self):
        stored = {}
        for key in self.plain.scan_iter("cw1:{s???}:h:*", count=1000):
            _, _, _, signal, user = key.decode().split(":", 4)
            assert key.decode() == history_key(user, signal)
            stored[user, signal] = {
                document.decode(): int(at) for document, at in self.plain.zrange(key, 0, -1, withscores=True)
            }
        return stored


@pytest.fixture(scope="module")
def store(redis_server):
    """A store on the shared server."""
    with asyncio.Runner() as runner:
        here = Store(runner, redis_server)
        yield here
        here.clear()
        here.plain.close()
        runner.run(here.client.aclose())


def newest(times):
    """The documents that stay: the newest, ties by name, none older than the newest by more than is kept."""
    last = max(times.values())
    kept = sorted(times.items(), key=lambda item: (item[1], item[0].encode()))[-SETTINGS.max_items :]
    return {document: at for document, at in kept if at >= last - SETTINGS.days * MS_PER_DAY}


@pytest.mark.broker
@options(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, max_size=40), st.data())
def test_order_and_repeats_change_nothing(store, found, data):
    """However the events are cut, ordered and repeated, the same newest documents are remembered."""
    store.clear()
    order = data.draw(st.permutations(found))
    cut = data.draw(st.integers(0, len(order)))
    for part in (order[:cut], order[cut:], order[: cut // 2]):
        store.apply(part)
    assert store.content() == {name: newest(times) for name, times in expected(found).items()}


@pytest.mark.broker
def test_a_history_ends_with_its_newest_event(store):
    """The key expires when its newest event is as old as what is kept, also if an older one comes last."""
    store.clear()
    for at in (NOW - 3 * MS_PER_DAY, NOW - 5 * MS_PER_DAY):
        store.apply([("u1", f"doc-{at}", ("click",), None, at)])
    assert store.plain.pexpiretime(history_key("u1", "click")) == NOW + 27 * MS_PER_DAY


@pytest.mark.broker
def test_one_user_with_more_than_lua_can_unpack(store):
    """Ten thousand documents of one user in one call leave the newest."""
    store.clear()
    store.apply([("u1", f"doc-{n}", ("click",), None, NOW - n) for n in range(10_000)])
    assert store.content() == {("u1", "click"): {f"doc-{n}": NOW - n for n in range(4)}}


@pytest.mark.broker
def test_the_lake_fills_histories(store, redis_server, tmp_path):
    """What only the lake knows is added, by signal, the newest of each; what Redis knows better stays."""
    store.clear()
    store.apply([("u1", "doc-1", ("click",), None, NOW)])
    lines = [
        {"feature_id": "doc-1", "interaction_type": ["click"], "user_id": "u1", "timestamp": NOW - 5},
        {"feature_id": "doc-2", "interaction_type": ["click", "skip"], "user_id": "u1", "timestamp": NOW - 6,
         "metadata": {"duration_ms": 30_000}},
        {"feature_id": "doc-2", "interaction_type": ["click"], "user_id": "u1", "timestamp": NOW - 7},
        {"feature_id": "doc-3", "interaction_type": ["click"], "user_id": "u1", "timestamp": NOW - 31 * MS_PER_DAY},
        {"feature_id": "doc-4", "interaction_type": ["purchase"], "timestamp": NOW},
    ]  # fmt: skip
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = Settings.load(tmp_path, redis={"url": redis_server}, history=SETTINGS)
    with Lines([str(path)], twice=True) as content:
        publish(content, Loader(settings, "run"), Form("native", "shop", 30_000))
    for _ in range(2):
        assert fill(settings) == {"histories": 2, "entries": 3}
        assert store.content() == {
            ("u1", "click"): {"doc-1": NOW, "doc-2": NOW - 6},
            ("u1", "long_view"): {"doc-2": NOW - 6},
        }


@pytest.mark.broker
def test_one_event_is_taken_back(store):
    """The time falls back to what remains, or the document goes; a newer event stays; repeats do nothing."""
    store.clear()
    store.apply([("u1", "doc-1", ("click",), None, NOW), ("u1", "doc-2", ("click",), None, NOW)])
    one, two = ("u1", "click", "doc-1"), ("u1", "click", "doc-2")
    assert retract(store.plain, {one: (NOW - 1, None)}) == [False]
    assert retract(store.plain, {one: (NOW, NOW - 9), two: (NOW, None)}) == [True, True]
    assert retract(store.plain, {two: (NOW, None)}) == [False]
    assert store.content() == {("u1", "click"): {"doc-1": NOW - 9}}
