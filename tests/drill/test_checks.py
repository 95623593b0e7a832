"""The checks of a drill find what they look for: what is lost, what is there twice, what came back."""

import json
from collections import Counter

import pytest

from tests.faults.oracle import LogRecord

from .invariants import Findings, bounds


def record(offset: int, name: str, user: str = "u") -> LogRecord:
    """Return a click in partition 0, received and happened at its offset."""
    event = {"interaction_id": name, "feature_id": "d", "interaction_type": ["click"], "user_id": user}
    return LogRecord(0, offset, offset, None, json.dumps(event | {"timestamp": offset}).encode(), (), poison=False)


LOG = [record(0, "a"), record(1, "b"), record(2, "a"), record(3, "c", "gone"), record(4, "d")]
GONE = {("user_id", "gone"): 10}


def found(*places: int, end: int = 5, asked=None, done=None) -> tuple[int, int]:
    """Return how many events are (lost, doubled) in a table that holds the records of these offsets."""
    findings = Findings()
    counter = Counter((0, offset) for offset in places)
    findings.differ("the lake", bounds(LOG, {0: end}, counter, asked or {}, done or {}))
    assert bool(findings.problems) == (findings.lost + findings.doubled > 0)
    return findings.lost, findings.doubled


def test_every_event_once_is_right() -> None:
    """Of a repeated event either copy may be there, but one of them."""
    assert found(0, 1, 3, 4) == found(2, 1, 3, 4) == (0, 0)


def test_lost_and_doubled_are_told_apart() -> None:
    """What is missing below the offsets is lost; a second copy, and what lies beyond the offsets, is too much."""
    assert found(0, 3, 4) == (1, 0)
    assert found(0, 1, 2, 3, 4) == (0, 1)
    assert found(1, 1, 0, 3, 4) == (0, 1)
    assert found(0, 1, 3, 4, end=4) == (0, 1)
    assert found(0, 1, 3, end=4) == (0, 0)


@pytest.mark.parametrize("places", [(0, 1, 4), (0, 1, 3, 4)])
def test_who_is_being_erased_may_be_there_or_not(places: tuple[int, ...]) -> None:
    """Between request and receipt both are right."""
    assert found(*places, asked=GONE) == (0, 0)


def test_who_was_erased_must_not_come_back() -> None:
    """After the receipt it is one too many."""
    assert found(0, 1, 3, 4, asked=GONE, done=GONE) == (0, 1)
    assert found(0, 1, 4, asked=GONE, done=GONE) == (0, 0)
