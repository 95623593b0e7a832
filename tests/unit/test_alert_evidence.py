"""What an alert rests on, recounted from made-up hours."""

import numpy as np

from clickwell.analytics.alert_evidence import MEASURES, compare
from clickwell.analytics.alerting import Alert
from clickwell.analytics.alerts import RULES, WEEKS
from clickwell.analytics.hourly import KINDS, POSITIONS, Hours
from clickwell.clock import MS_PER_HOUR

WEEK = 7 * 24
COUNT = WEEKS * WEEK + 48


def made_up():
    """Four weeks and two days of one hour like the other: 20 searches of 2 results, 8 clicks; half of it at the end."""
    shown = np.zeros((COUNT, KINDS + 1, POSITIONS), np.int64)
    clicks = np.zeros_like(shown)
    shown[:, 1:3, :2] = 10
    clicks[:, 1:3, 0], clicks[:, 1:3, 1] = 3, 1
    clicks[-6:, 1:3, 0] = 1
    by_position = np.zeros((COUNT, POSITIONS), np.int64)
    first, lowest, skips = by_position.copy(), by_position.copy(), by_position.copy()
    first[:, 0], first[:, 1] = 6, 2
    lowest[:, 0], lowest[:, 1] = 5, 3
    skips[:, 1] = 2
    lists = np.zeros((COUNT, POSITIONS + 1), np.int64)
    lists[:, 0], lists[:, 2] = 1, 20
    flat = np.full(COUNT, 21)
    return Hours("shop", 0, flat, np.ones(COUNT, np.int64), shown, clicks, lists, first.copy(), first, lowest, skips)


def alert(rule="ctr_drop", until_ms=None):
    """An alert that was found at the end of those hours."""
    return Alert(rule, "shop", (COUNT - 6) * MS_PER_HOUR, until_ms, 6, 0.2, 0.1, 120, "CTR fell")


def test_hours_stand_beside_the_same_hours_of_the_weeks_before():
    """The last hours have half the clicks of the four weeks before, and so it is said hour by hour."""
    found = compare(made_up(), alert(), (COUNT - 48) * MS_PER_HOUR, COUNT * MS_PER_HOUR)
    assert [hour.hour for hour in found.hours] == [(COUNT - 48 + i) * MS_PER_HOUR for i in range(48)]
    assert [hour.now.count for hour in found.hours] == [8] * 42 + [4] * 6
    assert {(hour.before.count, hour.before.of) for hour in found.hours} == {(WEEKS * 8, WEEKS * 40)}
    assert (found.end_ms - found.first_ms) == 6 * MS_PER_HOUR


def test_positions_are_those_of_the_hours_compared():
    """Both positions were shown as often as before; only the first lost clicks."""
    found = compare(made_up(), alert(), (COUNT - 48) * MS_PER_HOUR, COUNT * MS_PER_HOUR)
    assert [(p.position, p.now.count, p.now.of, p.before.count) for p in found.positions] == [
        (0, 12, 120, WEEKS * 36),
        (1, 12, 120, WEEKS * 12),
    ]


def test_each_rule_has_its_measure():
    """A share of something in every hour, by hand: of 20 lists 12 stay without a click, and so on."""
    hours = made_up()
    shares = {rule: [int(part[0]) for part in measure(hours)] for rule, (_, measure) in MEASURES.items()}
    assert set(shares) == set(RULES)
    assert shares["zero_result_rise"] == [1, 21]
    assert shares["abandonment_rise"] == [12, 20]
    assert shares["skip_rise"] == [2, 5 + 2 * 3]
    assert shares["first_click_drift"] == [2, 8]
    assert shares["ctr_drop"] == [8, 40]
