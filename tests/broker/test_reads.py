"""Counts, trending and progress against a real Valkey (and Kafka), and the commands that print them."""

import json
import os
import threading
import time
from collections import Counter

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from clickwell.clock import MS_PER_HOUR
from clickwell.errors import DependencyError, KafkaError, LayoutError, RedisError
from clickwell.kafka import KafkaLog
from clickwell.redis_client import active_generation, connect
from clickwell.schemas.keys import ACTIVE, FRESH, SHARDS, ledger_field, ledger_key, ring_key, shard_of, trending_key
from clickwell.schemas.rings import Generation, Layout, encode
from clickwell.serving.counts import CountRow, rows_of, summary
from clickwell.serving.progress import applied, wait_applied
from clickwell.serving.trending import top
from clickwell.settings import PopularitySettings, Settings
from tests.processes import clickwell

pytestmark = pytest.mark.broker

LAYOUT = Layout.of(PopularitySettings())
GENERATION = Generation(name="g1", layout=LAYOUT, half_life_hours=24)
NOW_MS = time.time_ns() // 1_000_000
SLOT = LAYOUT.slot(NOW_MS)


class At:
    """A clock that stands still."""

    def __init__(self, hour):
        self.hour = hour

    def now_ms(self):
        return self.hour * MS_PER_HOUR + 1234


@pytest.fixture
def settings(fresh_redis):
    return Settings(redis={"url": fresh_redis.url})


@pytest.fixture
def client(settings):
    with connect(settings) as client:
        client.set(ACTIVE, GENERATION.model_dump_json())
        yield client


def put(client, doc, counts, name="g1"):
    client.set(ring_key(doc, name), encode(counts, LAYOUT))


def command(*words, url, code=0):
    """Run a command as a user would; return its stdout and stderr."""
    run = clickwell(*words, env=os.environ | {"CLICKWELL_REDIS__URL": url})
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout, run.stderr


def test_counts_lists_every_cell_of_the_window_once(client):
    """All documents of the active generation, every shard, odd names included; nothing older, nobody else's keys."""
    expected = set()
    for i in range(3000):
        doc = f"dö:c:{{s001}}*{i}"
        put(client, doc, {("click", SLOT): i + 1, ("purchase", SLOT - 28): 2, ("click", SLOT - 29): 9})
        expected |= {
            CountRow(doc, "click", SLOT * LAYOUT.slot_ms, i + 1),
            CountRow(doc, "purchase", (SLOT - 28) * LAYOUT.slot_ms, 2),
        }
    put(client, "other", {("click", SLOT): 1}, name="g10")
    client.hset(ledger_key(0, "g1"), "generation", "g1")
    rows = list(rows_of(client, GENERATION, at_ms=NOW_MS))
    assert Counter(rows) == Counter(expected)
    one = list(rows_of(client, GENERATION, feature_id="dö:c:{s001}*7", at_ms=NOW_MS))
    assert [(row.signal, row.count) for row in one] == [("click", 8), ("purchase", 2)]
    assert list(rows_of(client, GENERATION, feature_id="none", at_ms=NOW_MS)) == []


def test_counts_survive_a_table_that_shrinks_meanwhile(client):
    """Keys that SCAN repeats or that vanish during the reading change nothing for the ones that stay."""
    pipeline = client.pipeline(transaction=False)
    for i in range(20_000):
        pipeline.set(ring_key(f"d{i}", "g1"), encode({("click", SLOT): 1}, LAYOUT))
    pipeline.execute()
    seen = Counter()
    for n, row in enumerate(rows_of(client, GENERATION, at_ms=NOW_MS)):
        seen[row.feature_id] += 1
        if n == 1000:
            client.delete(*(ring_key(f"d{i}", "g1") for i in range(20_000) if i % 50))
    assert max(seen.values()) == 1
    assert {f"d{i}" for i in range(0, 20_000, 50)} <= set(seen)


