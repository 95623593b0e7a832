"""Events that are broken, repeated, late or huge, each time followed by the recount."""

import json
import random

import pytest

from tests.processes import wait_for

from . import oracle
from .harness import PARTITIONS, Stack
from .load import POISON, Traffic

pytestmark = [pytest.mark.fault, pytest.mark.broker]


def click(document: str, number: int) -> bytes:
    """Return one valid event."""
    return json.dumps(
        {"feature_id": document, "interaction_type": ["click"], "interaction_id": f"{document}/{number}"}
    ).encode()


def test_poison(stack: Stack) -> None:
    """Each poison is dead-lettered once, byte for byte; its neighbours count; kills and rebuilds change neither."""
    traffic = Traffic(stack.kafka.address, seed=31, poison=0)
    for partition in range(PARTITIONS):
        for number, value in enumerate(POISON.values()):
            traffic.produce(click("before", number), partition=partition)
            traffic.produce(value, poison=True, partition=partition)
            traffic.produce(click("after", number), partition=partition)
    traffic.flush()
    (worker,) = stack.work(failpoints=["before_dead_letter:2", "after_dead_letter:2", "after_apply:9"], static=True)
    stack.assert_exact()
    assert worker.exits == [-9] * 3
    before = stack.active()
    stack.rebuild()
    wait_for(lambda: stack.active() != before, 60, "the rebuilt counts")
    stack.assert_exact()
    stack.client.flushall()
    stack.assert_exact()


def test_poison_says_why(stack: Stack) -> None:
    """A dead letter names the reason, the source and the key of its record."""
    traffic = Traffic(stack.kafka.address, seed=32, poison=0)
    for value in POISON.values():
        traffic.produce(value, poison=True, partition=0)
    traffic.flush()
    stack.work()
    stack.assert_exact()
    reasons = {
        letter.value: dict(letter.headers) for letter in oracle.read_topic(stack.kafka.address, oracle.DEAD_LETTERS)
    }
    expected = {
        **dict.fromkeys(("bad_json", "first_half", "nan", "empty", "invalid_utf8", "deep"), b"bad_json"),
        "not_an_object": b"not_an_object",
        "missing_field": b"missing_field",
        "year_1970": b"past_timestamp",
        "year_2099": b"future_timestamp",
        "none": b"no_value",
        "wrong_types": b"invalid_field",
        "nul": b"invalid_field",
        "1_mb_field": b"invalid_field",
    }
    assert {name: reasons[POISON[name]]["reason"] for name in expected} == expected
    assert all(headers["topic"] == b"interactions.v1" and headers["partition"] == b"0" for headers in reasons.values())


def test_poison_beyond_all_limits(stack: Stack) -> None:
    """A record that only compression made small enough does not stop the others; its letter is cut and says so."""
    traffic = Traffic(stack.kafka.address, seed=33, poison=0)
    bomb = b'{"feature_id":"' + b"x" * (16 << 20) + b'"}'
    for number in range(3):
        traffic.produce(click("before", number), partition=0)
        traffic.produce(bomb, poison=True, partition=0)
        traffic.produce(click("after", number), partition=0)
    traffic.flush()
    stack.work()
    stack.settle()
    now_ms = stack.now_ms()
    wanted = {(document, "click", now_ms // oracle.SLOT_MS): 3 for document in ("before", "after")}
    assert oracle.read_rings(stack.client, stack.active(), now_ms) == wanted
    letters = oracle.read_topic(stack.kafka.address, oracle.DEAD_LETTERS)
    assert len({letter.key for letter in letters}) == len(letters) == 3
    assert all(bomb.startswith(letter.value) and len(letter.value) == 4 << 20 for letter in letters)
    assert all(dict(letter.headers)["cut_from"] == str(len(bomb)).encode() for letter in letters)


def test_published_twice(stack: Stack) -> None:
    """Events that are sent again, in another order and to other partitions, count once."""
    rng = random.Random(34)
    traffic = Traffic(stack.kafka.address, seed=34, poison=0)
    events = []
    while len(events) < 4000:
        event = traffic.event()
        # Without an id nobody can know that they are the same; without a time they happened when they came.
        if "interaction_id" in event and "timestamp" in event:
            events.append(json.dumps(event).encode())
    stack.work(2)
    for _ in range(3):
        rng.shuffle(events)
        for value in events:
            traffic.produce(value, partition=rng.randrange(PARTITIONS))
        traffic.flush()
        stack.assert_exact()
    once = oracle.recount(
        [oracle.LogRecord(0, 0, stack.now_ms(), None, value, (), poison=False) for value in events], stack.now_ms()
    )
    assert oracle.read_rings(stack.client, stack.active(), stack.now_ms()) == once


def test_late_and_out_of_order(stack: Stack) -> None:
    """One document's events over every slot of the window and beyond it, shuffled, land in their own slots."""
    rng = random.Random(35)
    traffic = Traffic(stack.kafka.address, seed=35, poison=0)
    now_ms = stack.now_ms()
    times = [now_ms + 240_000 - hours * 3_600_000 for hours in range(0, 24 * 9, 2)] * 20
    rng.shuffle(times)
    stack.work()
    for number, time_ms in enumerate(times):
        event = {
            "feature_id": "one",
            "interaction_type": ["click"],
            "timestamp": time_ms,
            "interaction_id": str(number),
        }
        traffic.produce(json.dumps(event).encode())
    traffic.flush()
    stack.assert_exact()
    slots = {slot for _, _, slot in oracle.read_rings(stack.client, stack.active(), stack.now_ms())}
    assert len(slots) >= oracle.WINDOW
