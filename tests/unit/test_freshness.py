"""Whether the dashboard's numbers are of now is judged by what is furthest behind."""

import pytest

from clickwell.serving.freshness import Freshness, LakeStanding, judge

NOW = 1_780_000_000_000
MINUTE = 60_000


def verdict(ages, *, workers=1, lag=None, lake=None):
    """The verdict for lanes that are so many ms old."""
    applied = {lane: NOW - age for lane, age in ages.items()}
    return judge(NOW, workers, applied, lag or {}, lake)


def test_recent_numbers_are_live():
    """Workers that said seconds ago that they have everything are believed."""
    assert verdict({"popularity": 2_500, "engagement": 10_000}) == Freshness("live")


@pytest.mark.parametrize(("age", "state"), [(10_001, "delayed"), (MINUTE, "delayed"), (MINUTE + 1, "stale")])
def test_the_oldest_lane_decides(age, state):
    """It is named, with what it still has to count and up to when it has."""
    found = verdict({"popularity": 0, "engagement": age}, lag={"engagement": 12_345})
    assert (found.state, found.as_of_ms) == (state, NOW - age)
    assert found.why == "The lane engagement is behind, 12,345 events are still to be counted."


def test_without_a_worker_one_is_to_be_started():
    """A dead worker says nothing, and its last word ages."""
    found = verdict({"popularity": 12 * MINUTE}, workers=0)
    assert (found.state, found.why, found.fix) == ("stale", "No worker is counting.", "clickwell worker")


def test_before_the_first_worker_nothing_is_stale():
    """A new deployment is told what is missing, and no time."""
    assert verdict({}).state == "absent"


def test_a_lake_that_is_not_written_is_told():
    """Workers count and no sink writes: the counters are live, and the page is not."""
    lake = LakeStanding(7, NOW - 20 * MINUTE, NOW - 2 * MINUTE)
    found = verdict({"popularity": 0}, lake=lake)
    assert (found.state, found.as_of_ms, found.fix) == ("stale", NOW - 20 * MINUTE, "clickwell sink")
    assert verdict({"popularity": 0}, lake=LakeStanding(7, NOW - 20 * MINUTE, NOW - 20_000)).state == "live"


def test_a_quiet_hour_leaves_no_lag_behind():
    """Only from the first look at which events wait does the lake begin to be behind; a write ends it."""
    first = LakeStanding(0, 5).after(None, 100)
    waits = LakeStanding(3, 5).after(first, 200)
    longer = LakeStanding(9, 5).after(waits, 300)
    written = LakeStanding(2, 350).after(longer, 400)
    assert [each.behind_ms for each in (first, waits, longer, written)] == [None, 200, 200, 400]
