"""What an alert rests on: its hours beside the same hours of the weeks before, and what stood at which position."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clickwell.analytics.alerting import Alert, Book
from clickwell.analytics.alerts import OPEN, STAY, WEEKS, Rule
from clickwell.analytics.hourly import Counts, Hours, hours
from clickwell.analytics.intervals import Rate, rate
from clickwell.clock import MS_PER_HOUR
from clickwell.errors import UsageError
from clickwell.settings import Settings

# Around the hours that were compared first: a day before tells what was usual, some hours after what became of it.
_LEAD, _TAIL = 24, 6
# Hours drawn at most; of an alert that is open for weeks the last ones.
_MOST = 7 * 24
_WEEK = 7 * 24


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of what the rule looks at; `before` is the same hour of the weeks before, together.

    Attributes:
        hour: its begin, epoch ms.
        searches: how many.
        now, before: see `Measure`.
    """

    hour: int
    searches: int
    now: Rate
    before: Rate


@dataclass(frozen=True, slots=True)
class Place:
    """One position, 0-based: CTR and times shown, in the hours compared and in the same hours of the weeks before."""

    position: int
    now: Rate
    before: Rate


@dataclass(frozen=True, slots=True)
class Evidence:
    """An alert and its numbers.

    Attributes:
        alert: as the book has it.
        first_ms, end_ms: the hours that were compared last.
        measure: what `Hour.now` is a rate of, such as `clicks over results shown`.
        hours: from a day before the alert on.
        positions: as far as results were shown there.
        opens, closes: standard errors beyond the least change at which the rule opens, and below which it closes.
    """

    alert: Alert
    first_ms: int
    end_ms: int
    measure: str
    hours: list[Hour]
    positions: list[Place]
    opens: float
    closes: float


def evidence(settings: Settings, rule: str, retriever_id: str, since_ms: int) -> Evidence:
    """Return what an alert of the book rests on.

    Raises:
        UsageError: the book has no such alert.
        LakeError: there is no table of searches, or its storage does not answer.
    """
    book = Book.read(settings)
    wanted = (rule, retriever_id, since_ms)
    alert = next((each for each in book.alerts if (each.rule, each.retriever_id, each.since_ms) == wanted), None)
    if alert is None:
        raise UsageError("there is no such alert", fix="closed alerts are kept for five weeks")
    checked = book.checked_ms or since_ms
    # A closed one was found for the last time an hour before it was not.
    end_ms = checked if alert.until_ms is None else alert.until_ms - MS_PER_HOUR
    last_ms = min(checked, end_ms + _TAIL * MS_PER_HOUR)
    begin_ms = max(since_ms - (_LEAD + alert.window_hours) * MS_PER_HOUR, last_ms - _MOST * MS_PER_HOUR)
    counted = hours(settings, begin_ms - WEEKS * _WEEK * MS_PER_HOUR, last_ms, since_ms)
    found = next((each for each in counted if each.retriever_id == retriever_id), None)
    if found is None:
        raise UsageError(f"the lake has no searches of {retriever_id!r} in these hours any more")
    return compare(found, alert, begin_ms, end_ms)


def compare(found: Hours, alert: Alert, begin_ms: int, end_ms: int) -> Evidence:
    """Return the evidence out of the hours of the alert's retriever, which begin WEEKS weeks before `begin_ms`."""
    name, measure = MEASURES[alert.rule]  # type: ignore[index]  # the book's rules are rules
    count, of = measure(found)
    first_ms = end_ms - alert.window_hours * MS_PER_HOUR
    window = np.arange((first_ms - found.start_ms) // MS_PER_HOUR, (end_ms - found.start_ms) // MS_PER_HOUR)
    drawn = np.arange((begin_ms - found.start_ms) // MS_PER_HOUR, len(found.searches))
    return Evidence(
        alert=alert,
        first_ms=first_ms,
        end_ms=end_ms,
        measure=name,
        hours=[
            Hour(
                found.start_ms + at * MS_PER_HOUR,
                int(found.searches[at]),
                rate(int(count[at]), int(of[at])),
                rate(int(count[_weeks_before(at)].sum()), int(of[_weeks_before(at)].sum())),
            )
            for at in drawn.tolist()
        ],
        positions=_positions(found, window),
        opens=OPEN,
        closes=STAY,
    )


def _positions(found: Hours, window: Counts) -> list[Place]:
    earlier = np.concatenate([_weeks_before(at) for at in window.tolist()])
    shown, clicks = found.shown.sum(1), found.clicks.sum(1)
    return [
        Place(
            position,
            *(rate(int(clicks[of, position].sum()), int(shown[of, position].sum())) for of in (window, earlier)),
        )
        for position in range(shown.shape[1])
        if shown[window, position].any()
    ]


def _weeks_before(at: int) -> Counts:
    index = at - _WEEK * np.arange(1, WEEKS + 1)
    return index[index >= 0]


def _depths(found: Hours) -> Counts:
    return np.arange(1, found.first.shape[1] + 1)


Measure = tuple[Counts, Counts]
"""What is counted in each hour, and out of how much."""

MEASURES: dict[Rule, tuple[str, Callable[[Hours], Measure]]] = {
    "ctr_drop": ("clicks over results shown", lambda h: (h.clicks.sum((1, 2)), h.shown.sum((1, 2)))),
    "events_stopped": ("clicks over results shown", lambda h: (h.clicks.sum((1, 2)), h.shown.sum((1, 2)))),
    "skip_rise": ("skipped over examined results", lambda h: (h.skips.sum(1), h.lowest @ _depths(h))),
    "zero_result_rise": ("searches without results", lambda h: (h.zero, h.searches)),
    "abandonment_rise": (
        "searches without a click, of those with results",
        lambda h: (h.lists[:, 1:].sum(1) - h.first.sum(1), h.lists[:, 1:].sum(1)),
    ),
    "first_click_drift": (
        "first clicks below the first position",
        lambda h: (h.first[:, 1:].sum(1), h.first.sum(1)),
    ),
}
"""What each rule looks at, as a share; where people click first is told by how many do not click the first result."""
