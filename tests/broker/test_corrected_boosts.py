"""Corrected popularity on its way from the lake through Redis into a reranked list and out of the API."""

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from clickwell.analytics.corrected import popularity, publish
from clickwell.analytics.signals import get_retriever_signals
from clickwell.errors import RedisError, SettingsError
from clickwell.redis_client import connect
from clickwell.schemas.keys import CORRECTED, corrected_key
from clickwell.serving.api.app import build_app
from clickwell.serving.boosts import AsyncBoostReader, BoostReader
from clickwell.serving.rerank import arerank, rerank
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight

pytestmark = pytest.mark.broker
START = datetime(2026, 1, 5, tzinfo=UTC).date()
UNTIL = START + timedelta(days=6)
STAGE = {"signal": "corrected_ctr", "retriever_id": "site", "boost_multiplier": 1.5}


@pytest.fixture
def published(tmp_path, fresh_redis):
    """Settings of a lake and a Redis that holds its corrected popularity, and what was published."""
    settings = Settings.load(tmp_path, redis={"url": fresh_redis.url})
    Site(Plan(queries=30)).write(settings, start_ms=midnight(START), days=7, searches=3_000)
    found = popularity(settings, "site")
    assert publish(settings, "site", found) == len(found.documents) + len(found.pairs)
    return settings, found


def test_a_list_is_ordered_by_what_was_published(published):
    """Boosts follow the lower bounds, over all queries or for one; strangers stay neutral; asyncio gives the same."""
    settings, found = published
    documents = {row["feature_id"]: row for row in found.documents.to_pylist()[:6]}
    results = [(document, 1.0) for document in [*reversed(documents), "stranger"]]
    with BoostReader(settings) as reader:
        ranked = rerank(results, reader, STAGE, explain=True)
        best = max(row["low"] for row in documents.values())
        for each in ranked[:-1]:
            low = documents[each.feature_id]["low"]
            assert each.boost == pytest.approx(1 + 0.5 * low / best, abs=1e-4)
            assert "corrected CTR" in each.why.sentence
        assert (ranked[-1].feature_id, ranked[-1].boost) == ("stranger", 1.0)
        query = found.pairs["query_key"][0].as_py()
        mine = [row for row in found.pairs.to_pylist() if row["query_key"] == query]
        one = rerank([(row["feature_id"], 1.0) for row in mine], reader, STAGE | {"query": f" {query.upper()} "})
        lows = {row["feature_id"]: round(row["low"], 6) for row in mine}
        order = [lows[each.feature_id] for each in one]
        assert order == sorted(order, reverse=True)
        assert reader.stats.failures == 0
        # A stage that counts beside it is neutral, for nothing is counted here.
        both = rerank(results, reader, [STAGE, {"interaction_types": ["click"]}])
        assert [each.boost for each in both] == [each.boost for each in ranked]

    async def asked():
        async with AsyncBoostReader(settings) as reader:
            return await arerank(results, reader, [STAGE, {"interaction_types": ["click"]}])

    assert [each.boost for each in asyncio.run(asked())] == [each.boost for each in ranked]


def test_publishing_again_replaces_and_expires(published):
    """What is no longer there is gone after the next time, and everything fades when nobody renews it."""
    settings, found = published
    with connect(settings) as client:
        keys = {key.decode() for key in client.scan_iter(f"{CORRECTED}*")}
        assert corrected_key("site") in keys
        assert len(keys) == 1 + len(set(found.pairs["query_key"].to_pylist()))
        assert all(0 < client.ttl(key) <= 3 * 86_400 for key in keys)
        client.hset(corrected_key("site"), "ghost", "1 1")
        publish(settings, "site", found)
        assert not client.hexists(corrected_key("site"), "ghost")


