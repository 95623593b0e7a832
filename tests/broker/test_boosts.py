"""The readers against a real Valkey: what they read, and that nothing about it can make them raise."""

import asyncio
import json
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import redis

from clickwell import AsyncBoostReader, BoostReader
from clickwell.clock import MS_PER_DAY
from clickwell.errors import SettingsError
from clickwell.schemas.keys import ACTIVE, FRESH, ring_key
from clickwell.schemas.rings import Generation, Layout, encode
from clickwell.serving.formula import BoostByInteractionCount
from clickwell.serving.snapshot import Reason
from clickwell.settings import PopularitySettings, Settings

pytestmark = pytest.mark.broker

LAYOUT = Layout.of(PopularitySettings())
NOW_MS = 1_795_000_000_000
SLOT = LAYOUT.slot(NOW_MS)
# Generous beside the 50 ms of the settings, because the machine that runs tests does other things too.
PATIENCE = 1.0


@dataclass
class Hand:
    """A clock that stands still until it is moved."""

    at_ms: int = NOW_MS

    def now_ms(self):
        return self.at_ms


class Writer:
    """Puts rings into Redis as a worker would."""

    def __init__(self, client):
        self.redis = client

    def activate(self, name, *, fresh_ms=NOW_MS, layout=LAYOUT):
        self.redis.set(ACTIVE, Generation(name=name, layout=layout, half_life_hours=24).model_dump_json())
        if fresh_ms is not None:
            self.redis.hset(
                FRESH, mapping={"popularity/t/0": fresh_ms + 500, "popularity/t/1": fresh_ms, "other/t/1": 1}
            )

    def ring(self, name, doc, counts):
        self.redis.set(ring_key(doc, name), encode(counts, LAYOUT))


@pytest.fixture
def writer(fresh_redis):
    with redis.Redis.from_url(fresh_redis.url) as client:
        writer = Writer(client)
        writer.activate("g1")
        writer.ring("g1", "hot", {("click", SLOT): 400, ("click", SLOT - 4): 12, ("purchase", SLOT - 8): 31})
        writer.ring("g1", "wärm/🔥", {("click", SLOT - 20): 40})
        yield writer


def settings_of(server, **boosts):
    return Settings(redis={"url": server.url}, boosts=boosts)


@pytest.fixture
def reader(fresh_redis, writer):
    with BoostReader(settings_of(fresh_redis), clock=Hand()) as reader:
        yield reader


@pytest.mark.parametrize("protocol", ["", "?protocol=2"])
def test_boosts_of_a_list(fresh_redis, writer, protocol):
    """Counts, boosts and freshness of a list come back in its order, repeats and unknown documents included."""
    with BoostReader(Settings(redis={"url": fresh_redis.url + protocol}), clock=Hand()) as reader:
        boosts = reader.boosts(["wärm/🔥", "never", "hot", "hot", "\ud800"])
        assert boosts.counts.tolist() == [40, 0, 412, 412, 0]
        assert boosts.values == pytest.approx([1 + 0.2 * np.log(41) / np.log(413), 1, 1.2, 1.2, 1])
        assert (boosts.fresh_ms, boosts.age_seconds, boosts.neutral) == (NOW_MS, 0, False)
        assert [one.feature_id for one in boosts] == list(boosts.feature_ids)
        counts = reader.counts(["hot"], ["purchase", "click", "skip"], days=1)
        assert counts.by_signal.tolist() == [[0, 412, 0]]
        assert counts.uncounted == ("skip",)
        assert len(reader.boosts([])) == 0


def test_the_second_read_is_one_round_trip(fresh_redis, writer, reader):
    """After the first read each list costs three commands in one pipeline, whatever its length."""
    reader.boosts(["hot"])
    before = writer.redis.info("commandstats")
    reader.boosts(["hot", *(f"doc{i}" for i in range(500))])
    after = writer.redis.info("commandstats")
    calls = {name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after}
    assert {name: n for name, n in calls.items() if n and name != "cmdstat_info"} == {
        "cmdstat_get": 1,
        "cmdstat_hgetall": 1,
        "cmdstat_mget": 1,
    }


def test_a_flip_between_two_calls_is_followed_at_once(writer, reader):
    """The call after a rebuild sees the new generation, and only it."""
    assert reader.boosts(["hot"]).counts.tolist() == [412]
    writer.ring("g2", "hot", {("click", SLOT): 5})
    assert reader.boosts(["hot"]).counts.tolist() == [412]
    writer.activate("g2")
    assert reader.boosts(["hot", "wärm/🔥"]).counts.tolist() == [5, 0]
    assert reader.stats.failures == 0


