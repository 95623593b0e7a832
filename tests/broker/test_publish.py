"""`publish` and `simulate` as a user runs them, on a real broker."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from clickwell.producers import metarank, ubi
from clickwell.producers.topics import end_offsets, ensure_topics
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.schemas.wire import new_id
from clickwell.settings import Settings

pytestmark = pytest.mark.broker

DATA = Path(__file__).parents[1] / "data"
NAMES = (INTERACTIONS.name, SEARCHES.name)


@pytest.fixture(scope="module")
def settings(kafka):
    settings = Settings(kafka={"bootstrap_servers": kafka})
    ensure_topics(settings)
    return settings


@pytest.fixture
def run(clickwell, kafka, tmp_path):
    """Runs a command against the test's broker."""
    return lambda *arguments: clickwell(
        *arguments, CLICKWELL_KAFKA__BOOTSTRAP_SERVERS=kafka, CLICKWELL_DATA=str(tmp_path)
    )


@pytest.fixture
def sent(settings):
    """A function that returns the events that were sent since the test began, as JSON objects."""
    since = end_offsets(settings, NAMES)

    def read():
        ends = end_offsets(settings, NAMES)
        places = [(topic, number) for topic in NAMES for number in ends[topic]]
        begin = {(topic, number): since[topic].get(number, 0) for topic, number in places}
        consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": new_id()})
        consumer.assign([TopicPartition(topic, number, begin[topic, number]) for topic, number in places])
        left = sum(ends[topic][number] - begin[topic, number] for topic, number in places)
        events = []
        while len(events) < left:
            events += [json.loads(message.value()) for message in consumer.consume(left - len(events), timeout=10)]
        consumer.close()
        return events

    return read


def lines(path, *objects):
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def click(**fields):
    return {"feature_id": "a", "interaction_type": ["click"], **fields}


