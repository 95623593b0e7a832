"""The Python client, the dialects and the dead letters over HTTP, against a real API process and a real broker."""

import asyncio
import json
import subprocess
import time
from http.server import HTTPServer
from pathlib import Path

import httpx2
import pytest

from clickwell import AsyncClient, Client, Interaction, Search
from clickwell.dead_letters import DeadLetters, Source
from clickwell.errors import DecodeError, DependencyError, LakeError, UsageError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.producers import metarank, ubi
from clickwell.producers.topics import ensure_topics
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.schemas.wire import new_id
from clickwell.settings import Settings
from tests.processes import CLICKWELL, commands_on, own_environment, wait_for
from tests.web import Quiet, serving

pytestmark = pytest.mark.broker

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def settings(fresh_kafka):
    """A broker of this module's own: what others have asked to be erased would need their keys."""
    settings = Settings(kafka={"bootstrap_servers": fresh_kafka().address})
    ensure_topics(settings)
    return settings


@pytest.fixture(scope="module")
def served(settings, tmp_path_factory):
    """Address of an API process with servers of its own, and a function that runs a command beside it."""
    from clickwell.devstack.valkey import ValkeyServer

    folder = tmp_path_factory.mktemp("api")
    with ValkeyServer(folder) as valkey:
        addresses = {
            "CLICKWELL_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
            "CLICKWELL_REDIS__URL": valkey.url,
        }
        command = [*CLICKWELL, "api", "--port", "0", "--json", "--data", folder]
        with (folder / "api.log").open("wb") as log:
            process = subprocess.Popen(command, env=own_environment(**addresses), stdout=subprocess.PIPE, stderr=log)
        try:
            yield json.loads(process.stdout.readline())["address"], commands_on(folder, **addresses)
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


@pytest.fixture
def client(served):
    with Client(base_url=served[0]) as client:
        yield client


@pytest.fixture
def sent(settings):
    """A function that returns the events that were sent since the test began, as JSON objects."""
    log = KafkaLog(settings.kafka)
    topics = {name: log.describe(name)[1] for name in (INTERACTIONS.name, SEARCHES.name)}
    begins = {name: log.latest(name, range(partitions)) for name, partitions in topics.items()}

    def read():
        return [
            json.loads(record.value)
            for name, begin in begins.items()
            for record in log.read(name, begin, log.latest(name, begin))
        ]

    return read


def test_an_interaction_is_created_once(client, sent):
    """The verdict tells what the event is good for; the same id again is a duplicate, and in the log once."""
    made = client.interactions.create("doc", "click", position=2, metadata={"query": "tent"}, user_id="u")
    assert made.verdict == "accepted"
    assert {"boost", "training", "personalization"} <= set(made.uses)
    assert [lack.field for lack in made.not_used_for] == ["execution_id"]
    again = client.interactions.create("doc", ["click"], interaction_id=made.interaction_id)
    assert (again.verdict, again.interaction_id) == ("duplicate", made.interaction_id)
    (event,) = sent()
    assert (event["interaction_id"], event["position"]) == (made.interaction_id, 2)


def test_a_bad_interaction_raises(client, sent):
    """The error names the field; a batch gives verdicts instead, also when all of it is bad."""
    with pytest.raises(DecodeError) as caught:
        client.interactions.create("doc", ["click"], position=-1)
    assert (caught.value.reason, caught.value.field) == ("invalid_field", "position")
    good, bad = {"feature_id": "a", "interaction_type": ["click"]}, {"interaction_type": ["click"]}
    assert [one.verdict for one in client.interactions.create_many([good, bad])] == ["accepted", "rejected"]
    assert [one.code for one in client.interactions.create_many([bad, bad])] == ["missing_field"] * 2
    assert len(sent()) == 1