def test_readers_see_the_old_or_the_new_generation_never_a_mix(fresh_redis, writer):
    """While the pointer flips all the time, every list of one reader and of many threads is of one generation."""
    docs = [f"d{i}" for i in range(30)]
    for name, count in (("g1", 1), ("g2", 2)):
        for doc in docs:
            writer.ring(name, doc, {("click", SLOT): count})
    seen, stop = set(), threading.Event()
    with BoostReader(settings_of(fresh_redis, timeout=5), clock=Hand()) as reader:

        def read():
            while not stop.is_set():
                boosts = reader.boosts(docs)
                seen.add((frozenset(boosts.counts.tolist()), boosts.reason))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(300):
            writer.activate("g1" if i % 2 else "g2", fresh_ms=None)
        stop.set()
        for thread in threads:
            thread.join()
    assert seen <= {(frozenset({1}), None), (frozenset({2}), None), (frozenset({0}), Reason.UNREADABLE)}
    assert {(frozenset({1}), None), (frozenset({2}), None)} <= seen


def test_the_end_of_the_window_reads_zero_with_all_writers_dead(fresh_redis, writer):
    """Counts fade by the reader's own clock, with nobody writing, down to nothing."""
    clock = Hand()
    with BoostReader(settings_of(fresh_redis, max_age_seconds=1e9), clock=clock) as reader:
        found = []
        for days in (0, 3, 6, 7, 7.25, 8):
            clock.at_ms = NOW_MS + int(days * MS_PER_DAY)
            found.append(int(reader.counts(["hot"], ["click"]).by_signal[0, 0]))
        assert found == [412, 412, 412, 400, 0, 0]
        assert reader.boosts(["hot"]).values.tolist() == [1.0]
        assert not reader.boosts(["hot"]).neutral


def test_stale_counters_are_neutral_but_can_be_looked_at(writer, reader):
    """If the slowest partition has stood still for too long the boosts are neutral, while counts stay readable."""
    writer.activate("g1", fresh_ms=NOW_MS - 3_601_000)
    boosts = reader.boosts(["hot"])
    assert (boosts.reason, boosts.values.tolist(), boosts.counts.tolist()) == (Reason.STALE, [1.0], [412])
    assert boosts.age_seconds == 3601
    assert "3,601 s behind" in boosts.detail
    assert reader.stats.stale == 1


def test_absence_is_neutral(fresh_redis, writer, reader):
    """No generation, or a generation of which no worker has reported progress, is no reason to fail."""
    writer.redis.delete(FRESH)
    assert reader.boosts(["hot"]).reason is Reason.ABSENT
    writer.redis.flushall()
    boosts = reader.boosts(["hot", "x"])
    assert (boosts.reason, boosts.values.tolist()) == (Reason.ABSENT, [1.0, 1.0])
    assert reader.stats.absent == 2
    writer.activate("g1")
    assert not reader.boosts(["hot"]).neutral


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.set(ACTIVE, b"\xff not JSON"),
        lambda c: c.set(ACTIVE, json.dumps({"name": "g1"})),
        lambda c: c.set(ring_key("hot", "g1"), b"abc"),
        lambda c: c.set(ring_key("hot", "g1"), b"\x01\x02\x03\xff" * 31),
        lambda c: c.hset(FRESH, "popularity/t/0", "soon"),
    ],
)
def test_foreign_content_is_neutral(writer, reader, spoil):
    """Whatever somebody writes under the keys, boosts are neutral and the failure is counted."""
    assert not reader.boosts(["hot"]).neutral
    spoil(writer.redis)
    assert reader.boosts(["hot", "x"]).reason is Reason.UNREADABLE
    assert reader.stats.failures == 1


def test_a_key_of_another_type_is_neutral(writer, reader):
    """An error reply of Redis is an unavailable Redis."""
    writer.redis.delete(ACTIVE)
    writer.redis.hset(ACTIVE, "a", "b")
    boosts = reader.boosts(["hot"])
    assert boosts.reason is Reason.UNAVAILABLE
    assert "WRONGTYPE" in boosts.detail


def test_a_dead_redis_is_neutral_and_its_return_is_noticed(fresh_redis, writer, reader):
    """Killed and started again: neutral meanwhile, real boosts at the first read after."""
    assert not reader.boosts(["hot"]).neutral
    fresh_redis.kill()
    assert reader.boosts(["hot"]).reason is Reason.UNAVAILABLE
    assert reader.counts(["hot"], ["click"]).by_signal.tolist() == [[0]]
    fresh_redis.start()
    writer.activate("g1")
    writer.ring("g1", "hot", {("click", SLOT): 7})
    assert reader.boosts(["hot"]).counts.tolist() == [7]


def test_a_paused_redis_costs_the_time_out_and_no_more(fresh_redis, writer, reader):
    """A Redis that hangs holds the search for the time-out; so does one that hangs before the first connection."""
    assert not reader.boosts(["hot"]).neutral
    fresh_redis.pause()
    try:
        with BoostReader(settings_of(fresh_redis), clock=Hand()) as newcomer:
            for one in (reader, newcomer):
                begun = time.perf_counter()
                assert one.boosts(["hot"]).reason is Reason.UNAVAILABLE
                assert time.perf_counter() - begun < PATIENCE
    finally:
        fresh_redis.resume()
    assert not reader.boosts(["hot"]).neutral
    assert reader.stats.failures == 1


