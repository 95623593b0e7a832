"""When a change of clicks, skips or results is a loss of relevance, and when it only looks like one. Free of I/O.

The last hours are compared with the same hours of the same weekday in up to four weeks before. So that a change of the
page or of what is asked is not taken for a loss:

- only positions that both show to nine of ten people count, and each position is compared with itself;
- queries are compared with queries of their kind (`clickwell.analytics.hourly`);
- a loss has to show at the first position too, which people see on any page;
- hours in which clicks or searches stopped coming are left out, and reported as what they are.

A rule opens an alert when the change is larger than MIN_CHANGE with OPEN standard errors to spare, which is asked every
hour for years; it stays open until not even STAY are left. Standard errors include how much the hours of the weeks
before differed from one another beyond chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clickwell.analytics.hourly import Hours
from clickwell.clock import MS_PER_HOUR

Rule = Literal["events_stopped", "ctr_drop", "skip_rise", "zero_result_rise", "abandonment_rise", "first_click_drift"]
RULES: tuple[Rule, ...] = (
    "events_stopped",
    "ctr_drop",
    "skip_rise",
    "zero_result_rise",
    "abandonment_rise",
    "first_click_drift",
)
WINDOWS = (6, 24)
"""Hours that are looked at together: the shorter finds a collapse soon, the longer a decline of some percent."""
WEEKS = 4
MIN_CHANGE = 0.05
"""A smaller relative change is nobody's alarm, however sure it is."""
OPEN = 4.0
STAY = 2.0
TOP_FALLS = 2.0
"""Standard errors by which the clicks at the first position have to fall by more than MIN_CHANGE too."""
MIN_CLICKS = 100
MIN_SEARCHES = 200
ZERO_MIN = 0.005
"""Zero results have to rise by this share of all searches at least: from 1 to 2 in 10,000 is nobody's alarm."""
STOPPED = 20
"""Clicks or searches that an hour without any would have had: by chance that happens once in 500 million hours."""

_WEEK = 7 * 24
# Shown to this share of the people, a position counts as shown on the page of the time.
_COMMON = 0.9
_THIN = 20

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """What one rule says about one retriever at one time.

    Attributes:
        rule, retriever_id: which, whose.
        window_hours: hours compared, up to the time of the check.
        before, after: rate in the same hours of the weeks before, for the positions and queries of now, and now; a
            mean position, 0-based, for `first_click_drift`; events an hour for `events_stopped`.
        errors: standard errors by which the change exceeds MIN_CHANGE.
        evidence: clicks (searches for zero results and abandonment) that the comparison rests on.
        sentence: the same for people.
    """

    rule: Rule
    retriever_id: str
    window_hours: int
    before: float
    after: float
    errors: float
    evidence: int
    sentence: str


@dataclass(frozen=True)
class Episode:
    """A time during which an alert was open.

    Attributes:
        since_ms: end of the hour at which it opened; the first that was checked may be earlier than that.
        until_ms: end of the hour at which it closed; None while it is open.
        worst: what it said at its worst.
    """

    since_ms: int
    until_ms: int | None
    worst: Finding


def check(hours: Hours, end_ms: int, was_open: frozenset[Rule] = frozenset()) -> list[Finding]:
    """Return what is wrong at a full hour, by the hours before it.

    Args:
        hours: of a retriever, WEEKS weeks and a day or more.
        end_ms: the time of the check; hours that end later are not looked at.
        was_open: rules that had found something an hour ago; they need less to find it still.
    """
    end = (end_ms - hours.start_ms) // MS_PER_HOUR
    stopped = _stopped(hours, end)
    found: dict[Rule, Finding] = {}
    if stopped:
        found["events_stopped"] = stopped
    for length in WINDOWS:
        view = _View.of(hours, end, length)
        if view is None:
            continue
        for finding in view.findings():
            needed = STAY if finding.rule in was_open else OPEN
            best = found.get(finding.rule)
            if finding.errors > needed and (best is None or finding.errors > best.errors):
                found[finding.rule] = finding
    return [found[rule] for rule in RULES if rule in found]


