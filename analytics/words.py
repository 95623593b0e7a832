"""Rates, intervals and problems as people read them, in terminal and reports alike. Positions count from 1."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from clickwell.analytics.findings import Findings
from clickwell.analytics.intervals import Change, Mean, Rate
from clickwell.analytics.period import Numbers
from clickwell.analytics.signals import Signals

NONE = "—"
Table = tuple[str, list[str], list[list[str]], str]


def percent(value: float | None, half_width: float = 0.0) -> str:
    """Return a share in percent, with as many decimals as its interval carries."""
    if value is None:
        return NONE
    decimals = 2 if 0 < half_width < 0.001 else 0 if half_width > 0.03 else 1
    return f"{100 * value:.{decimals}f}%"


def with_interval(rate: Rate) -> str:
    """Return a rate and its interval in percent."""
    if rate.value is None or rate.low is None or rate.high is None:
        return NONE
    half = (rate.high - rate.low) / 2
    low, high = (percent(bound, half).removesuffix("%") for bound in (rate.low, rate.high))
    return f"{percent(rate.value, half)} ({low}–{high})"  # noqa: RUF001  # an en dash between two numbers


def position(mean: Mean) -> str:
    """Return a mean position and its interval, counted from 1."""
    if mean.value is None:
        return NONE
    if mean.low is None or mean.high is None:
        return f"{mean.value + 1:.1f}"
    return f"{mean.value + 1:.2f} ({max(mean.low, 0) + 1:.2f}–{mean.high + 1:.2f})"  # noqa: RUF001


def change(one: Change | None, *, points: bool = True) -> str:
    """Return a signed difference and its interval, in percentage points, or that there is none to speak of."""
    if one is None or one.difference is None or one.low is None or one.high is None:
        return NONE
    if not one.clear:
        return "no clear change"
    scale, unit, decimals = (100, " pp", 1) if points else (1, "", 2)
    value, low, high = (
        f"{scale * each:+.{decimals}f}".replace("-", "−")  # noqa: RUF001  # a minus sign
        for each in (one.difference, one.low, one.high)
    )
    return f"{value}{unit} ({low} to {high})"


def duration(ms: float) -> str:
    """Return a time such as `1.5 s`."""
    return f"{ms / 1000:.1f} s" if ms < 100_000 else f"{ms / 60_000:.0f} min"


def moment(time_ms: int) -> str:
    """Return a time such as `20 Nov 09:00`, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%d %b %H:%M").lstrip("0")


def query(text: str) -> str:
    """Return a query, also the one that is empty."""
    return text or "(empty query)"


def position_name(place: int, last: int) -> str:
    """Return the name of a position, counted from 1."""
    return f"{place + 1}+" if place >= last else str(place + 1)


def numbers(signals: Signals) -> list[list[str]]:
    """Return rows of name, value, change since the period before."""
    n: Numbers = signals.numbers
    c = signals.comparison
    delay = n.first_click_ms
    rows = [
        ["searches", f"{n.searches:,}", f"{c.before.searches:,} before" if c else ""],
        ["CTR", with_interval(n.ctr), change(c.ctr) if c else ""],
        ["CTR at equal positions", "", change(c.ctr_at_equal_positions) if c else ""],
        ["searches with a click", with_interval(n.searches_with_click), change(c.searches_with_click) if c else ""],
        ["skip rate", with_interval(n.skip_rate), change(c.skip_rate) if c else ""],
        ["zero results", with_interval(n.zero_results), change(c.zero_results) if c else ""],
        ["abandoned", with_interval(n.abandoned), change(c.abandoned) if c else ""],
        ["reformulated", with_interval(n.reformulated), change(c.reformulated) if c else ""],
        ["first click at", position(n.first_click_position), change(c.first_click_position, points=False) if c else ""],
        [
            "time to first click",
            f"{duration(delay['median'])}, 9 of 10 in {duration(delay['p90'])}" if delay else NONE,
            "",
        ],
    ]
    return rows if c else [row for row in rows if row[0] != "CTR at equal positions"]