def test_a_late_reply_is_never_taken_for_the_next_ones(fresh_redis, writer):
    """After a time-out the connection is given up, so that answers cannot shift by one call."""
    writer.ring("g1", "one", {("click", SLOT): 1})
    with BoostReader(settings_of(fresh_redis), clock=Hand()) as reader:
        reader.boosts(["hot"])
        for _ in range(5):
            fresh_redis.pause()
            assert reader.boosts(["hot"]).neutral
            fresh_redis.resume()
            assert reader.boosts(["one"]).counts.tolist() == [1]


def test_a_wrong_port_is_neutral():
    """Nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with BoostReader(f"redis://127.0.0.1:{free.getsockname()[1]}/0") as reader:
            boosts = reader.boosts(["hot"])
    assert (boosts.reason, boosts.values.tolist(), boosts.fresh_ms) == (Reason.UNAVAILABLE, [1.0], None)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://127.0.0.1:port", "redis://:secret@h:1x/0"])
def test_a_malformed_address_is_refused_without_repeating_the_password(url):
    """A mistake of configuration is told when the reader is made, not swallowed at each read."""
    with pytest.raises(SettingsError) as caught:
        BoostReader(url)
    assert "secret" not in f"{caught.value.message} {caught.value.fix}"


def test_problems_are_logged_once_a_minute(writer, reader, caplog):
    """A Redis that is away for long fills no log."""
    writer.redis.flushall()
    with caplog.at_level(logging.WARNING, "clickwell.serving"):
        for _ in range(20):
            reader.boosts(["hot"])
    assert [record.getMessage() for record in caplog.records] == [
        "boosts are neutral (absent): no generation of counters is active yet"
    ]
    assert reader.stats.absent == 20


def test_the_cache_spares_redis_and_forgets_in_time(fresh_redis, writer):
    """With a cache, a list read before is answered without Redis until its time is over or the generation changes."""
    clock = Hand()
    with BoostReader(settings_of(fresh_redis, cache_seconds=2), clock=clock) as reader:
        assert reader.boosts(["hot"]).counts.tolist() == [412]
        writer.ring("g1", "hot", {("click", SLOT): 1})
        writer.ring("g1", "new", {("click", SLOT): 2})
        assert reader.boosts(["hot", "hot"]).counts.tolist() == [412, 412]
        assert reader.boosts(["new", "hot"]).counts.tolist() == [2, 412]
        assert reader.stats.cache_hits == 2
        fresh_redis.pause()
        assert not reader.boosts(["new"]).neutral
        fresh_redis.resume()
        clock.at_ms += 2000
        assert reader.boosts(["hot"]).counts.tolist() == [1]
        writer.activate("g2")
        assert reader.boosts(["hot", "other"]).counts.tolist() == [0, 0]


def test_what_a_reader_remembers_is_bounded(fresh_redis, writer, monkeypatch):
    """However many documents pass by, keys and cached rings stay within their bound and the counts right."""
    monkeypatch.setattr("clickwell.serving.memory.CAPACITY", 100)
    with BoostReader(settings_of(fresh_redis, cache_seconds=60), clock=Hand()) as reader:
        for i in range(0, 2000, 40):
            assert reader.boosts(["hot", *(f"d{i + j}" for j in range(60))]).counts[0] == 412
        known = reader._memory._known
        assert len(known.keys) <= 100
        assert len(known.rings) <= 100


def test_a_fixed_cap_does_not_depend_on_the_list(reader):
    """With a cap of its own a document's boost is the same in every list."""
    stage = BoostByInteractionCount(cap=40)
    assert reader.boosts(["wärm/🔥"], stage).values == pytest.approx([1.2])
    assert reader.boosts(["wärm/🔥", "hot"], stage).values == pytest.approx([1.2, 1.2])


def test_asyncio_reads_the_same(fresh_redis, writer, reader):
    """The asynchronous reader agrees with the other one, many at once, and fails as openly."""
    docs = ["hot", "wärm/🔥", "never"]

    async def read():
        async with AsyncBoostReader(settings_of(fresh_redis, timeout=5), clock=Hand()) as aio:
            lists = await asyncio.gather(*(aio.boosts(docs) for _ in range(20)))
            counts = await aio.counts(docs, ["purchase"])
            fresh_redis.kill()
            return lists, counts, await aio.boosts(docs)

    expected = reader.boosts(docs)
    lists, counts, dead = asyncio.run(read())
    assert all(one.values.tolist() == expected.values.tolist() for one in lists)
    assert counts.by_signal.tolist() == [[31], [0], [0]]
    assert (dead.reason, dead.values.tolist()) == (Reason.UNAVAILABLE, [1.0] * 3)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking is what is tested
def test_a_reader_made_before_a_fork_serves_both(reader):
    """Parent and child read at the same time through one reader and get their own answers."""
    assert not reader.boosts(["hot"]).neutral
    child = os.fork()
    if child == 0:
        right = all(reader.boosts(["hot"]).counts.tolist() == [412] for _ in range(200))
        os._exit(0 if right else 1)
    right = all(reader.boosts(["wärm/🔥"]).counts.tolist() == [40] for _ in range(200))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert right
