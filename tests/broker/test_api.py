"""The HTTP API as a process of its own, with a real broker and Valkey."""

import gzip
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import zstandard

from clickwell.devstack.process import free_port, listens
from clickwell.devstack.stack import Api
from clickwell.schemas.topics import ERASURES, INTERACTIONS, SEARCHES
from tests.processes import wait_for

from .api_server import INTERACTIONS_URL, SEEDS_OWN, Server, click

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def guarded(kafka: str, clickwell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API with an admin's key, which the client shows."""
    started = Server(kafka, tmp_path_factory.mktemp("api"))
    started.client.headers |= started.key(clickwell, "--scope", "admin")
    # While it knows of no key, this machine needs none.
    nobody = {"Authorization": ""}
    wait_for(lambda: started.client.get("/v1/top", headers=nobody).status_code == 401, 5, "its key to be known")
    yield started
    started.stop()


def test_an_interaction_is_in_the_log_when_the_answer_comes(server):
    """With its id, and what it can be used for."""
    sent = SEEDS_OWN | {"feature_id": "api-1"}
    answer = server.client.post(INTERACTIONS_URL, json=sent)
    assert answer.status_code == 202
    verdict = answer.json()["results"][0]
    assert verdict["verdict"] == "accepted"
    assert answer.json()["interaction_id"] == verdict["interaction_id"]
    assert verdict["uses"] == ["boost", "training", "personalization"]
    assert verdict["not_used_for"][0]["field"] == "execution_id"
    value = dict(server.log(INTERACTIONS.name))[verdict["interaction_id"]]
    assert {name: json.loads(value)[name] for name in sent} == sent


@pytest.mark.parametrize(
    ("pack", "headers"),
    [
        (lambda events: json.dumps(events).encode(), {}),
        (lambda events: json.dumps(events).encode(), {"Content-Type": "text/plain;charset=UTF-8"}),
        (lambda events: "\n".join(map(json.dumps, events)).encode(), {"Content-Type": "application/x-ndjson"}),
        (lambda events: gzip.compress(json.dumps(events).encode()), {"Content-Encoding": "gzip"}),
        (lambda events: zstandard.compress(json.dumps(events).encode()), {"Content-Encoding": "zstd"}),
    ],
)
def test_a_bad_event_does_not_refuse_the_others(server, pack, headers):
    """However the batch is sent; each gets its verdict, in order."""
    events = [click(), click(position=-1), click(), {"feature_id": "x"}]
    answer = server.client.post(
        INTERACTIONS_URL, content=pack(events), headers={"Content-Type": "application/json"} | headers
    ).json()
    assert [each["verdict"] for each in answer["results"]] == ["accepted", "rejected", "accepted", "rejected"]
    assert (answer["accepted"], answer["duplicate"], answer["rejected"]) == (2, 0, 2)
    assert [answer["results"][n].get("field") for n in (1, 3)] == ["position", "interaction_type"]
    logged = dict(server.log(INTERACTIONS.name))
    assert all(events[n]["interaction_id"] in logged for n in (0, 2))
    assert events[1]["interaction_id"] not in logged


def test_repeats_are_told_and_lie_in_the_log_once(server):
    """By the event's own id, within a batch and later; by the request's key where events have none."""
    event = click()
    first = server.client.post(INTERACTIONS_URL, json=[event, event]).json()
    assert [each["verdict"] for each in first["results"]] == ["accepted", "duplicate"]
    assert server.client.post(INTERACTIONS_URL, json=event).json()["duplicate"] == 1
    nameless = {name: value for name, value in click().items() if name != "interaction_id"}
    key = {"Idempotency-Key": secrets.token_hex(8)}
    one, two = (server.client.post(INTERACTIONS_URL, json=nameless, headers=key).json() for _ in range(2))
    assert (one["accepted"], two["duplicate"]) == (1, 1)
    assert one["interaction_id"] == two["interaction_id"]
    logged = [event_id for event_id, _ in server.log(INTERACTIONS.name)]
    assert [logged.count(each) for each in (event["interaction_id"], one["interaction_id"])] == [1, 1]


def test_searches_say_what_was_shown(server):
    """They are named by their execution_id; the same one with other results is another page."""
    search = {"execution_id": secrets.token_hex(8), "query": "shoes", "results": ["a", "b"]}
    first = server.client.post("/v1/retrievers/searches", json=search).json()
    assert first["results"][0]["execution_id"] == search["execution_id"]
    again = [search, search | {"results": ["c"]}]
    assert [
        each["verdict"] for each in server.client.post("/v1/retrievers/searches", json=again).json()["results"]
    ] == [
        "duplicate",
        "accepted",
    ]
    assert [event_id for event_id, _ in server.log(SEARCHES.name)].count(search["execution_id"]) == 2


def test_erasures_are_handed_to_the_log(server):
    """With a receipt, the same for the same request."""
    receipts = [server.client.delete(f"{INTERACTIONS_URL}/abc-1", params={"reason": "asked"}).json() for _ in range(2)]
    assert receipts[0]["receipt_id"] == receipts[1]["receipt_id"]
    user = secrets.token_hex(8)
    receipts += [server.client.delete(INTERACTIONS_URL, params={"user_id": user}).json() for _ in range(2)]
    assert receipts[2] == receipts[3]
    logged = [json.loads(value) for _, value in server.log(ERASURES.name) if b'"erasure_id"' in value]
    assert {"erasure_id": receipts[2]["receipt_id"], "user_id": user, "requester": "local"} in logged
    assert any(each.get("interaction_id") == "abc-1" and each["reason"] == "asked" for each in logged)


def test_boosts_are_neutral_while_nobody_counts(server):
    """That is said, and never an error."""
    stage = {"interaction_types": ["click", "purchase"], "time_window_days": 7, "boost_multiplier": 1.2}
    answer = server.client.post(
        "/v1/rerank",
        json={
            "results": [{"feature_id": "a", "score": 1, "title": "A"}, {"feature_id": "b", "score": 2}],
            "boost_by_interaction_count": stage,
            "explain": True,
        },
    ).json()
    assert [(each["feature_id"], each["boost"]) for each in answer["results"]] == [("b", 1.0), ("a", 1.0)]
    assert answer["results"][1]["title"] == "A"
    asked = {"feature_ids": ["a"], "boost_by_interaction_count": stage}
    assert server.client.post("/v1/boosts", json=asked).json()["reason"] == "absent"
    assert server.client.get("/v1/boosts", params={"feature_id": ["a", "b"]}).json()["neutral"]
    assert server.client.get("/v1/top").json() == {"top": []}


def test_without_a_key_only_this_machine_is_served(server):
    """A proxy's requests and those of a page under a foreign name do not count as this machine's."""
    for headers in ({"X-Forwarded-For": "10.1.2.3"}, {"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert server.client.post(INTERACTIONS_URL, json=click(), headers=headers).status_code == 403
    assert "no key yet" in server.api.log.read_text()


def test_pages_of_known_origins_may_send(server):
    """A preflight names them; a beacon needs none."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = server.client.options(INTERACTIONS_URL, headers=asked | {"Origin": "https://shop.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    refused = server.client.options(INTERACTIONS_URL, headers=asked | {"Origin": "https://evil.example"})
    assert refused.status_code == 400
    beacon = {"Origin": "https://shop.example", "Content-Type": "text/plain;charset=UTF-8"}
    sent = server.client.post(INTERACTIONS_URL, content=json.dumps([click()]), headers=beacon)
    assert sent.status_code == 202
    assert sent.headers["access-control-allow-origin"] == "https://shop.example"


PAGE = """
const sent = [], listeners = {};
Object.defineProperty(globalThis, "navigator", {value: {sendBeacon: (url, body) => sent.push({url, body})}});
globalThis.window = globalThis;
globalThis.sessionStorage = {};
globalThis.addEventListener = (name, listener) => { listeners[name] = listener; };
globalThis.document = {
  currentScript: {src: "http://api.example/v1/beacon.js", dataset: {retriever: "site", key: "cw_k"}},
  addEventListener: (name, listener) => { listeners[name] = listener; },
};
eval(require("fs").readFileSync(0, "utf8"));
clickwell.search({execution_id: "e1", query: "shoes", results: ["d1", "d2"]});
const hit = {dataset: {cwFeature: "d2", cwPosition: "1"}};
listeners.click({target: {closest: () => hit}});
for (let n = 0; n < 60; n++) clickwell.send({feature_id: "d1", interaction_type: ["view"], user_id: "u"});
listeners.pagehide();
console.log(JSON.stringify(sent));
process.exit();
"""


def test_a_page_that_loads_the_beacon_sends_events_that_are_taken(server):
    """What was shown, and clicks on marked results, joined to it; in batches; two kilobytes do it."""
    source = server.client.get("/v1/beacon.js")
    assert len(source.content) <= 2048
    if (node := shutil.which("node")) is None:
        pytest.skip("node is not installed")
    ran = subprocess.run([node, "-e", PAGE], check=True, capture_output=True, input=source.content, timeout=30)
    sent = json.loads(ran.stdout)
    assert len(sent) == 3
    beacon = {"Origin": "https://shop.example", "Content-Type": "text/plain;charset=UTF-8"}
    results = []
    for each in sent:
        path = each["url"].removeprefix("http://api.example")
        answer = server.client.post(path, content=each["body"], headers=beacon)
        assert answer.status_code == 202
        results += answer.json()["results"]
    assert {each["verdict"] for each in results} == {"accepted"}
    clicks = [each for each in results if each.get("uses", [])[:2] == ["boost", "ctr"]]
    assert [each["uses"] for each in clicks] == [["boost", "ctr", "training"]]
    assert sent[0]["url"].endswith("/interactions?key=cw_k")


def wait_taken(server, headers, events):
    """Send events until they are taken: a server knows new keys within two seconds."""
    wait_for(
        lambda: server.client.post(INTERACTIONS_URL, json=events, headers=headers).status_code == 202,
        5,
        "the key to be known",
    )


def test_a_key_may_do_what_its_scopes_say(guarded, clickwell):
    """A write key cannot read or erase, a read key cannot write, and without a key there is nothing."""
    write, read = guarded.key(clickwell, "--scope", "write"), guarded.key(clickwell, "--scope", "read")
    anonymous = {"Authorization": ""}
    wait_for(lambda: guarded.client.get("/v1/top", headers=read).status_code == 200, 5, "the keys to be known")
    calls = {
        "write": lambda headers: guarded.client.post(INTERACTIONS_URL, json=click(), headers=headers),
        "list": lambda headers: guarded.client.get(INTERACTIONS_URL, headers=headers),
        "erase": lambda headers: guarded.client.delete(INTERACTIONS_URL, params={"user_id": "u"}, headers=headers),
    }
    statuses = {name: [call(who).status_code for who in (write, read, anonymous)] for name, call in calls.items()}
    assert statuses == {"write": [202, 403, 401], "list": [403, 200, 401], "erase": [403, 403, 401]}
    page = guarded.client.post(f"{INTERACTIONS_URL}?key={write['Authorization'][7:]}", json=click(), headers=anonymous)
    assert page.status_code == 202


def test_a_revoked_key_stops_within_5_seconds(guarded, clickwell):
    """And says so; the others go on."""
    mine = guarded.key(clickwell, "--scope", "write")
    wait_taken(guarded, mine, click())
    key_id = mine["Authorization"].split("_")[1]
    assert clickwell("keys", "revoke", key_id, "--data", guarded.folder, **guarded.environment).returncode == 0
    wait_for(lambda: guarded.client.post(INTERACTIONS_URL, json=click(), headers=mine).status_code == 401, 5, "its end")
    listed = clickwell("keys", "list", "--json", "--data", guarded.folder, **guarded.environment).stdout
    assert next(each for each in json.loads(listed)["keys"] if each["id"] == key_id)["revoked_ms"]
    assert mine["Authorization"][7:] not in listed


def test_quotas_and_origins_belong_to_a_key(guarded, clickwell):
    """What is over the quota is 429 with the time to wait; a page of another origin cannot use a page's key."""
    mine = guarded.key(clickwell, "--scope", "write", "--quota", "1", "--origin", "https://own.example")
    batch = [click() for _ in range(600)]
    own = mine | {"Origin": "https://own.example"}
    wait_taken(guarded, own, batch)
    over = guarded.client.post(INTERACTIONS_URL, json=batch, headers=own)
    assert over.status_code == 429
    assert int(over.headers["retry-after"]) > 60
    foreign = guarded.client.post(INTERACTIONS_URL, json=click(), headers=mine | {"Origin": "https://shop.example"})
    assert foreign.status_code == 403


@pytest.fixture(scope="module")
def twin(guarded: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of another API process on the same broker and Valkey."""
    other = Api(tmp_path_factory.mktemp("twin"), free_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in guarded.environment.items():
            patch.setenv(name, value)
        other.spawn()
    wait_for(lambda: listens(other.port), 60, "the other API")
    yield other.address
    other.stop()


def test_servers_know_what_the_others_took_and_what_a_key_has_spent(guarded, twin, clickwell):
    """A repeat is told by whichever server it reaches, and is in the log once; a quota is one for all."""
    event = click()
    assert guarded.client.post(INTERACTIONS_URL, json=event).json()["accepted"] == 1
    answer = guarded.client.post(f"{twin}{INTERACTIONS_URL}", json=[event, click()]).json()
    assert [each["verdict"] for each in answer["results"]] == ["duplicate", "accepted"]
    assert guarded.client.post(INTERACTIONS_URL, json=event | {"feature_id": "another"}).json()["accepted"] == 1
    assert [event_id for event_id, _ in guarded.log(INTERACTIONS.name)].count(event["interaction_id"]) == 2

    mine = guarded.key(clickwell, "--scope", "write", "--quota", "1")
    batch = [click() for _ in range(600)]
    # Each server asks for new keys by itself; one that knows this key does not let it read.
    wait_for(lambda: guarded.client.get(f"{twin}/v1/top", headers=mine).status_code == 403, 5, "the key to be known")
    wait_taken(guarded, mine, batch)
    over = guarded.client.post(f"{twin}{INTERACTIONS_URL}", json=batch, headers=mine)
    assert over.status_code == 429
    assert int(over.headers["retry-after"]) > 60


def test_the_log_of_the_api_names_nobody(guarded, clickwell):
    """Neither keys nor people nor what they did; each request has one line."""
    marks = {name: f"mark{name}{secrets.token_hex(6)}" for name in ("user", "session", "query", "feature", "id")}
    event = click(
        user_id=marks["user"],
        session_id=marks["session"],
        feature_id=marks["feature"],
        interaction_id=marks["id"],
        metadata={"query": marks["query"]},
    )
    guarded.client.post(INTERACTIONS_URL, json=[event, event | {"position": -1}])
    guarded.client.post(INTERACTIONS_URL, json=event | {"interaction_type": marks["query"]})
    guarded.client.get(f"{INTERACTIONS_URL}/{marks['id']}")
    guarded.client.get(INTERACTIONS_URL, params={"user_id": marks["user"], "session_id": marks["session"]})
    guarded.client.delete(INTERACTIONS_URL, params={"user_id": marks["user"]})
    text = guarded.api.log.read_text()
    secret = guarded.client.headers["Authorization"].rpartition("_")[2]
    assert not [mark for mark in (*marks.values(), secret) if mark in text]
    lines = [json.loads(line[line.index("{") :]) for line in text.splitlines() if "clickwell.access" in line]
    assert {"/v1/retrievers/interactions/{interaction_id}", INTERACTIONS_URL} <= {line["route"] for line in lines}
    metrics = guarded.client.get("/metrics").text
    assert not [mark for mark in marks.values() if mark in metrics]
    assert 'clickwell_api_events_total{kind="interaction",verdict="rejected"}' in metrics
