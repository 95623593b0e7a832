"""What readers of users say, with a real Redis: answers, failures, the catalogue, the commands."""

import asyncio
import gzip
import json
import logging
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from fastapi import FastAPI
from fastapi.testclient import TestClient

from clickwell import AsyncInteractionReader, InteractionReader
from clickwell.clock import MS_PER_DAY
from clickwell.errors import InputError
from clickwell.privacy import load_keys
from clickwell.producers import catalog
from clickwell.producers.files import Lines
from clickwell.producers.publish import Form, publish
from clickwell.schemas.keys import FRESH, history_key
from clickwell.serving.api import people
from clickwell.serving.api.problems import add_problems
from clickwell.serving.snapshot import Reason
from clickwell.settings import Settings
from clickwell.sinks.load import Loader
from clickwell.testing import FakeClock

pytestmark = pytest.mark.broker

CLOCK = FakeClock()
NOW = CLOCK.now_ms()
SHOES = [
    {"feature_id": "trail", "brand": "Ridgeline", "tags": ["light", "waterproof"]},
    {"feature_id": "road", "brand": "Norrvik", "tags": ["light"]},
    {"feature_id": "peak", "brand": "Ridgeline"},
    {"feature_id": "wärm/🔥", "brand": "Vento"},
]


def settings_of(server, **boosts):
    return Settings(redis={"url": server.url}, boosts={"timeout": 2, **boosts})


@pytest.fixture
def client(fresh_redis):
    """An empty Redis in which one user has a history, and workers have just reported."""
    with redis.Redis.from_url(fresh_redis.url) as client:
        client.hset(FRESH, mapping={"history/t/0": NOW - 500, "history/t/1": NOW, "popularity/t/0": 5})
        for signal, documents in {
            "purchase": {"trail": NOW - MS_PER_DAY, "wärm/🔥": NOW - 40 * MS_PER_DAY},
            "click": {"trail": NOW - MS_PER_DAY - 60_000, "road": NOW - 2 * MS_PER_DAY, "old": NOW - 91 * MS_PER_DAY},
            "negative_feedback": {"dull": NOW},
        }.items():
            client.zadd(history_key("u:1/ü", signal), documents)
        yield client


@pytest.fixture(params=["", "?protocol=3"])
def reader(request, fresh_redis, client):
    """A reader of it, with each of the two protocols."""
    settings = Settings(redis={"url": fresh_redis.url + request.param}, boosts={"timeout": 2})
    with InteractionReader(settings, clock=CLOCK) as reader:
        yield reader


def test_a_list_is_what_the_user_did(reader):
    """Newest first, by signal, within the days; nothing older than what is kept."""
    found = reader.list(user_id="u:1/ü", interaction_type=["purchase", "click"])
    assert [(one.feature_id, one.interaction_type) for one in found] == [
        ("trail", "purchase"), ("trail", "click"), ("road", "click"), ("wärm/🔥", "purchase"),
    ]  # fmt: skip
    assert found[0].timestamp == NOW - MS_PER_DAY
    assert (found.reason, found.fresh_ms) == (None, NOW - 500)
    assert found.document_ids == ["trail", "road", "wärm/🔥"]
    assert len(reader.list("u:1/ü", days=1.5)) == 3
    assert len(reader.list("u:1/ü", ["click"], days=1000)) == 2
    assert len(reader.list("u:1/ü", [])) == len(reader.list("nobody")) == len(reader.list("\ud800")) == 0


def test_an_exclusion_is_what_was_bought(reader):
    """Purchases unless other signals are named, and what was disliked if asked; results lose exactly these."""
    assert reader.exclusion("u:1/ü").filter == {"document_id": {"$nin": ["trail", "wärm/🔥"]}}
    assert reader.exclusion("u:1/ü", days=30).document_ids == ["trail"]
    assert reader.exclusion("u:1/ü", negative_feedback=True).document_ids == ["dull", "trail", "wärm/🔥"]
    assert reader.exclusion("u:1/ü", ["click"], field="sku").filter == {"sku": {"$nin": ["trail", "road"]}}
    results = [{"id": name, "score": 1} for name in ("dull", "trail", "new", "wärm/🔥")]
    assert [one["id"] for one in reader.deduplicate(results, "u:1/ü")] == ["dull", "new"]
    assert [one["id"] for one in reader.deduplicate(results, "u:1/ü", negative_feedback=True)] == ["new"]
    assert reader.deduplicate(results, "nobody") == results
    assert reader.deduplicate(["trail", "new"], "u:1/ü") == ["new"]
    with pytest.raises(InputError):
        reader.deduplicate([{"title": "no id"}], "u:1/ü")


