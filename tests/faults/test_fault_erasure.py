"""People are erased while traffic goes on and everything is killed: nobody comes back, nobody else is touched."""

import os
import random
from pathlib import Path

import pytest
from deltalake import DeltaTable

from clickwell.analytics.audit import audit
from clickwell.analytics.proof import prove
from clickwell.analytics.receipts import Receipts

from . import oracle, parts
from .harness import Stack, wait_for
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
    for name in ("lake", "receipts.jsonl"):
        os.system(f"rm -rf {stack.folder / name}")
    return stack.settings


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
    assert not audit(stack.settings).differences
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
    addresses = stack.kafka.address, stack.valkey.url
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