def episodes(hours: Hours, since_ms: int, until_ms: int) -> list[Episode]:
    """Return the alerts that were open between two times, checked at every full hour, by their begin."""
    running: dict[Rule, Episode] = {}
    done: list[Episode] = []
    first = -(-max(since_ms, hours.start_ms) // MS_PER_HOUR) * MS_PER_HOUR
    for at in range(first, min(until_ms, hours.end_ms) + 1, MS_PER_HOUR):
        found = {finding.rule: finding for finding in check(hours, at, frozenset(running))}
        over = [rule for rule in running if rule not in found]
        done += [replace(running.pop(rule), until_ms=at) for rule in over]
        for rule, finding in found.items():
            episode = running.get(rule)
            if episode is None:
                running[rule] = Episode(at, None, finding)
            elif finding.errors > episode.worst.errors:
                running[rule] = replace(episode, worst=finding)
    return sorted([*done, *running.values()], key=lambda each: (each.since_ms, RULES.index(each.worst.rule)))


def _stopped(hours: Hours, end: int) -> Finding | None:
    """Tell whether the last full hour lacks searches or clicks that it should have had."""
    last = end - 1
    if last < _WEEK:
        return None
    weeks = _before(np.array([last]), hours)
    usual = float(hours.searches[weeks].mean()) if len(weeks) else 0.0
    if not hours.searches[last] and usual >= STOPPED:
        text = f"no searches arrive; this hour usually has {usual:,.0f}"
        return Finding("events_stopped", hours.retriever_id, 1, usual, 0.0, float("inf"), int(usual), text)
    expected = _clicks_expected(hours, np.array([last]), weeks)
    if hours.searches[last] and not hours.clicks[last].sum() and expected >= STOPPED:
        text = f"searches arrive, but no clicks; these searches usually bring {expected:,.0f}"
        return Finding("events_stopped", hours.retriever_id, 1, expected, 0.0, float("inf"), int(expected), text)
    return None


def _clicks_expected(hours: Hours, these: Indices, before: Indices) -> float:
    shown, clicks = hours.shown[before].sum((0, 1)), hours.clicks[before].sum((0, 1))
    return float(hours.shown[these].sum((0, 1)) @ (clicks / np.maximum(shown, 1)))


def _before(window: Indices, hours: Hours) -> Indices:
    """Return the hours with searches, the same of the week as those of a window, in the weeks before."""
    index = np.concatenate([window - week * _WEEK for week in range(1, WEEKS + 1)])
    index = index[index >= 0]
    searched: Indices = index[hours.searches[index] > 0]
    return searched


@dataclass(frozen=True)
class _View:
    """The hours of a window beside those before, without what stopped, down to the depth that both show."""

    hours: Hours
    length: int
    now: Indices
    before: Indices
    depth: int

    @classmethod
    def of(cls, hours: Hours, end: int, length: int) -> "_View | None":
        """Return the view at a time; None where there is nothing to compare."""
        window = np.arange(max(end - length, 0), end)
        before = _before(window, hours)
        window = window[hours.searches[window] > 0]
        if not len(window) or not len(before):
            return None
        usual = hours.clicks[before].sum() / max(hours.shown[before].sum(), 1)

        def telling(index: Indices) -> Indices:
            silent = (hours.clicks[index].sum((1, 2)) == 0) & (hours.shown[index].sum((1, 2)) * usual >= STOPPED)
            speaking: Indices = index[~silent]
            return speaking

        now, before = telling(window), telling(before)
        if not len(now) or not len(before):
            return None
        depth = min(_depth(hours.lists[now].sum(0)), _depth(hours.lists[before].sum(0)))
        return cls(hours, length, now, before, depth) if depth else None

    def findings(self) -> Iterator[Finding]:
        """Yield what each rule measures, however little it is."""
        clicks, expected, errors, total = self._ctr(self.depth, MIN_CHANGE)
        top_falls = self._ctr(1, MIN_CHANGE)[2] > TOP_FALLS
        shown = int(self.hours.shown[self.now][:, :, : self.depth].sum())
        if expected >= MIN_CLICKS and top_falls:
            before, after = expected / max(total, 1), clicks / max(total, 1)
            text = f"CTR fell: {before:.1%} -> {after:.1%} at equal positions"
            yield self._finding("ctr_drop", before, after, errors, shown, text)
        yield from self._zero_results()
        if top_falls:
            yield from self._skips()
            yield from self._abandoned()
            yield from self._first_clicks()

    def _finding(self, rule: Rule, before: float, after: float, errors: float, evidence: int, text: str) -> Finding:
        return Finding(rule, self.hours.retriever_id, self.length, before, after, errors, evidence, text)

    def _ctr(self, depth: int, change: float) -> tuple[float, float, float, float]:
        """Return clicks, clicks expected, errors by which they fall below (1 - change) of it, and results compared."""
        shown, clicks = self.hours.shown[:, :, :depth], self.hours.clicks[:, :, :depth]
        base_shown, base_clicks = shown[self.before].sum(0), clicks[self.before].sum(0)
        known = base_shown >= _THIN
        ctr = np.where(known, base_clicks / np.maximum(base_shown, 1), 0.0)
        n = np.where(known, shown[self.now].sum(0), 0)
        observed = float(np.where(known, clicks[self.now].sum(0), 0).sum())
        expected = float((n * ctr).sum())
        # Of what is seen now, and of what is known of before.
        variance = float((n * ctr * (1 - ctr) * (1 + n / np.maximum(base_shown, 1))).sum())
        each = (shown[self.before] * ctr).sum((1, 2))
        spread = (shown[self.before] * ctr * (1 - ctr)).sum((1, 2))
        error = _error(variance, np.where(known, clicks[self.before], 0).sum((1, 2)), each, spread)
        return observed, expected, (expected * (1 - change) - observed) / error, float(n.sum())

    def _skips(self) -> Iterator[Finding]:
        """Compare, in searches whose lowest click is at a position, how many results above it were skipped."""
        lowest, skips = self.hours.lowest[:, : self.depth], self.hours.skips[:, : self.depth]
        above = np.arange(self.depth)
        n, base = lowest[self.now].sum(0), lowest[self.before].sum(0)
        known = base >= _THIN
        rate = np.where(known, skips[self.before].sum(0) / np.maximum(base * above, 1), 0.0)
        n = np.where(known, n, 0)
        examined = float((n * (above + 1)).sum())
        observed, expected = float(np.where(known, skips[self.now].sum(0), 0).sum()), float((n * above * rate).sum())
        if n.sum() < MIN_CLICKS or not expected:
            return
        # The skips of one search go together: as if each had one chance for all of them.
        variance = float((n * above**2 * rate * (1 - rate) * (1 + n / np.maximum(base, 1))).sum())
        each = (lowest[self.before] * above * rate).sum(1)
        spread = (lowest[self.before] * above**2 * rate * (1 - rate)).sum(1)
        error = _error(variance, np.where(known, skips[self.before], 0).sum(1), each, spread)
        before, after = expected / examined, observed / examined
        text = f"skips rose: {before:.1%} -> {after:.1%} of examined results, in equally deep searches"
        errors = (observed - expected * (1 + MIN_CHANGE)) / error
        yield self._finding("skip_rise", before, after, errors, int(examined), text)

    def _zero_results(self) -> Iterator[Finding]:
        finding = self._share("zero_result_rise", self.hours.zero, self.hours.searches, ZERO_MIN, "zero results rose")
        if finding:
            yield finding

    def _abandoned(self) -> Iterator[Finding]:
        found = self.hours.lists[:, 1:].sum(1)
        without = found - self.hours.highest[:, : self.depth].sum(1)
        finding = self._share("abandonment_rise", without, found, 0.0, "searches without a click rose")
        if finding:
            yield finding

    def _share(self, rule: Rule, counts: Indices, of: Indices, least: float, words: str) -> Finding | None:
        n, base = float(of[self.now].sum()), float(of[self.before].sum())
        if n < MIN_SEARCHES or base < MIN_SEARCHES:
            return None
        before, after = float(counts[self.before].sum()) / base, float(counts[self.now].sum()) / n
        each = of[self.before] * before
        # At least one more or less, or a rate of 0 before would be known for sure.
        variance = max(n * before * (1 - before), 1.0) * (1 + n / base)
        error = _error(variance, counts[self.before], each, np.maximum(each * (1 - before), 1e-9))
        errors = n * (after - max(before * (1 + MIN_CHANGE), before + least)) / error
        return self._finding(rule, before, after, errors, int(n), f"{words}: {before:.1%} -> {after:.1%}")

    def _first_clicks(self) -> Iterator[Finding]:
        first, place = self.hours.first[:, : self.depth], np.arange(1, self.depth + 1)
        now, base = first[self.now].sum(0), first[self.before].sum(0)
        n, m = float(now.sum()), float(base.sum())
        if n < MIN_CLICKS or m < MIN_CLICKS:
            return
        before, after = float(base @ place) / m, float(now @ place) / n
        deviation = float(base @ (place - before) ** 2) / m
        weights = first[self.before].sum(1)
        error = _error(
            n * deviation * (1 + n / m),
            first[self.before] @ place,
            weights * before,
            np.maximum(weights * deviation, 1e-9),
        )
        errors = n * (after - before * (1 + MIN_CHANGE)) / error
        text = f"first clicks moved down: position {before:.2f} -> {after:.2f}, counted from 1"
        yield self._finding("first_click_drift", before - 1, after - 1, errors, int(n), text)


def _depth(lists: Indices) -> int:
    """Return how many positions nine of ten lists with results have, from the number of lists of each length."""
    at_least = np.cumsum(lists[::-1])[::-1][1:]
    return int((at_least >= _COMMON * at_least[0]).sum()) if at_least[0] else 0


def _error(variance: float, seen: Indices, expected: Floats, spread: Floats) -> float:
    """Return the standard error of a sum, widened by how much the hours before differ from what is expected of them."""
    some = spread > 0
    beyond = ((seen - expected)[some] ** 2 / spread[some]).mean() if some.any() else 1.0
    return float(np.sqrt(max(variance, 1.0) * max(beyond, 1.0)))