def test_the_summary_adds_up(client):
    """Totals by signal, documents, cells and what they cover."""
    put(client, "a", {("click", SLOT): 3, ("purchase", SLOT): 1})
    put(client, "b", {("click", SLOT - 1): 4})
    client.hset(FRESH, mapping={"popularity/t/0": 17, "popularity/t/1": 12})
    assert summary(client, GENERATION, at_ms=NOW_MS) == {
        "documents": 2,
        "cells": 3,
        "total": {"click": 7, "purchase": 1},
        "window_start": (SLOT - 28) * LAYOUT.slot_ms,
        "generation": "g1",
        "fresh_ms": 12,
    }


def test_foreign_bytes_among_the_rings_are_an_error(client):
    """An audit does not skip what it cannot read."""
    client.set(ring_key("a", "g1"), b"abc")
    with pytest.raises(LayoutError):
        list(rows_of(client, GENERATION))


def test_trending_merges_shards_and_eras(client, settings):
    """Weights of all shards are brought to now, also of a shard that has not written since the era began."""
    begins = 77 * 256 * 24
    model = {f"d{i}": (i % 7 + 1.0, begins + i % 40 - 20) for i in range(200)}
    for doc, (weight, hour) in model.items():
        era = GENERATION.era(hour)
        client.zadd(trending_key(shard_of(doc), "g1", era), {doc: weight * GENERATION.growth(era, hour)})
    # As a writer opens an era: what the shard had in the one before comes along, scaled down.
    for shard in range(SHARDS):
        new, old = (trending_key(shard, "g1", era) for era in (77, 76))
        if client.exists(new):
            client.zunionstore("tmp", {old: 2.0**-256, new: 1})
            client.rename("tmp", new)
    now_hour = begins + 30
    expected = sorted(((w * 2 ** (-(now_hour - h) / 24), doc) for doc, (w, h) in model.items()), reverse=True)
    found = top(settings, 25, clock=At(now_hour))
    assert [one.weight for one in found] == pytest.approx([weight for weight, _ in expected[:25]])
    assert [one.rank for one in found] == list(range(1, 26))
    # A day later the order is the same and everything weighs half.
    later = top(settings, 25, clock=At(now_hour + 24))
    assert [one.weight for one in later] == pytest.approx([one.weight / 2 for one in found])
    assert top(settings, 0) == []


def test_trending_before_the_first_event_is_empty(client, settings):
    """Neither an empty generation nor none at all is an error; a dead Redis is."""
    assert top(settings) == []
    client.delete(ACTIVE)
    assert top(settings) == []
    with pytest.raises(RedisError):
        top(Settings(redis={"url": "redis://127.0.0.1:1/0"}))


def ledgers(client, field, offset, shards=range(SHARDS)):
    for shard in shards:
        client.hset(ledger_key(shard, "g1"), mapping={"generation": "g1", "ids:popularity": "3", field: f"{offset} 9"})


def test_applied_is_the_slowest_shards_offset(client):
    """The least of 64 shards counts; a shard that knows nothing has applied nothing; other fields are no offsets."""
    ledgers(client, "popularity/A/0", 10)
    ledgers(client, "popularity/A/0", 7, [13])
    ledgers(client, "popularity/A/1", 5, range(63))
    assert applied(client, GENERATION) == {"popularity/A/0": 7, "popularity/A/1": 0}


def test_waiting_ends_when_the_last_lane_is_there(client, settings, kafka):
    """Waiting follows all lanes of a topic, tells what is left, ignores topics without a lane, names the laggard."""
    settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": kafka})})
    names = [f"progress-{time.time_ns()}-{kind}" for kind in ("used", "unused")]
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics([NewTopic(name, 2, 1) for name in names]).values():
        future.result(30)
    topic_id = KafkaLog(settings.kafka).describe(names[0])[0]
    targets = {names[0]: {0: 100, 1: 50}, names[1]: {0: 9}}
    with pytest.raises(DependencyError) as caught:
        wait_applied(settings, targets, 0.2)
    assert caught.value.why == "no worker has ever reported on these topics"
    for lane, offset in (("popularity", 50), ("engagement", 40)):
        for partition in (0, 1):
            ledgers(client, ledger_field(lane, topic_id, partition), offset)
    with pytest.raises(DependencyError) as caught:
        wait_applied(settings, targets, 0.2)
    assert caught.value.why == f"engagement is 60 records behind on {names[0]}, partition 0"

    def work():
        for lane in ("popularity", "engagement"):
            for partition in (0, 1):
                ledgers(client, ledger_field(lane, topic_id, partition), 100)

    left = []
    worker = threading.Timer(0.3, work)
    worker.start()
    assert wait_applied(settings, targets, 30, left.append) == ["engagement", "popularity"]
    worker.join()
    assert left[0] == 60 + 10 + 50
    with pytest.raises(KafkaError, match="no-such-topic"):
        wait_applied(settings, {"no-such-topic": {0: 1}}, 1)


