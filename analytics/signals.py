"""What searches of a retriever say about its relevance: rates with intervals, and the queries and documents to look at.

```python
from clickwell.analytics.signals import get_retriever_signals

signals = get_retriever_signals("shop", days=28)
signals.ctr.value, signals.ctr.low, signals.ctr.high
for query in signals.low_ctr_queries.rows:
    print(query.query, query.ctr, query.clicks_lost)
```
CTR is clicks over results shown. When a query or a document is reported, `clickwell.analytics.findings` says.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np

from clickwell.analytics import kept
from clickwell.analytics.findings import (
    LOW_CTR,
    DocumentSignal,
    Findings,
    QuerySignal,
    ZeroResultQuery,
    low_ctr_queries,
    skipped_documents,
    zero_result_queries,
)
from clickwell.analytics.intervals import Change, Mean, Rate, Z, mean_change, rate_change
from clickwell.analytics.period import BlindSpots, Numbers, Period, PositionSignal
from clickwell.errors import UsageError
from clickwell.settings import Settings


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same numbers of the period before, and whether they differ.

    Attributes:
        before: the period of the same length that ends the day before.
        ctr_at_equal_positions: the change of CTR if as much had been shown at each position as before.
    """

    before: Numbers
    ctr: Change
    ctr_at_equal_positions: Change
    searches_with_click: Change
    skip_rate: Change
    zero_results: Change
    abandoned: Change
    reformulated: Change
    first_click_position: Change


@dataclass(frozen=True, slots=True)
class Signals:
    """Everything about one retriever over some days; see the classes of its parts."""

    retriever_id: str
    numbers: Numbers
    ctr_by_position: list[PositionSignal]
    low_ctr_queries: Findings[QuerySignal]
    skipped_documents: Findings[DocumentSignal]
    zero_result_queries: Findings[ZeroResultQuery]
    comparison: Comparison | None
    """None when it was not asked for, or nobody searched before."""
    blind_spots: BlindSpots

    @property
    def ctr(self) -> Rate:
        """Clicks over results shown."""
        return self.numbers.ctr


def get_retriever_signals(
    retriever_id: str,
    *,
    settings: Settings | None = None,
    since: date | None = None,
    until: date | None = None,
    days: int = 28,
    compare: bool = True,
    limit: int = 50,
    low_ctr: float = LOW_CTR,
) -> Signals:
    """Return the signals of a retriever.

    Args:
        retriever_id: as events name it; empty for events that name none.
        settings: where the lake is; `Settings.load()` when absent.
        since: first day, UTC; `days` before the last when absent.
        until: last day, included; today when absent.
        days: how many, when `since` is absent.
        compare: also with the period before.
        limit: problems of each kind at most.
        low_ctr: CTR below which a query is reported.

    Raises:
        UsageError: the days or the threshold make no sense.
        LakeError: there is no table of searches, or its storage does not answer.
    """
    settings = settings or Settings.load()
    until = until or datetime.now(UTC).date()
    since = since or until - timedelta(days=days - 1)
    if since > until:
        raise UsageError(f"the first day {since} is after the last {until}")
    if not 0 < low_ctr < 1:
        raise UsageError(f"a CTR of {low_ctr:g} cannot be a threshold", fix="use a share such as 0.05")
    length = until - since + timedelta(days=1)
    with kept.connect(settings, since - length if compare else since, until) as connection:
        period = Period(connection, retriever_id, since, until)
        before = Period(connection, retriever_id, since - length, since - timedelta(days=1)) if compare else None
        queries, documents = period.queries(), period.documents()
        return Signals(
            retriever_id=retriever_id,
            numbers=period.numbers(),
            ctr_by_position=period.positions(),
            low_ctr_queries=low_ctr_queries(queries, low_ctr, limit),
            skipped_documents=skipped_documents(documents, limit),
            zero_result_queries=zero_result_queries(queries, period.detours(), limit),
            comparison=_comparison(before, period) if before else None,
            blind_spots=period.blind_spots(queries, documents, low_ctr),
        )


def retrievers(settings: Settings, since: date, until: date) -> list[str]:
    """Return the retrievers that searched on some days, by name."""
    with kept.connect(settings, since, until) as connection:
        rows = connection.execute("select distinct retriever_id from hours order by 1").fetchall()
    return [name for (name,) in rows]


def _comparison(before: Period, after: Period) -> Comparison | None:
    old, new = before.numbers(), after.numbers()
    if not old.searches:
        return None
    return Comparison(
        before=old,
        ctr=rate_change(old.ctr, new.ctr),
        ctr_at_equal_positions=at_equal_positions(before.positions(), after.positions()),
        searches_with_click=rate_change(old.searches_with_click, new.searches_with_click),
        skip_rate=rate_change(old.skip_rate, new.skip_rate),
        zero_results=rate_change(old.zero_results, new.zero_results),
        abandoned=rate_change(old.abandoned, new.abandoned),
        reformulated=rate_change(old.reformulated, new.reformulated),
        first_click_position=mean_change(old.first_click_position, new.first_click_position),
    )


def at_equal_positions(before: list[PositionSignal], after: list[PositionSignal]) -> Change:
    """Return the change of CTR with the positions of the later period weighted as in the earlier one.

    Only positions that both periods have count. The variance is that of a stratified mean of binomial rates.
    """
    old = {each.position: each.ctr for each in before if each.ctr.of}
    new = {each.position: each.ctr for each in after if each.ctr.of}
    both = sorted(old.keys() & new.keys())
    if not both:
        return Change(None, None, None, None, None, None, clear=False)
    weight = np.array([old[k].of for k in both], np.float64)
    weight /= weight.sum()
    means, variance = [], 0.0
    for rates in (old, new):
        n = np.array([rates[k].of for k in both], np.float64)
        p = np.array([rates[k].count for k in both], np.float64) / n
        means.append(float(weight @ p))
        variance += float(weight**2 @ (p * (1 - p) / n))
    # As a mean of so many values, whose intervals are as wide as these variances make them.
    half = Mean(2, means[0], means[0], means[0])
    reach = Z * variance**0.5
    return mean_change(half, Mean(2, means[1], means[1] - reach, means[1] + reach))