def test_trouble_is_neutral_and_counted(published, fresh_redis):
    """An unreadable number, a Redis that is gone and a malformed stage: two boosts of 1, counted, and one error."""
    settings, found = published
    document = found.documents["feature_id"][0].as_py()
    with BoostReader(settings) as reader:
        with pytest.raises(SettingsError):
            rerank([(document, 1.0)], reader, STAGE | {"bound": "high"})
        with connect(settings) as client:
            client.hset(corrected_key("site"), document, "nonsense")
        broken = rerank([(document, 2.0)], reader, STAGE, explain=True)[0]
        assert (broken.boost, reader.stats.unreadable) == (1.0, 1)
        fresh_redis.kill()
        gone = rerank([(document, 2.0)], reader, STAGE, explain=True)[0]
        assert (gone.boost, reader.stats.unavailable) == (1.0, 1)
    with pytest.raises(RedisError):
        publish(settings, "site", found)


def test_the_commands_print_what_the_functions_say(published, clickwell):
    """`signals`, `corrected`, `report` and `alerts check` run on a lake; their JSON parses."""
    settings, found = published

    def run(*arguments, code=0):
        done = clickwell(*arguments, "--data", settings.data)
        assert done.returncode == code, done.stderr
        return done.stdout

    # A second try of the last evening may fall on the day after.
    days = ("--since", START.isoformat(), "--until", (UNTIL + timedelta(days=1)).isoformat())
    signals = json.loads(run("signals", *days, "--json"))
    assert signals["numbers"]["ctr"]["of"] == sum(found.documents["shown"].to_pylist())
    assert {"ctr_by_position", "low_ctr_queries", "skipped_documents", "zero_result_queries"} <= signals.keys()
    assert run("signals", *days).startswith("\tvalue\tchange\nsearches\t")
    corrected = json.loads(run("corrected", *days, "--json", "--limit", "3"))
    assert [row["feature_id"] for row in corrected["documents"]] == found.documents["feature_id"].to_pylist()[:3]
    assert run("report", *days).startswith("<!doctype html>")
    assert run("report", *days, "--format", "markdown").startswith("# Relevance of site")
    checked = json.loads(run("alerts", "check", "--at", f"{UNTIL}T20:00", "--json"))
    assert checked == {"checked_ms": midnight(UNTIL) + 20 * 3_600_000, "retrievers": 1, "open": [], "closed": []}
    stopped = json.loads(run("alerts", "check", "--at", f"{UNTIL + timedelta(days=3)}T20:00", "--json", code=3))
    assert [alert["rule"] for alert in stopped["open"]] == ["events_stopped"]
    run("signals", "--retriever", "site", "--since", "2026-13-01", code=2)


def test_routes_answer_what_the_functions_say(published):
    """`/signals`, `/ctr`, `/queries` and `/documents` are parts of one answer; bad days are refused in words."""
    settings, _ = published
    app = build_app(settings)
    about = {"since": START.isoformat(), "until": UNTIL.isoformat()}

    async def asked():
        # As the server does when it starts: without keys, only this machine is served.
        await app.state.services.access.refresh()
        transport = httpx2.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            names = ("signals", "ctr", "queries", "documents")
            found = {name: await client.get(f"/v1/retrievers/site/{name}", params=about) for name in names}
            wrong = await client.get("/v1/retrievers/site/ctr", params={"since": "2026-02-01", "until": "2026-01-01"})
            await app.state.services.redis.aclose()
            await app.state.services.reader.aclose()
            return found, wrong

    found, wrong = asyncio.run(asked())
    assert {name: answer.status_code for name, answer in found.items()} == dict.fromkeys(found, 200)
    whole = found["signals"].json()
    mine = get_retriever_signals("site", settings=settings, since=START, until=UNTIL)
    assert whole["numbers"]["ctr"] == asdict(mine.ctr)
    for name, parts in (("ctr", "ctr_by_position"), ("queries", "zero_result_queries"), ("documents", "blind_spots")):
        assert found[name].json()[parts] == whole[parts]
        assert found[name].json()["retriever_id"] == "site"
    assert wrong.status_code in {400, 422}
    assert "after the last" in wrong.text
