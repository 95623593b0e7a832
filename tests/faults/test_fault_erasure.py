"""People are erased while traffic goes on and everything is killed: nobody comes back, nobody else is touched."""

import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from deltalake import DeltaTable

from clickwell import InteractionReader
from clickwell.analytics.audit import audit
from clickwell.analytics.export import export
from clickwell.analytics.lake import connect
from clickwell.analytics.privacy.proof import prove
from clickwell.analytics.privacy.receipts import Receipts
from clickwell.devstack.process import Child
from clickwell.privacy import load_keys
from clickwell.producers.emitter import Emitter
from clickwell.producers.erasures import request_erasure
from clickwell.schemas.erasure import Erasure
from clickwell.sealing import InRedis

from . import oracle
from .harness import Stack, wait_for
from .lake import Sink
from .load import Load, Traffic
from .test_fault_history import stored

pytestmark = [pytest.mark.fault, pytest.mark.broker]

# How many users and how many events are erased; 200 takes some minutes.
MANY = int(os.environ.get("CLICKWELL_TEST_ERASURES", "20"))
USERS = 10 * MANY
PLACES = (
    "between_fences",
    "between_retractions",
    "after_rewrite",
    "before_receipt",
    *(
        ("before_fences", "after_fences", "after_retractions", "before_rewrite", "after_receipt")
        if MANY > 20  # each costs a start
        else ()
    ),
)


class Eraser(Child):
    """One eraser process; `failpoints` are for its first starts, one each."""

    def __init__(self, stack: Stack, folder: Path, failpoints: Sequence[str] = ()) -> None:
        super().__init__("eraser", folder / "log" / "eraser.log")
        self.exits: list[int] = []
        self._stack, self._folder, self._failpoints = stack, folder, list(failpoints)

    def command(self) -> list[str]:
        """Return the command line, with the next failpoint."""
        settings = {
            "KAFKA__BOOTSTRAP_SERVERS": self._stack.kafka.address,
            "REDIS__URL": self._stack.valkey.url,
            "PRIVACY__GRACE_SECONDS": "0",
            "PRIVACY__FAILPOINT": self._failpoints.pop(0) if self._failpoints else "",
        }
        words = [f"CLICKWELL_{name}={value}" for name, value in settings.items()]
        return ["/usr/bin/env", *words, sys.executable, "-m", "clickwell", "eraser", "--data", str(self._folder)]

    def tend(self) -> None:
        """Start it again if it has ended."""
        if self.exit_code is not None:
            self.exits.append(self.exit_code)
            self.spawn()


class People(Traffic):
    """The traffic of the other fault tests, by people, who always say when; those who were erased are gone."""

    def __init__(self, kafka: str, seed: int) -> None:
        super().__init__(kafka, seed)
        self.gone: set[str] = set()
        self.ids: list[tuple[str, str]] = []

    def event(self):
        """Return one event of somebody who is still there."""
        event = super().event()
        now_ms = time.time_ns() // 1_000_000
        user = f"user-{self.rng.randrange(USERS)}"
        if user not in self.gone:
            event["user_id"] = user
        # A copy of an event without a time would have another time, and be another event.
        event["timestamp"] = min(event.get("timestamp", now_ms), now_ms)
        if "interaction_id" in event:
            self.ids.append((event["interaction_id"], user))
        return event

    def sent_by_the_gone(self) -> list[bytes]:
        """Return events that were sent by people who have gone since."""
        return [value for value in self._sent if json.loads(value).get("user_id") in self.gone]


@pytest.fixture
def lake(stack: Stack):
    """Return the settings of a stack whose lake is empty."""
    for name in ("lake", "receipts.jsonl", "exports.jsonl"):
        os.system(f"rm -rf {stack.folder / name}")
    return stack.settings