def low_ctr(signals: Signals) -> Table:
    """Return the table of the queries whose results are clicked too rarely."""
    found = signals.low_ctr_queries
    return (
        "Low-CTR queries",
        ["query", "searches", "CTR", "expected", "clicks lost", "first click at"],
        [
            [
                query(q.query),
                f"{q.searches:,}",
                with_interval(q.ctr),
                percent(q.expected),
                f"{q.clicks_lost:,.0f}",
                position(q.first_click_position),
            ]
            for q in found.rows
        ],
        _said(found, "queries", "are below the threshold and below what their positions lead to expect"),
    )


def skipped(signals: Signals) -> Table:
    """Return the table of the documents that stand at the top and are passed over."""
    found = signals.skipped_documents
    return (
        "Ranked high, skipped",
        ["document", "at top 3", "skip rate", "expected", "skips above expected"],
        [
            [
                d.feature_id,
                f"{d.shown_at_top:,}",
                with_interval(d.skip_rate),
                percent(d.expected),
                f"{d.skips_above_expected:,.0f}",
            ]
            for d in found.rows
        ],
        _said(found, "documents", "get less than a quarter of the clicks that others get in their places"),
    )


def zero(signals: Signals) -> Table:
    """Return the table of the queries that find nothing."""
    found = signals.zero_result_queries
    return (
        "Zero-result queries",
        ["query", "searches", "zero results", "last seen", "asked next"],
        [
            [
                query(z.query),
                f"{z.zero_results.of:,}",
                with_interval(z.zero_results),
                moment(z.last_at),
                f"{query(z.next_query)} ({z.next_searches:,})" if z.next_query is not None else NONE,
            ]
            for z in found.rows
        ],
        _said(found, "queries", "find nothing"),
    )


def positions(signals: Signals) -> Table:
    """Return the table of CTR by position."""
    last = max((each.position for each in signals.ctr_by_position), default=0) + 1
    rows = [
        [position_name(p.position, last), f"{p.ctr.of:,}", with_interval(p.ctr), with_interval(p.skip_rate)]
        for p in signals.ctr_by_position
    ]
    return ("CTR by position", ["position", "shown", "CTR", "skip rate"], rows, "")


def blind_spots(signals: Signals) -> list[str]:
    """Return what the numbers cannot see, one sentence each."""
    b = signals.blind_spots
    sentences = []
    if b.deep_documents:
        sentences.append(f"{b.deep_documents:,} documents are clicked often below position 10 and hardly shown higher")
    if b.unseen_documents:
        sentences.append(f"{b.unseen_documents:,} documents are clicked in other retrievers and never shown here")
    if b.thin_queries:
        sentences.append(
            f"{b.thin_queries:,} queries, {percent(b.thin_searches)} of searches, have too little evidence for a CTR"
        )
    return sentences or ["nothing is hidden at this evidence level"]


def tables(signals: Signals) -> Iterator[Table]:
    """Yield every table: title, headers, rows, and a sentence about it."""
    n = signals.numbers
    title = f"{signals.retriever_id or '(no retriever)'}, {n.since} to {n.until}, UTC"
    yield (title, ["", "value", "change"], numbers(signals), "")
    for table in (positions, low_ctr, skipped, zero):
        yield table(signals)


def _said(found: Findings[Any], things: str, verdict: str) -> str:
    few = f"; {found.too_little_evidence:,} have too little evidence" if found.too_little_evidence else ""
    if not found.found:
        return f"none of {found.tested:,} {things} {verdict}, with 95% confidence{few}"
    more = f", the worst {len(found.rows):,} below" if len(found.rows) < found.found else ""
    return f"{found.found:,} of {found.tested:,} {things} {verdict}, with 95% confidence{more}{few}"
