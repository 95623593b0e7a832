"""Signals and alerts held against sites whose truth is known, from the lake to the verdict, at the default settings."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from clickwell.analytics.alerts import episodes
from clickwell.analytics.hourly import hours
from clickwell.analytics.signals import get_retriever_signals
from clickwell.clock import MS_PER_DAY
from clickwell.settings import Settings
from clickwell.simulation import Life, Plan, Site, midnight

START = datetime(2026, 1, 5, tzinfo=UTC).date()
BEGIN = midnight(START)
WEEK_MS = 7 * MS_PER_DAY


def written(settings, site, weeks, searches, life=None):
    """Write some weeks into a lake, two at a time, as all at once would take much memory."""
    life = life or Life()
    for week in range(0, weeks, 2):
        parts = {f.name: later(getattr(life, f.name), 7 * week) for f in fields(life)}
        start = BEGIN + week * WEEK_MS
        site.write(settings, start_ms=start, days=14, searches=2 * searches, life=Life(**parts), run=week)


def later(function, days):
    """The same function of time, for a clock that begins some days later."""
    return lambda day: function(day + days)


def replay(settings, since_week, weeks):
    """Every alert between two times, found from the lake two weeks at a time."""
    found = []
    for week in range(since_week, since_week + weeks, 2):
        start = BEGIN + week * WEEK_MS
        begin = max(BEGIN, start - 29 * MS_PER_DAY)
        for each in hours(settings, begin, start + 2 * WEEK_MS, start):
            found += episodes(each, start, start + 2 * WEEK_MS)
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_planted_problems_are_found_and_hardly_anything_else(tmp_path, seed, capsys):
    """Of 20 bad and 10 unfindable queries and 20 skipped documents among 2,000 healthy queries most are found."""
    settings = Settings.load(tmp_path)
    site = Site(Plan(bad=20, skipped=20, unfindable=10, seed=seed))
    truth = site.write(settings, start_ms=BEGIN, days=28, searches=150_000)
    found = get_retriever_signals("site", settings=settings, since=START, until=START + timedelta(days=27), limit=9999)
    for name, reported, planted in (
        ("bad queries", {q.query for q in found.low_ctr_queries.rows}, truth.bad),
        ("skipped documents", {d.feature_id for d in found.skipped_documents.rows}, truth.skipped),
        ("zero-result queries", {z.query for z in found.zero_result_queries.rows}, truth.unfindable),
    ):
        hit = len(reported & planted)
        with capsys.disabled():
            print(f"\nseed {seed} {name}: precision {hit / len(reported):.2f} recall {hit / len(planted):.2f}", end="")
        assert hit >= 0.9 * len(reported)
        assert hit >= 0.9 * len(planted)


def test_a_regression_is_caught_within_a_day_and_resolved_when_it_is_over(tmp_path, capsys):
    """A fifth of all likes lost from one hour on opens an alert within a day; before it there is none."""
    settings = Settings.load(tmp_path)
    begins, ends = 37.4, 40.0

    def relevance(day):
        return np.where((day >= begins) & (day < ends), 0.8, 1.0)

    written(settings, Site(Plan(bad=20, skipped=20, unfindable=10)), 6, 21_000, Life(relevance=relevance))
    found = replay(settings, 4, 2)
    drops = [each for each in found if each.worst.rule == "ctr_drop"]
    assert len(drops) == 1
    after = (drops[0].since_ms - BEGIN) / MS_PER_DAY - begins
    with capsys.disabled():
        print(f"\ncaught after {24 * after:.1f} h: {drops[0].worst.sentence}", end="")
    assert 0 < after <= 1
    assert drops[0].until_ms is not None
    assert all(each.since_ms >= BEGIN + begins * MS_PER_DAY for each in found)


def test_thirty_healthy_weeks_are_quiet(tmp_path, capsys):
    """Longer lists, other attention, a campaign for rare queries and waves of traffic open one alert at most."""
    settings = Settings.load(tmp_path)
    life = Life(
        shown=lambda day: np.where(day < 80, 10, 20),
        attention=lambda day: np.where(day < 140, 0.8, 1.1),
        niche=lambda day: np.where((day > 110) & (day < 113), 0.4, 0.0),
        load=lambda day: 1 + 0.2 * np.sin(2 * np.pi * day / 7),
    )
    written(settings, Site(Plan(queries=500, bad=5, skipped=5, unfindable=5)), 34, 10_000, life)
    found = replay(settings, 4, 30)
    with capsys.disabled():
        print(f"\nfalse alerts in 30 weeks: {len(found)}", *(each.worst.sentence for each in found), sep="\n", end="")
    assert len(found) <= 1


def test_clicks_that_stop_are_no_fall_of_the_ctr(tmp_path):
    """Searches go on, clicks are not recorded for five hours: this is said, and nothing is said about relevance."""
    settings = Settings.load(tmp_path)
    life = Life(recorded=lambda day: np.where((day >= 30.5) & (day < 30.5 + 5 / 24), 0.0, 1.0))
    written(settings, Site(Plan(queries=300)), 6, 21_000, life)
    found = replay(settings, 4, 2)
    assert [each.worst.rule for each in found] == ["events_stopped"]
    assert found[0].until_ms - found[0].since_ms == 5 * 3_600_000
    assert "no clicks" in found[0].worst.sentence