@pytest.fixture
def running(stack: Stack, lake, monkeypatch):
    """Return settings under which names are sealed, and a sink and an eraser at work beside a worker."""
    monkeypatch.setenv("CLICKWELL_PRIVACY__SHRED", "true")
    eraser = Eraser(stack, stack.folder)
    sink = Sink("sink", stack.folder, stack.kafka.address, REDIS__URL=stack.valkey.url)
    stack.work(1)
    for child in (sink, eraser):
        child.spawn()
    yield stack.settings, sink, eraser
    for child in (sink, eraser):
        child.kill()


def covered(event, received_ms, wanted):
    """Tell whether one of the erasures takes an event: all of the rule, in plain Python."""
    return any(
        event.get(kind) == value and (event.get("timestamp", received_ms) < at_ms or received_ms < at_ms)
        for kind in ("user_id", "interaction_id")
        if (at_ms := wanted.get((kind, event.get(kind)))) is not None
        for value in [event.get(kind)]
    )


def requests_of(kafka: str):
    """Return when the broker had each request: (kind, value) -> epoch ms."""
    found = {}
    for record in oracle.read_topic(kafka, "erasures.v1"):
        content = json.loads(record.value)
        for kind in ("user_id", "interaction_id"):
            if kind in content:
                found.setdefault((kind, content[kind]), record.received_ms)
    return found


def events_of(kafka: str):
    """Return every record of the interactions topic but clickwell's own."""
    records = oracle.read_topic(kafka, oracle.INTERACTIONS)
    return [record for record in records if not (record.value or b"").startswith(b'{"clickwell":')]


def assert_nobody_is_left(stack: Stack, sinks: Sequence[Sink]) -> None:
    """Compare counters and lake, row by row, with the log without those who were erased."""
    stack.settle(90)
    kafka, wanted = stack.kafka.address, requests_of(stack.kafka.address)
    everything = events_of(kafka)
    left = [r for r in everything if r.poison or not covered(json.loads(r.value), r.received_ms, wanted)]
    assert len(left) < len(everything)
    now_ms = Stack.now_ms()
    expected = oracle.recount(left, now_ms)
    found = oracle.read_rings(stack.client, oracle.active(stack.client)["name"], now_ms)
    assert {cell: count for cell, count in found.items() if count} == expected
    for sink in sinks:
        sink.tend()
    audited = audit(stack.settings)
    assert (audited.differences, audited.window_differences) == ([], [])
    rows = DeltaTable(str(stack.folder / "lake" / "interactions")).to_pyarrow_table().to_pylist()
    names = {(json.loads(r.value).get("interaction_id") or (r.partition, r.offset)) for r in left if not r.poison}
    kept = [row["interaction_id"] or (row["kafka_partition"], row["kafka_offset"]) for row in rows]
    assert sorted(map(str, kept)) == sorted(map(str, names))
    by_place = {(r.partition, r.offset): json.loads(r.value) for r in left if not r.poison}
    for row in rows:
        event = by_place[row["kafka_partition"], row["kafka_offset"]]
        assert {name: row[name] for name in ("feature_id", "user_id")} == {
            name: event.get(name) for name in ("feature_id", "user_id")
        }


def await_receipts(settings, asked, eraser: Eraser, sink: Sink) -> None:
    """Wait until every request has its receipt, while a supervisor starts again what dies."""

    def done() -> bool:
        for child in (sink, eraser):
            child.tend()
        assert set(eraser.exits) <= {-9}, eraser.log.read_text()[-3000:]
        return asked <= {receipt["erasure_id"] for receipt in Receipts(settings).read()}

    try:
        wait_for(done, 180 + MANY, "the receipts")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{eraser.exits}\n{eraser.log.read_text()[-3000:]}") from None


def ask(traffic: People, asked: set[str], **subject: str) -> None:
    """Ask for an erasure, as any Kafka client does, now and then twice."""
    asked.add(name := f"e{len(asked)}")
    for _ in range(1 + (len(asked) % 5 == 0)):
        traffic._producer.produce("erasures.v1", Erasure(erasure_id=name, **subject).to_bytes())