def test_native_lines_are_sent_and_counted(run, sent, tmp_path):
    """Interactions and searches go to their topics; the summary counts both kinds as sent and acknowledged."""
    now = int(time.time() * 1000)
    first = lines(
        tmp_path / "a.jsonl", click(interaction_id="i1", timestamp=now), {"execution_id": "e1", "results": []}
    )
    second = tmp_path / "b.jsonl.gz"
    second.write_bytes(gzip.compress(json.dumps(click(interaction_id="i2")).encode()))
    result = run("publish", first, second, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["sent"] == summary["acked"] == {"interactions": 2, "searches": 1}
    assert (summary["rejected"], summary["shift_ms"], summary["waited"]) == (0, 0, False)
    assert {event.get("interaction_id", event.get("execution_id")) for event in sent()} == {"i1", "i2", "e1"}


def test_bad_lines_are_listed_and_the_rest_is_sent(run, sent, tmp_path):
    """Each bad line is counted with its reason and named with its number; the exit code says partly done."""
    path = tmp_path / "mixed.jsonl"
    path.write_text(
        json.dumps(click(interaction_id="good")) + '\n\n{oops\n[1]\n{"interaction_type": ["click"]}\n'
        '{"feature_id": "a", "interaction_type": ["click"], "timestamp": 5}\n'
    )
    result = run("publish", path, "--json")
    assert result.returncode == 5
    assert "Traceback" not in result.stderr
    assert "4 lines rejected" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["rejected"] == 4
    assert [(reject["line"], reject["reason"]) for reject in summary["rejects"]] == [
        (3, "bad_json"),
        (4, "not_an_object"),
        (5, "missing_field"),
        (6, "past_timestamp"),
    ]
    assert [event["interaction_id"] for event in sent()] == ["good"]


def test_rebased_times_end_now(run, sent, tmp_path):
    """The last event time of the files becomes now, the others keep their distance; events without a time stay so."""
    path = lines(tmp_path / "old.jsonl", click(timestamp="2020-01-01T00:00:10Z"), click(timestamp=1_577_836_800_000))
    before = int(time.time() * 1000)
    result = run("publish", path, "--rebase-time", "--json")
    after = int(time.time() * 1000)
    shift = json.loads(result.stdout)["shift_ms"]
    first, last = sorted(event["timestamp"] for event in sent())
    assert before <= last <= after
    assert (first, last) == (1_577_836_800_000 + shift, 1_577_836_810_000 + shift)


def test_a_session_log_without_times_ends_now(run, sent, tmp_path):
    """Lines without a time are a second apart; such a log has no dates, so it is shifted even without being asked."""
    path = lines(
        tmp_path / "log.jsonl",
        {"search_id": "s0", "docs": ["a", "b"], "clicks": [{"doc": "b", "pos": 1}]},
        {"search_id": "s1", "docs": ["a"]},
    )
    result = run("publish", path, "--format", "sessions", "--retriever", "web", "--json")
    assert result.returncode == 0, result.stderr
    shift = json.loads(result.stdout)["shift_ms"]
    events = {event.get("interaction_id", event["execution_id"]): event for event in sent()}
    assert {name: event["timestamp"] - shift for name, event in events.items()} == {
        "s0": 0,
        "web:s0:c0": 1,
        "web:s0:s0": 0,
        "s1": 1000,
    }
    assert all(event["retriever_id"] == "web" for event in events.values())


@pytest.mark.parametrize(
    ("name", "interactions", "searches", "others"), [("ubi", 7, 5, 2), ("metarank", 4, 4, 2)], ids=["ubi", "metarank"]
)
def test_the_files_of_other_tools_are_sent(run, sent, name, interactions, searches, others):
    """Every event of the example file is in its topic; what tells of no search or result is counted, not rejected."""
    dialect = {"ubi": ubi, "metarank": metarank}[name]
    path = DATA / f"{name}.jsonl"
    result = run("publish", path, "--format", name, "--retriever", "site", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["acked"] == {"interactions": interactions, "searches": searches}
    assert (summary["rejected"], summary["not_applicable"]) == (0, others)
    models = (Interaction.model_validate(one) if "feature_id" in one else Search.model_validate(one) for one in sent())
    back = {json.dumps(dialect.from_event(event), sort_keys=True) for event in models}
    originals = {json.dumps(json.loads(line), sort_keys=True) for line in path.read_text().splitlines()}
    assert back < originals
    assert len(back) == interactions + searches


def test_standard_input_is_read(kafka, sent, tmp_path):
    """`-` reads a pipe, also where the times must be looked at first."""
    command = [sys.executable, "-m", "clickwell", "publish", "-", "--rebase-time", "--data", str(tmp_path)]
    content = gzip.compress(json.dumps(click(interaction_id="piped", timestamp=1_577_836_800_000)).encode())
    environment = {"CLICKWELL_KAFKA__BOOTSTRAP_SERVERS": kafka}
    result = subprocess.run(command, input=content, env=environment, capture_output=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert [event["interaction_id"] for event in sent()] == ["piped"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_text("{}"), "is not gzip data"),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 9999)[:-9]), "cannot be read after line"),
    ],
    ids=["missing", "directory", "not gzip", "cut"],
)
def test_an_unreadable_file_is_one_clear_error(run, tmp_path, make, words):
    """The error names the file and the reason, and the exit code says usage."""
    path = tmp_path / "events.jsonl.gz"
    make(path)
    result = run("publish", path)
    assert result.returncode == 2
    assert words in result.stderr
    assert str(path) in result.stderr
    assert "CW-102" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_broker_is_one_clear_error(clickwell, tmp_path):
    """Without a broker the exit code says that a dependency is away, and the message names the address."""
    path = lines(tmp_path / "a.jsonl", click())
    result = clickwell("publish", path, CLICKWELL_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1", CLICKWELL_DATA=str(tmp_path))
    assert result.returncode == 4
    assert "Kafka at 127.0.0.1:1 does not answer" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_real_session_log_is_sent_whole(run, shared_data, settings):
    """Every line of the movie log becomes its search, and every click its interaction; skips come on top."""
    path = shared_data / "msrd" / "searches_sim_weak.jsonl.gz"
    result = run("publish", path, "--format", "sessions", "--rebase-time", "--json")
    assert result.returncode == 0, result.stderr
    with gzip.open(path) as file:
        sessions = [json.loads(line) for line in file]
    skips = sum(
        max(click["pos"] for click in line["clicks"]) + 1 - len({click["pos"] for click in line["clicks"]})
        for line in sessions
        if line["clicks"]
    )
    clicks = sum(len(line["clicks"]) for line in sessions)
    summary = json.loads(result.stdout)
    assert summary["acked"] == {"interactions": clicks + skips, "searches": len(sessions)}


def test_simulate_sends_at_its_rate(run, sent):
    """Two seconds at 500 a second are about 1,000 events, which are all acknowledged and all of the past."""
    result = run("simulate", "--rate", 500, "--seconds", 2, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["sent"] == summary["acked"]
    assert sum(summary["sent"].values()) == pytest.approx(1000, rel=0.2)
    assert summary["seconds"] >= 1.5
    assert max(event["timestamp"] for event in sent()) <= time.time() * 1000


def test_simulate_prints_events_instead(run, sent):
    """With --jsonl the events are printed, one JSON object a line, and nothing is sent."""
    result = run("simulate", "--days", 1, "--searches", 50, "--jsonl")
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert sum("results" in event for event in events) == 50
    assert sent() == []


def test_contradicting_options_are_refused(run):
    """Options that exclude each other end with a usage error."""
    assert run("simulate", "--seconds", 1, "--searches", 5).returncode == 2
    assert run("simulate", "--days", 1, "--seconds", 5).returncode == 2
