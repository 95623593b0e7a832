"""People are erased while traffic goes on and everything is killed: nobody comes back, nobody else is touched."""

import os
import random
import re
import shutil
import statistics
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from clickwell import InteractionReader
from clickwell.analytics.audit import audit
from clickwell.analytics.export import export
from clickwell.analytics.lake import connect
from clickwell.analytics.privacy.proof import prove
from clickwell.analytics.privacy.receipts import Receipts
from clickwell.privacy import load_keys
from clickwell.producers.emitter import Emitter
from clickwell.producers.erasures import request_erasure
from clickwell.schemas.erasure import Erasure
from clickwell.sealing import InRedis
from tests.processes import wait_for

from . import oracle, parts
from .harness import Stack
from .histories import stored
from .load import Load
from .parts import Part
from .people import People, covered, requests_of

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


@pytest.fixture
def lake(stack: Stack):
    """Return the settings of a stack whose lake is empty."""
    shutil.rmtree(stack.folder / "lake", ignore_errors=True)
    (stack.folder / "receipts.jsonl").unlink(missing_ok=True)
    return stack.settings


@pytest.fixture
def running(stack: Stack, lake, monkeypatch):
    """Return settings under which names are sealed, and an eraser at work beside a worker and a sink."""
    monkeypatch.setenv("CLICKWELL_PRIVACY__SHRED", "true")
    eraser = parts.eraser(stack.folder, stack.kafka.address, stack.redis)
    sink = parts.sink("sink", stack.folder, stack.kafka.address, REDIS__URL=stack.valkey.url)
    stack.work(1)
    stack.keep(sink, eraser)
    return stack.settings, eraser


def assert_nobody_is_left(stack: Stack) -> None:
    """Compare counters and lake, row by row, with the log without those who were erased."""
    stack.settle(90)
    kafka = stack.kafka.address
    wanted = requests_of(oracle.read_topic(kafka, "erasures.v1"))
    everything = [record for record in oracle.read_topic(kafka, oracle.INTERACTIONS) if not record.own]
    left = [record for record in everything if not covered(record, wanted)]
    assert len(left) < len(everything)
    now_ms = Stack.now_ms()
    expected = oracle.recount(left, now_ms)
    found = oracle.read_rings(stack.client, oracle.active(stack.client)["name"], now_ms)
    assert {cell: count for cell, count in found.items() if count} == expected
    audited = audit(stack.settings)
    assert (audited.differences, audited.window_differences) == ([], [])
    rows = DeltaTable(str(stack.folder / "lake" / "interactions")).to_pyarrow_table().to_pylist()
    names = {(r.event.get("interaction_id") or (r.partition, r.offset)) for r in left if not r.poison}
    kept = [row["interaction_id"] or (row["kafka_partition"], row["kafka_offset"]) for row in rows]
    assert sorted(map(str, kept)) == sorted(map(str, names))
    by_place = {(r.partition, r.offset): r.event for r in left if not r.poison}
    for row in rows:
        event = by_place[row["kafka_partition"], row["kafka_offset"]]
        assert {name: row[name] for name in ("feature_id", "user_id")} == {
            name: event.get(name) for name in ("feature_id", "user_id")
        }


def await_receipts(settings, asked, eraser: Part) -> None:
    """Wait until every request has its receipt."""

    def done() -> bool:
        assert set(eraser.exits) <= {-9}, eraser.story()
        return asked <= {receipt["erasure_id"] for receipt in Receipts(settings).read()}

    try:
        wait_for(done, 180 + MANY, "the receipts")
    except AssertionError as error:
        raise AssertionError(f"{error}{eraser.story()}") from None


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
    traffic = People(stack.kafka.address, seed=2, users=USERS)
    # Each of its first starts ends at another place of the work.
    addresses = stack.kafka.address, stack.redis
    eraser = parts.eraser(stack.folder, *addresses, [f"{place}:1" for place in PLACES])
    sink = parts.sink("sink", stack.folder, stack.kafka.address)
    (worker,) = stack.work(1, CHUNK_RECORDS="2000")
    stack.keep(sink, eraser)
    asked: set[str] = set()

    def ask(**subject: str) -> None:
        asked.add(name := f"e{len(asked)}")
        traffic.ask(name, 1 + (len(asked) % 5 == 0), **subject)

    with Load(traffic, 250):
        stack.wait_applied(1500)
        for number, user in enumerate(rng.sample(range(USERS), MANY)):
            traffic.gone.add(f"user-{user}")
            ask(user_id=f"user-{user}")
            ask(interaction_id=rng.choice(traffic.ids))
            if number % max(1, MANY // 4) == 0:
                rng.choice([worker, sink, eraser]).kill()
        ask(user_id="nobody has this name")
        await_receipts(lake, asked, eraser)
        stack.rebuild()
        wait_for(lambda: stack.client.exists("{cw1}:building") == 0, 150, "the rebuild")
    # What was sent before, by somebody who is erased, comes again now.
    for value in traffic.sent_by_the_gone()[:50]:
        traffic.produce(value)
    traffic.flush()
    assert_nobody_is_left(stack)
    assert -9 in eraser.exits
    assert_proved(lake, asked, traffic)


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
    settings, _ = running
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
    settings, eraser = running
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
    await_receipts(settings, names.keys(), eraser)
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