def assert_proved(settings, asked: set[str], traffic: People) -> None:
    """Check the proof, and that no name stands in the receipts or in the lake's log."""
    receipts = Receipts(settings).path
    wait_for(lambda: "files_gone" in receipts.read_text(), 30, "the end of the old files")
    proof = prove(settings)
    assert (proof.found, proof.chain, proof.receipts) == ([], [], len(asked))
    log = "".join(path.read_text() for path in Path(settings.lake_uri).rglob("_delta_log/*.json"))
    for user in traffic.gone:
        assert f'"{user}"' not in receipts.read_text() + log


@pytest.mark.timeout(400 + 5 * MANY)
def test_nobody_comes_back(stack: Stack, lake) -> None:
    """Users and events are erased under traffic while worker, sink and eraser are killed -9; then all is rebuilt."""
    rng = random.Random(1)
    traffic = People(stack.kafka.address, seed=2)
    # Each of its first starts ends at another place of the work.
    eraser = Eraser(stack, stack.folder, [f"{place}:1" for place in PLACES])
    sink = Sink("sink", stack.folder, stack.kafka.address)
    (worker,) = stack.work(1, CHUNK_RECORDS="2000")
    asked: set[str] = set()
    try:
        for child in (sink, eraser):
            child.spawn()
        with Load(traffic, 250):
            stack.wait_applied(1500)
            for number, user in enumerate(rng.sample(range(USERS), MANY)):
                traffic.gone.add(f"user-{user}")
                ask(traffic, asked, user_id=f"user-{user}")
                ask(traffic, asked, interaction_id=rng.choice(traffic.ids)[0])
                if number % max(1, MANY // 4) == 0:
                    rng.choice([worker, sink, eraser]).kill()
            ask(traffic, asked, user_id="nobody has this name")
            await_receipts(lake, asked, eraser, sink)
            stack.rebuild()
            wait_for(lambda: stack.client.exists("{cw1}:building") == 0, 150, "the rebuild")
        # What was sent before, by somebody who is erased, comes again now.
        for value in traffic.sent_by_the_gone()[:50]:
            traffic.produce(value)
        traffic.flush()
        assert_nobody_is_left(stack, [sink])
        assert -9 in eraser.exits
        assert_proved(lake, asked, traffic)
    finally:
        for child in (sink, eraser):
            child.kill()


HOUR_MS = 3_600_000
TOPICS = ("interactions.v1", "searches.v1")


def story(now_ms: int) -> list[dict]:
    """Return what 12 people did in a day: searches with three results, clicks, purchases, and repeats of all of it."""
    events = []
    for n in range(120):
        user, at = n % 12, now_ms - 25 * HOUR_MS + n * 10 * 60_000
        who = {"user_id": f"person-{user}", "session_id": f"visit-{user}-{n // 60}", "retriever_id": "shop"}
        shown = [f"item-{(n + m) % 9}" for m in range(3)]
        events.append({"execution_id": f"x{n}", "query": "tent", "results": shown, "timestamp": at, **who})
        for m, types in ((0, ["click"]), (2, ["click", "purchase"]), (1, ["purchase"]))[: n % 4]:
            # Some are about a search of somebody else: two people, one search.
            execution = f"x{n - n % 2}"
            told = {"interaction_id": f"i{n}-{m}", "execution_id": execution, "position": m, "timestamp": at + m * 1000}
            events.append({"feature_id": shown[m], "interaction_type": types, **told, **who})
    return events


def is_gone(event: dict, asked: list[dict]) -> bool:
    """Tell whether one of the requests, all of them later than the event, takes it."""
    return any(
        event.get(kind) == value and one.get("from", 0) <= event["timestamp"] < one.get("to", 1 << 62)
        for one in asked
        for kind, value in one.items()
        if kind not in {"from", "to"}
    )


def histories(events: list[dict]) -> dict[tuple[str, str], dict[str, int]]:
    """Return when each person did what with which document last."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for event in events:
        for signal in event.get("interaction_type", ()):
            times = found.setdefault((event["user_id"], signal), {})
            times[event["feature_id"]] = max(event["timestamp"], times.get(event["feature_id"], 0))
    return found


def send(settings, events: list[dict]) -> None:
    """Send events through an emitter, as an application does."""
    with Emitter(settings) as emitter:
        for event in events:
            (emitter.emit if "feature_id" in event else emitter.emit_search)(event)
        assert emitter.flush(30) == 0


def test_readers_see_nothing_of_a_person_within_two_seconds(stack: Stack, running) -> None:
    """From the request on: the lake and the history that readers of users are given."""
    settings, _, _ = running
    send(settings, story(Stack.now_ms()))
    stack.settle()
    took = []

    def seen(user: str) -> int:
        with connect(settings) as connection, InteractionReader(settings) as reader:
            rows = connection.execute("select count(*) from interactions where user_id = ?", [user]).fetchone()
            return rows[0] + len(reader.list(user))

    for user in ("person-1", "person-3", "person-5"):
        wait_for(lambda: seen(user) > 1, 20, "the events")  # noqa: B023
        begun = time.monotonic()
        request_erasure(settings, Erasure(erasure_id=user, user_id=user))
        wait_for(lambda: not seen(user), 20, "the end of what is seen")  # noqa: B023
        took.append(time.monotonic() - begun)
    assert statistics.median(took) < 2.0, took


@pytest.mark.timeout(300)
def test_every_kind_of_subject_goes_from_every_store(stack: Stack, running, tmp_path) -> None:
    """A user, a visit, a document, an event and some hours of a user: counters, windows and histories are those of
    the rest, before a rebuild and after it; exports are named; the user's key is gone.
    """
    settings, sink, eraser = running
    now_ms = Stack.now_ms()
    events = story(now_ms)
    asked = [
        {"user_id": "person-1"},
        {"session_id": "visit-2-0"},
        {"feature_id": "item-3"},
        {"interaction_id": "i19-0"},
        {"user_id": "person-4", "from": now_ms - 20 * HOUR_MS, "to": now_ms - 10 * HOUR_MS},
    ]
    left = [event for event in events if not is_gone(event, asked)]
    send(settings, events)
    stack.settle()
    wait_for(lambda: stored(stack.client) == histories(events), 20, "the histories")
    assert not (before := audit(settings)).window_differences
    export(settings, "interactions", tmp_path / "out")
    names = {f"k{n}": one for n, one in enumerate(asked)}
    for name, one in names.items():
        request_erasure(settings, Erasure.model_validate({"erasure_id": name, **one}))
    await_receipts(settings, names.keys(), eraser, sink)
    for again in (False, True):
        if again:
            generation = stack.active()
            stack.rebuild()
            wait_for(lambda: stack.active() != generation, 60, "the rebuilt counters")  # noqa: B023
        found = audit(settings)
        assert (found.differences, found.window_differences) == ([], [])
        assert (found.total, found.windows) < (before.total, before.windows)
        assert stored(stack.client) == histories(left)
    receipts = {each["erasure_id"]: each["stores"] for each in Receipts(settings).read() if each["event"] == "erased"}
    for name, one in names.items():
        gone = [event for event in events if is_gone(event, [one])]
        tables = receipts[name]["lake"]
        assert sum(each["rows_erased"] for each in tables.values()) <= len(gone)
        assert [each["folder"] for each in receipts[name]["exports"]] == [str(tmp_path / "out")]
    erased = [each["rows_erased"] for one in receipts.values() for each in one["lake"].values()]
    assert sum(erased) == len(events) - len(left)
    # Nobody can read a name in the log, and of who is gone nobody ever will.
    raw = b"".join(record.value for name in TOPICS for record in oracle.read_topic(stack.kafka.address, name))
    assert not re.search(rb"person-|visit-", raw)
    assert [receipts[name]["user_keys"]["destroyed"] for name in names] == [1, 0, 0, 0, 0]
    keys = load_keys(settings)
    assert {name for name, _ in InRedis(settings).every()} == {
        keys.pseudonym(f"person-{n}") for n in range(12) if n != 1
    }
    assert not prove(settings).found
