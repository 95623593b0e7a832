"""The short drill, and what can be said of a schedule before anything runs."""

import os
from pathlib import Path

import pytest

from .drill import drill
from .nemesis import BREAKS
from .schedule import KINDS, schedule

# `make drill` takes ten minutes.
SECONDS = float(os.environ.get("CLICKWELL_TEST_DRILL_SECONDS", "60"))
SEED = int(os.environ.get("CLICKWELL_TEST_DRILL_SEED", "51"))


@pytest.mark.fault
@pytest.mark.broker
@pytest.mark.timeout(600 + 2 * SECONDS)
def test_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    """A stack under traffic of all kinds, broken in every way in turn, keeps all nine invariants."""
    outcome = drill(tmp_path, SECONDS, SEED, print)
    assert outcome.found.problems == []
    assert (outcome.found.lost, outcome.found.doubled) == (0, 0)
    assert outcome.faults > SECONDS / 5
    assert set(outcome.found.looks) == {"counts", "lake"}


def test_a_seed_is_a_schedule() -> None:
    """The same seed makes the same schedule, another seed another one."""
    assert schedule(1, 600) == schedule(1, 600) != schedule(2, 600)


def test_every_kind_of_fault_comes_and_ends_in_time() -> None:
    """Within two minutes each kind strikes; all are over at the end, and never two at once on one target."""
    for seed in range(20):
        faults = schedule(seed, 120)
        assert {fault.kind for fault in faults} >= {kind.name for kind in KINDS} - {"rolling restart of"}
        assert all(fault.at + fault.lasts <= 120 for fault in faults)
        until: dict[str, float] = {}
        for fault in faults:
            if fault.kind != "stop":  # a rolling restart stops who is frozen or parted, too
                assert fault.at >= until.get(fault.target, 0.0), fault
                until[fault.target] = fault.at + fault.lasts


def test_every_kind_can_be_carried_out() -> None:
    """Each kind that a schedule knows is something that the nemesis can do."""
    assert {kind.name for kind in KINDS} - {"rolling restart of"} == BREAKS.keys()