def test_a_personal_order_follows_the_catalogue(fresh_redis, reader, tmp_path):
    """What was bought lifts its brand; a stranger's order is the one given."""
    path = tmp_path / "shoes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SHOES))
    loaded = catalog.load(settings_of(fresh_redis), [str(path)])
    assert (loaded.documents, loaded.described, loaded.attributes["brand"], loaded.rejected) == (4, 4, 4, 0)
    profile = reader.profile("u:1/ü")
    assert next(iter(profile.attributes["brand"])) == "Ridgeline"
    assert profile.reason is None
    results = [("unknown", 1.01), ("peak", 1.0)]
    ranked = reader.personalize(results, "u:1/ü", 0.5, explain=True)
    assert [one.item for one in ranked] == results[::-1]
    assert "brand Ridgeline" in ranked[0].why.sentence
    stranger = reader.personalize(results[::-1], "nobody", 0.5)
    assert [(one.item, one.score) for one in stranger] == [(result, result[1]) for result in results[::-1]]


def test_a_user_is_known_under_every_pseudonym(fresh_redis, client):
    """Readers ask by the plain name; what was done under several pseudonyms counts once, the newest."""
    keys = {"k1": "0123456789abcdef", "k2": "fedcba9876543210"}
    settings = Settings(redis={"url": fresh_redis.url}, privacy={"pseudonyms": True, "keys": keys})
    old, new = (load_keys(settings).pseudonym("u:1/ü", key) for key in keys)
    client.zadd(history_key(old, "purchase"), {"trail": NOW - 5, "tent": NOW - 6})
    client.zadd(history_key(new, "purchase"), {"trail": NOW - 4, "lamp": NOW - 3})
    with InteractionReader(settings, clock=CLOCK) as reader:
        found = reader.list("u:1/ü", ["purchase"])
        assert [(one.feature_id, NOW - one.timestamp) for one in found][:3] == [("lamp", 3), ("trail", 4), ("tent", 6)]
        assert found.document_ids == ["lamp", "trail", "tent", "wärm/🔥"]


def test_a_dead_redis_excludes_nothing(fresh_redis, reader):
    """Every answer says that nothing is known, none raises, and the failures are counted; then it is back."""
    fresh_redis.kill()
    assert reader.list("u:1/ü").reason is Reason.UNAVAILABLE
    found = reader.exclusion("u:1/ü")
    assert found.filter == {"document_id": {"$nin": []}}
    assert found.as_dict()["reason"] == "unavailable"
    results = [("a", 1.0), ("b", 2.0)]
    assert reader.deduplicate(results, "u:1/ü") == results
    assert [one.item for one in reader.personalize(results, "u:1/ü")] == results
    assert reader.profile("u:1/ü").reason is Reason.UNAVAILABLE
    assert reader.stats.unavailable == reader.stats.reads == 5
    fresh_redis.start()
    assert reader.list("u:1/ü").reason in {None, Reason.ABSENT}


def test_stale_is_told_but_used(fresh_redis, client, caplog):
    """What workers that are far behind have remembered is true: it is used, counted and logged once."""
    client.hset(FRESH, "history/t/0", NOW - 2 * 3_600_000)
    with InteractionReader(settings_of(fresh_redis), clock=CLOCK) as reader, caplog.at_level(logging.WARNING):
        found = [reader.exclusion("u:1/ü") for _ in range(3)]
    assert found[0].consumption.reason is Reason.STALE
    assert found[0].document_ids == ["trail", "wärm/🔥"]
    assert reader.stats.stale == 3
    assert len(caplog.records) == 1


def test_without_workers_the_answer_says_so(fresh_redis, client):
    """No worker has ever reported for the history."""
    client.hdel(FRESH, "history/t/0", "history/t/1")
    with InteractionReader(settings_of(fresh_redis), clock=CLOCK) as reader:
        assert reader.list("nobody").reason is Reason.ABSENT


def test_foreign_content_excludes_nothing(fresh_redis, client):
    """A key of another type is an unusable answer; a spoilt entry of the catalogue is no attribute."""
    client.set(history_key("odd", "purchase"), "text")
    client.hset(catalog.catalog_key(catalog.shard_of("trail")), "trail", b"\xff")
    with InteractionReader(settings_of(fresh_redis), clock=CLOCK) as reader:
        assert reader.exclusion("odd").consumption.reason is Reason.UNAVAILABLE
        assert reader.profile("u:1/ü").attributes == {}
        assert reader.stats.unreadable == 1


def test_asyncio_reads_the_same(fresh_redis, client, reader):
    """The asynchronous reader agrees with the other one."""
    results = [("trail", 1.0), ("road", 3.0)]

    async def read():
        async with AsyncInteractionReader(settings_of(fresh_redis), clock=CLOCK) as aio:
            return (
                await aio.list("u:1/ü"),
                (await aio.exclusion("u:1/ü")).filter,
                await aio.deduplicate(results, "u:1/ü"),
                await aio.profile("u:1/ü"),
                await aio.personalize(results, "u:1/ü"),
            )

    assert asyncio.run(read()) == (
        reader.list("u:1/ü"),
        reader.exclusion("u:1/ü").filter,
        reader.deduplicate(results, "u:1/ü"),
        reader.profile("u:1/ü"),
        reader.personalize(results, "u:1/ü"),
    )


def entries(client):
    return {
        name.decode(): json.loads(value)
        for shard in range(64)
        for name, value in client.hgetall(catalog.catalog_key(shard)).items()
    }