def test_boost_prints_what_a_reranker_gets(client, fresh_redis):
    """A table for people with reasons, one object for programs, and a warning for signals that nobody counts."""
    put(client, "hot", {("click", SLOT): 412, ("purchase", SLOT): 31})
    client.hset(FRESH, "popularity/t/0", NOW_MS)
    out, _ = command("boost", "hot", "cold", "--explain", url=fresh_redis.url)
    assert out.splitlines() == [
        "document\tboost\tcount\twhy",
        "hot\t1.200\t412\t412 clicks in 7 days",
        "cold\t1.000\t0\tno clicks in 7 days",
    ]
    words = ("--signal", "click", "--signal", "purchase=5", "--signal", "skip", "--multiplier", "2", "--json")
    out, err = command("boost", "hot", "cold", *words, url=fresh_redis.url)
    answer = json.loads(out)
    assert answer["documents"][0] == {
        "feature_id": "hot",
        "boost": 2.0,
        "count": 412 + 155,
        "by_signal": {"click": 412, "purchase": 31, "skip": 0},
        "window_days": 7,
    }
    assert (answer["fresh_ms"], answer["reason"]) == (NOW_MS, None)
    assert "not counted by the workers: skip" in err


def test_top_and_counts_print(client, fresh_redis):
    """Tables, JSON and JSON lines hold what Redis holds."""
    put(client, "hot", {("click", SLOT): 412, ("purchase", SLOT - 1): 31})
    hour = NOW_MS // MS_PER_HOUR
    era = GENERATION.era(hour)
    client.zadd(trending_key(shard_of("hot"), "g1", era), {"hot": 8 * GENERATION.growth(era, hour - 24 * 30)})
    rank, doc, _ = command("top", url=fresh_redis.url)[0].splitlines()[1].split("\t")
    assert (rank, doc) == ("1", "hot")
    assert json.loads(command("top", "--k", "3", "--json", url=fresh_redis.url)[0])["top"][0]["feature_id"] == "hot"
    rows = [json.loads(line) for line in command("counts", "--jsonl", url=fresh_redis.url)[0].splitlines()]
    slot_ms = LAYOUT.slot_ms
    assert rows == [
        {"feature_id": "hot", "signal": "click", "slot_start": SLOT * slot_ms, "count": 412},
        {"feature_id": "hot", "signal": "purchase", "slot_start": (SLOT - 1) * slot_ms, "count": 31},
    ]
    assert command("counts", "--document", "none", url=fresh_redis.url)[0] == "feature_id\tsignal\tslot_start\tcount\n"
    assert json.loads(command("counts", "--json", url=fresh_redis.url)[0])["total"] == {"click": 412, "purchase": 31}


def test_commands_on_an_empty_redis_warn_and_on_none_fail(client, fresh_redis):
    """Nothing counted yet is a warning; a Redis that is away is exit 4, a wrong call is exit 2, in one clear line."""
    client.flushall()
    for words in (["boost", "a"], ["top"], ["counts"], ["counts", "--json"]):
        assert command(*words, url=fresh_redis.url)[1].startswith("!")
    assert active_generation(client) is None
    fresh_redis.kill()
    for words in (["boost", "a"], ["top"], ["counts"]):
        assert "error: " in command(*words, url=fresh_redis.url, code=4)[1]
    for words in (
        ["boost", "a", "--signal", "click=x"],
        ["boost", "a", "--multiplier", "-1"],
        ["boost", "a", "--days", "99"],
        ["counts", "--json", "--jsonl"],
        ["top", "--k", "0"],
        ["boost"],
    ):
        command(*words, url=fresh_redis.url, code=2)