def test_interactions_are_listed_and_erased(client, served, tmp_path):
    """Filters, cursors and single reads give what the lake holds; an erasure gives a receipt."""
    now = int(time.time() * 1000)
    events = [
        {"interaction_id": f"l{n}", "feature_id": "listed", "interaction_type": ["click"], "timestamp": now - n * 1000}
        for n in range(3)
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    served[1]("lake", "load", path)
    page = client.interactions.list(feature_id="listed", page_size=2)
    assert [one.interaction_id for one in page.interactions] == ["l0", "l1"]
    assert page.next_cursor is not None
    assert page.freshness.age_seconds is not None
    found = list(client.interactions.iterate(feature_id="listed", page_size=2, from_=now - 60_000))
    assert [one.interaction_id for one in found] == ["l0", "l1", "l2"]
    assert client.interactions.get("l1").feature_id == "listed"
    assert client.interactions.get("never") is None
    assert client.interactions.delete("l1").subject == "interaction_id"
    receipt = client.interactions.delete(user_id="u", reason="asked")
    assert receipt == client.interactions.delete(user_id="u", reason="asked")
    with pytest.raises(UsageError, match="one interaction or of one user"):
        client.interactions.delete()


@pytest.mark.asyncio
async def test_the_async_client_does_the_same(served):
    """Many at once through one client, each with an id of its own."""
    async with AsyncClient(base_url=served[0]) as client:
        made = await asyncio.gather(*(client.interactions.create("doc", ["click"]) for _ in range(20)))
        assert len({one.interaction_id for one in made}) == 20
        assert all(one.verdict == "accepted" for one in made)
        assert await client.interactions.get("never") is None
        with pytest.raises(UsageError, match="days: "):
            _ = [one async for one in client.interactions.iterate(days=-1)]


class Flaky(Quiet):
    """Answers the first requests as told, or not at all, then as the API does; remembers every body."""

    bodies: list[bytes]
    failures: list[str]

    def do_POST(self):
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        if self.failures and (failure := self.failures.pop(0)):
            if failure == "503":
                self.send_response(503)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif failure == "page":
                self.send_response(200)
                self.send_header("Content-Length", "6")
                self.end_headers()
                self.wfile.write(b"<html>")
            else:
                self.close_connection = True
            return
        event = json.loads(self.bodies[-1])
        verdict = {"verdict": "duplicate", "interaction_id": event["interaction_id"], "later": "field"}
        answer = json.dumps({"results": [verdict]}).encode()
        self.send_response(202)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def flaky():
    """Address of a server that fails as told, and the bodies that it got."""
    kind = type("Told", (Flaky,), {"bodies": [], "failures": []})
    with serving(HTTPServer(("127.0.0.1", 0), kind)) as address:
        yield address, kind


def test_a_retry_has_the_same_id(flaky):
    """Refused, then cut off, then answered: the event is the same each time, and the caller sees only the end."""
    address, server = flaky
    server.failures[:] = ["503", "cut"]
    with Client(base_url=address) as client:
        made = client.interactions.create("doc", ["click"])
    assert made.verdict == "duplicate"
    assert len(server.bodies) == 3
    assert len(set(server.bodies)) == 1


def test_an_api_that_stays_away_is_one_clear_error(flaky):
    """After the last attempt the error says what is away, and how often it was tried."""
    address, server = flaky
    server.failures[:] = ["503"] * 9
    with Client(base_url=address, attempts=2) as client, pytest.raises(DependencyError) as caught:
        client.interactions.create("doc", ["click"])
    assert "after 2 attempts" in caught.value.why
    with (
        Client(base_url="http://127.0.0.1:1", attempts=1) as client,
        pytest.raises(DependencyError, match="not answer"),
    ):
        client.interactions.get("a")


def test_another_service_is_one_clear_error(flaky):
    """An address that answers, but not as this API does, is told apart from a refusal."""
    address, server = flaky
    server.failures[:] = ["page"]
    with Client(base_url=address) as client, pytest.raises(DependencyError, match="not that of this API"):
        client.interactions.create("doc", ["click"])


def test_analytics_work_on_the_lake(served, tmp_path):
    """Analytics need no API, only the lake; what is missing there is one clear error."""
    client = Client(base_url=served[0], settings=Settings(lake=str(tmp_path / "none")))
    with client, pytest.raises(LakeError):
        client.analytics.get_retriever_signals("shop")


@pytest.mark.parametrize(
    ("name", "dialect", "interactions", "searches", "others"),
    [("ubi", ubi, 7, 5, 2), ("metarank", metarank, 4, 4, 2)],
    ids=["ubi", "metarank"],
)
def test_dialects_are_taken_over_http(served, sent, name, dialect, interactions, searches, others):
    """A file of another tool gets a verdict for each of its events, in order, and comes back field by field."""
    body = (DATA / f"{name}.jsonl").read_bytes()
    headers = {"Content-Type": "application/x-ndjson"}
    address = f"{served[0]}/v1/ingest/{name}?retriever_id=site"
    answer = httpx2.post(address, content=body, headers=headers).raise_for_status().json()
    assert (answer["accepted"], answer["rejected"]) == (interactions + searches, others)
    originals = [json.loads(line) for line in body.splitlines()]
    left_out = [one for one, told in zip(originals, answer["results"], strict=True) if told["verdict"] == "rejected"]
    assert len(left_out) == others
    assert {told.get("code") for told in answer["results"]} == {None, "not_applicable"}
    models = [Interaction(**one) if "feature_id" in one else Search(**one) for one in sent()]
    back = {json.dumps(dialect.from_event(event), sort_keys=True) for event in models}
    assert back == {json.dumps(one, sort_keys=True) for one in originals if one not in left_out}
    again = httpx2.post(address, content=body, headers=headers).raise_for_status().json()
    assert (again["accepted"], again["duplicate"]) == (0, interactions + searches)


def test_what_is_no_event_of_a_dialect_is_told(served, sent):
    """A wrong parameter, a field that stands twice and half an event are each refused with their reason."""
    address = f"{served[0]}/v1/ingest/ubi"
    assert httpx2.post(f"{address}?first_position=2", json={}).status_code == 400
    twice = b'{"action_name": "click", "action_name": "view"}'
    assert httpx2.post(address, content=twice).json()["code"] == "duplicate_key"
    assert httpx2.post(address, content=b'{"action_name":').json()["code"] == "bad_json"
    assert httpx2.post(address, json={"action_name": "click"}).json()["code"] == "not_applicable"
    assert sent() == []


class Bad:
    """A record that no worker takes."""

    def __init__(self, offset, value):
        self.offset, self.value, self.key, self.timestamp = offset, value, b"k", int(time.time() * 1000) - 60_000


def test_dead_letters_are_mended_over_http(served, settings, sent):
    """An admin finds a letter, reads its bytes, has a bad fix refused, mends it, and puts it back twice."""
    source = Source(INTERACTIONS.name, new_id().replace("-", "")[-22:], 777)
    bad = [(Bad(5, b'{"feature_id": "http"}\xff'), DecodeError("bad_json", "no"))]
    # What is committed can be read a little later; the second writer waits for that.
    written = [DeadLetters(settings.kafka, KafkaLog(settings.kafka), Failpoints()).write(source, bad) for _ in range(2)]
    assert written == [1, 0]
    letter = f"{INTERACTIONS.name}/777/5"
    address = f"{served[0]}/v1/dead-letters"
    with httpx2.Client(base_url=address) as http:
        listed = http.get(address, params={"reason": "bad_json", "state": "open", "limit": 1000})
        assert listed.status_code == 200, listed.text
        page = listed.json()
        assert letter in [one["id"] for one in page["letters"]]
        assert page["total"] == page["reasons"]["bad_json"]
        assert http.get(f"/{letter}/raw").content == b'{"feature_id": "http"}\xff'
        assert http.get(f"/{letter}").json()["detail"] == "no"
        assert http.get("/interactions.v1/777/6").status_code == 404
        assert http.post(f"/{letter}/fix", json={"event": {}}).json()["invalid"] == 1
        assert http.post(f"/{letter}/fix", json={}).status_code == 400
        event = {"feature_id": "http", "interaction_type": ["click"]}
        assert http.post(f"/{letter}/fix", json={"event": event}).json()["fixed"] == 1
        assert http.post(f"/{letter}/fix", json={"set": {"metadata.device": "tv"}}).json()["fixed"] == 1
        assert http.post("/replay", json={}).status_code == 400
        assert http.post("/replay", json={"ids": [letter]}).json()["replayed"] == 1
        assert http.post("/replay", json={"ids": [letter]}).json()["already"] == 1
    (put_back,) = sent()
    assert (put_back["feature_id"], put_back["metadata"]) == ("http", {"device": "tv"})


def test_dead_letters_need_an_admin(served):
    """As soon as there are keys, dead letters are for those with the scope admin only.

    The last test of this module: from here on the server serves nobody without a key.
    """
    address, run = served
    writer = json.loads(run("keys", "create", "--scope", "write", "--json"))
    admin = json.loads(run("keys", "create", "--scope", "admin", "--json"))
    headers = {"X-API-Key": admin["key"]}

    def known():
        # While it knows of no key, this machine needs none.
        without, shown = (httpx2.get(f"{address}/v1/dead-letters", headers=each) for each in ({}, headers))
        return without.status_code == 401 and shown.status_code != 401

    wait_for(known, 10, "the keys to be known")
    for path, method in (("", "GET"), ("/interactions.v1/0/1", "GET"), ("/replay", "POST")):
        asked = httpx2.request(
            method, f"{address}/v1/dead-letters{path}", headers={"X-API-Key": writer["key"]}, json={"all": True}
        )
        assert asked.status_code == 403
    assert httpx2.get(f"{address}/v1/dead-letters", headers=headers).status_code == 200
    with Client(writer["key"], base_url=address) as client:
        assert client.interactions.create("doc", ["click"]).verdict == "accepted"
        with pytest.raises(UsageError, match="scope"):
            client.interactions.list()