def test_a_load_replaces_the_catalogue(fresh_redis, client, tmp_path):
    """JSON lines and Parquet give the same; what the new files lack is gone; a bad file changes nothing."""
    settings = settings_of(fresh_redis)
    lines, parquet = tmp_path / "a.jsonl.gz", tmp_path / "a.parquet"
    lines.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in SHOES).encode()))
    pq.write_table(pa.Table.from_pylist(SHOES), parquet)
    catalog.load(settings, [str(lines)], names=["brand", "tags"])
    by_lines = entries(client)
    assert by_lines["trail"] == {"brand": ["Ridgeline"], "tags": ["light", "waterproof"]}
    catalog.load(settings, [str(parquet)], names=["brand", "tags"])
    assert entries(client) == by_lines
    odd = tmp_path / "odd.jsonl"
    for content, problem in (
        ('{"id": "x", "brand": "B"}\nnot JSON\n', "line 2 is not a JSON object"),
        ('{"name": "x", "brand": "B"}\n', "no row has an id and one of the attributes"),
        ("", "no row has an id and one of the attributes"),
    ):
        odd.write_text(content)
        with pytest.raises(InputError, match=problem):
            catalog.load(settings, [str(odd)])
        assert entries(client) == by_lines
    odd.write_text('{"sku": 7, "brand": "B"}\n{"sku": null, "brand": "B"}\n{"sku": "a\\u0000b", "brand": "B"}\n')
    assert catalog.load(settings, [str(odd)], id_name="sku").rejected == 2
    assert entries(client) == {"7": {"brand": ["B"]}}
    assert not list(client.scan_iter("*:draft"))


def test_the_commands(fresh_redis, client, clickwell, tmp_path):
    """`exclude`, `profile` and `catalog load` print what the readers say, and an error when Redis is away."""
    environment = {"CLICKWELL_REDIS__URL": fresh_redis.url, "CLICKWELL_DATA": str(tmp_path)}
    client.zadd(history_key("u:1/ü", "purchase"), {"now": 1_900_000_000_000})
    path = tmp_path / "shoes.jsonl"
    path.write_text(json.dumps({"id": "now", "brand": "Ridgeline"}))
    loaded = clickwell("catalog", "load", path, "--json", **environment)
    assert json.loads(loaded.stdout)["described"] == 1, loaded.stderr
    excluded = clickwell("exclude", "u:1/ü", "--json", "--signal", "purchase", "--signal", "skip", **environment)
    assert json.loads(excluded.stdout) == {"document_id": {"$nin": ["now"]}}
    assert "not remembered by the workers: skip" in excluded.stderr
    assert "behind" in excluded.stderr
    profile = json.loads(clickwell("profile", "u:1/ü", "--json", **environment).stdout)
    assert profile["attributes"] == {"brand": {"Ridgeline": 5.0}}
    fresh_redis.kill()
    dead = clickwell("exclude", "u1", **environment)
    assert (dead.returncode, dead.stdout) == (4, "")
    assert "CW-210" in dead.stderr


def test_the_routes(fresh_redis, client, tmp_path):
    """Exclusions come with every form, a session as its story; unknown sessions and bad fields are problems."""
    client.zadd(history_key("a/b", "purchase"), {"now": time.time_ns() // 1_000_000})
    path = tmp_path / "sessions.jsonl"
    path.write_text(json.dumps({"search_id": "q1", "t_ms": NOW, "session_id": "s/1", "docs": ["a"], "clicks": []}))
    settings = Settings.load(tmp_path, redis={"url": fresh_redis.url}, boosts={"timeout": 2})
    with Lines([str(path)], twice=True) as lines:
        publish(lines, Loader(settings, "run"), Form("sessions", "shop", 30_000))
    reader = AsyncInteractionReader(settings)

    @asynccontextmanager
    async def lifespan(_app):
        yield
        await reader.aclose()

    app = FastAPI(lifespan=lifespan)
    app.state.services = SimpleNamespace(
        settings=settings,
        interactions=reader,
        access=SimpleNamespace(admit=lambda _request, _scope: SimpleNamespace(spend=AsyncMock())),
    )
    app.include_router(people.router)
    add_problems(app)
    with TestClient(app, client=("127.0.0.1", 1)) as http:
        excluded = http.get("/v1/users/a%2Fb/exclusions", params={"field": "sku", "negative_feedback": "true"}).json()
        assert (excluded["filter"], excluded["count"]) == ({"sku": {"$nin": ["now"]}}, 1)
        assert excluded["sql"]["parameters"] == ["now"]
        assert http.get("/v1/users/a/exclusions", params={"field": "x; drop"}).status_code == 400
        assert http.get("/v1/users/a/exclusions", params={"interaction_type": "Not A Name"}).status_code == 400
        assert [event["event"] for event in http.get("/v1/sessions/s%2F1").json()["events"]] == ["search"]
        assert http.get("/v1/sessions/nobody").json()["code"] == "unknown_session"
        fresh_redis.kill()
        assert http.get("/v1/users/a/exclusions").json()["reason"] == "unavailable"
