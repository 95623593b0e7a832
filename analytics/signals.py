"""What searches of a retriever say about its relevance: rates with intervals, and the queries and documents to look at.

```python
from clickwell.analytics.signals import get_retriever_signals

signals = get_retriever_signals("shop", days=28)
signals.ctr.value, signals.ctr.low, signals.ctr.high
for query in signals.low_ctr_queries.rows:
    print(query.query, query.ctr, query.clicks_lost)
```
CTR is clicks over results shown. A query or a document is only reported when chance is no explanation: its interval
lies beyond the threshold, and it stays when all that were tested at once are taken into account (at most about one
report in twenty is noise). How many could not be tested for want of evidence is said beside it.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Generic, TypeVar

import duckdb
import numpy as np
from numpy.typing import NDArray

from clickwell.analytics import kept
from clickwell.analytics.facts import DEEP, DELAY_STEP
from clickwell.analytics.intervals import (
    Change,
    Mean,
    Rate,
    Z,
    discoveries,
    least_evidence,
    mean,
    mean_change,
    rate,
    rate_change,
    tail,
    wilson,
)
from clickwell.errors import UsageError
from clickwell.settings import Settings

LOW_CTR = 0.05
"""Below this a query's CTR is low."""
# A document at the top is passed over when it gets, of the clicks that others get there, less than this share: good
# documents beside very good ones still get a third to a half.
SKIPPED_SHARE = 0.25
# A query finds nothing when more than this share of its searches does, with confidence; fewer searches prove nothing.
ZERO_SHARE = 0.2
ZERO_SEARCHES = 3

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Findings(Generic[R]):
    """A list of problems, the worst first.

    Attributes:
        rows: the problems, at most as many as were asked for.
        found: how many there are in all.
        tested: how many had enough evidence.
        too_little_evidence: how many had not.
    """

    rows: list[R]
    found: int
    tested: int
    too_little_evidence: int


@dataclass(frozen=True, slots=True)
class PositionSignal:
    """One position, 0-based; the last one stands for all below it too."""

    position: int
    ctr: Rate
    skip_rate: Rate


@dataclass(frozen=True, slots=True)
class QuerySignal:
    """A query whose results are clicked too rarely.

    Attributes:
        query: its normal form.
        searches: how often it was asked.
        ctr: clicks over results shown.
        expected: CTR that the retriever has at the same positions.
        clicks_lost: how many clicks more it would have had then.
        first_click_position: 0-based.
    """

    query: str
    searches: int
    ctr: Rate
    expected: float
    clicks_lost: float
    first_click_position: Mean


@dataclass(frozen=True, slots=True)
class DocumentSignal:
    """A document that stands among the first three and is passed over.

    Attributes:
        feature_id: the document.
        shown_at_top: how often it stood there.
        skip_rate: skipped over examined, at the top; examined are results down to the search's lowest click.
        expected: skip rate of all documents at the same positions.
        skips_above_expected: how many skips more than that.
    """

    feature_id: str
    shown_at_top: int
    skip_rate: Rate
    expected: float
    skips_above_expected: float


@dataclass(frozen=True, slots=True)
class ZeroResultQuery:
    """A query that finds nothing.

    Attributes:
        query: its normal form; empty when nothing was typed.
        zero_results: searches without results over searches.
        last_at: epoch ms of its last search.
        next_query: what was asked next most often within ten minutes; None when nothing was.
        next_searches: how often.
    """

    query: str
    zero_results: Rate
    last_at: int
    next_query: str | None
    next_searches: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """The rates of a retriever over some days.

    Attributes:
        since, until: first and last day, both included, UTC.
        searches: how many.
        ctr: clicks over results shown.
        searches_with_click: of those with results.
        skip_rate: skipped over examined results.
        zero_results: searches without results.
        abandoned: searches with results of which none was clicked, of those with results.
        reformulated: searches followed by another query in the same session within ten minutes.
        first_click_position: 0-based mean.
        first_click_ms: median time to the first click, and the time within which nine of ten came; None without clicks.
    """

    since: date
    until: date
    searches: int
    ctr: Rate
    searches_with_click: Rate
    skip_rate: Rate
    zero_results: Rate
    abandoned: Rate
    reformulated: Rate
    first_click_position: Mean
    first_click_ms: dict[str, float] | None


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
class BlindSpots:
    """What these numbers cannot see.

    Attributes:
        deep_documents: documents clicked more often than expected deep in the list that hardly ever stood at the top.
        unseen_documents: documents clicked in other retrievers and never shown by this one.
        thin_queries: queries with too little evidence for a CTR, and `thin_searches`, the share of searches that is.
    """

    deep_documents: int
    unseen_documents: int
    thin_queries: int
    thin_searches: float | None


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
        queries = period.queries()
        return Signals(
            retriever_id=retriever_id,
            numbers=period.numbers(),
            ctr_by_position=period.positions(),
            low_ctr_queries=low_ctr_queries(queries, low_ctr, limit),
            skipped_documents=skipped_documents(period.top_documents(), limit),
            zero_result_queries=zero_result_queries(queries, period.detours(), limit),
            comparison=_comparison(before, period) if before else None,
            blind_spots=period.blind_spots(queries, low_ctr),
        )


def retrievers(settings: Settings, since: date, until: date) -> list[str]:
    """Return the retrievers that searched on some days, by name."""
    with kept.connect(settings, since, until) as connection:
        rows = connection.execute("select distinct retriever_id from hours order by 1").fetchall()
    return [name for (name,) in rows]


class Period:
    """The facts of one retriever over some days, added up.

    Args:
        connection: of `kept.connect`.
        retriever_id: whose.
        since, until: first and last day, both included.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, retriever_id: str, since: date, until: date) -> None:
        self._connection = connection
        self._bound = {"retriever": retriever_id, "since": since, "until": until}
        self.since, self.until = since, until

    def columns(self, columns: str, table: str, by: str = "", having: str = "") -> dict[str, NDArray[Any]]:
        """Return sums over a table of facts as numpy columns, by a key, in its order."""
        text = f"""
select {f"{by}, " if by else ""}{columns} from {table}
where retriever_id = $retriever and day between $since and $until
{f"group by {by}" if by else ""} {having} {f"order by {by}" if by else ""}"""  # noqa: S608  # only own text
        return self._connection.execute(text, self._bound).fetchnumpy()

    def numbers(self) -> Numbers:
        """Return the rates."""
        names = ("searches", "zero", "with_click", "shown", "clicks", "examined", "first_sum", "first_squares")
        sums = self.columns(", ".join(f"coalesce(sum({name}), 0)::double as {name}" for name in names), "hours")
        n = {name: float(sums[name][0]) for name in names}
        again = self.columns("coalesce(sum(reformulated), 0)::bigint as n", "queries")["n"][0]
        searches, zero, with_click = int(n["searches"]), int(n["zero"]), int(n["with_click"])
        return Numbers(
            since=self.since,
            until=self.until,
            searches=searches,
            ctr=rate(int(n["clicks"]), int(n["shown"])),
            searches_with_click=rate(with_click, searches - zero),
            skip_rate=rate(int(n["examined"] - n["clicks"]), int(n["examined"])),
            zero_results=rate(zero, searches),
            abandoned=rate(searches - zero - with_click, searches - zero),
            reformulated=rate(int(again), searches),
            first_click_position=mean(n["first_sum"], n["first_squares"], with_click),
            first_click_ms=self._delays(),
        )

    def _delays(self) -> dict[str, float] | None:
        steps = self.columns("sum(searches)::bigint as n", "delays", by="step")
        if not len(steps["n"]):
            return None
        done = np.cumsum(steps["n"]) / steps["n"].sum()
        return {
            name: round(float(DELAY_STEP ** (steps["step"][np.searchsorted(done, share)] + 0.5)))
            for name, share in (("median", 0.5), ("p90", 0.9))
        }

    def positions(self) -> list[PositionSignal]:
        """Return each position."""
        sums = "sum(shown)::bigint as shown, sum(clicks)::bigint as clicks, sum(examined)::bigint as examined"
        found = self.columns(sums, "positions", by="position")
        rows = zip(*(found[name].tolist() for name in ("position", "shown", "clicks", "examined")), strict=True)
        return [
            PositionSignal(position, rate(clicks, shown), rate(examined - clicks, examined))
            for position, shown, clicks, examined in rows
        ]

    def queries(self) -> dict[str, NDArray[Any]]:
        """Return the sums of each query."""
        whole = ("searches", "zero", "with_click", "shown", "clicks")
        parts = [f"sum({name})::bigint as {name}" for name in whole]
        parts += [f"sum({name}) as {name}" for name in ("first_sum", "first_squares", "expected")]
        return self.columns(", ".join([*parts, "max(last_at) as last_at"]), "queries", by="query_key")

    def top_documents(self) -> dict[str, NDArray[Any]]:
        """Return the sums of each document that was examined at the top."""
        parts = [f"sum({name})::bigint as {name}" for name in ("top_shown", "top_examined", "top_clicks")]
        sums = ", ".join([*parts, "sum(top_expected) as top_expected"])
        return self.columns(sums, "documents", by="feature_id", having="having sum(top_examined) > 0")

    def detours(self) -> dict[str, tuple[str, int]]:
        """Return, for each query that found nothing, what was asked next most often, and how often."""
        found = self.columns("sum(searches)::bigint as n", "detours", by="query_key, next_key")
        best: dict[str, tuple[str, int]] = {}
        for query, following, n in zip(*(found[name].tolist() for name in ("query_key", "next_key", "n")), strict=True):
            if n > best.get(query, ("", 0))[1]:
                best[query] = (following, n)
        return best

    def blind_spots(self, queries: dict[str, NDArray[Any]], low_ctr: float) -> BlindSpots:
        """Return what these facts cannot see."""
        thin = (queries["shown"] < least_evidence(low_ctr)) & (queries["shown"] > 0)
        searches = queries["searches"].sum()
        deep = self.columns(
            "sum(deep_shown)::bigint as deep_shown, sum(deep_clicks)::bigint as deep_clicks",
            "documents",
            by="feature_id",
            having="having sum(deep_clicks) > 0 and sum(top_shown) < sum(shown) / 20",
        )
        curve = self.columns("sum(clicks)::double as clicks, sum(shown)::double as shown", "positions", by="position")
        below = curve["position"] >= DEEP
        usual = curve["clicks"][below].sum() / max(curve["shown"][below].sum(), 1)
        low, _ = wilson(deep["deep_clicks"], deep["deep_shown"])
        elsewhere = self._connection.execute(
            """
select count(*) from (
  select feature_id from documents where day between $since and $until
  group by feature_id
  having sum(clicks) filter (retriever_id <> $retriever) > 0
     and coalesce(sum(shown) filter (retriever_id = $retriever), 0) = 0
)""",
            self._bound,
        ).fetchone()
        assert elsewhere is not None
        return BlindSpots(
            deep_documents=int((low > usual).sum()),
            unseen_documents=int(elsewhere[0]),
            thin_queries=int(thin.sum()),
            thin_searches=float(queries["searches"][thin].sum() / searches) if searches else None,
        )


def low_ctr_queries(queries: dict[str, NDArray[Any]], threshold: float, limit: int) -> Findings[QuerySignal]:
    """Return the queries whose CTR is below the threshold, and below what their positions lead to expect.

    Where results as a whole are clicked less often than the threshold, as in long lists, only the second tells a
    problem.
    """
    enough = queries["shown"] >= least_evidence(threshold)
    some = queries["shown"] > 0
    q = {name: column[enough] for name, column in queries.items()}
    _, high = wilson(q["clicks"], q["shown"])
    usual = q["expected"] / np.maximum(q["shown"], 1)
    unlikely = np.where(q["clicks"] < q["expected"], tail(q["clicks"], q["shown"], usual), 1.0)
    found = np.flatnonzero((high < threshold) & discoveries(unlikely))
    lost = q["expected"] - q["clicks"]
    worst = sorted(found.tolist(), key=lambda row: (-lost[row], q["query_key"][row]))
    rows = [
        QuerySignal(
            query=q["query_key"][row],
            searches=int(q["searches"][row]),
            ctr=rate(int(q["clicks"][row]), int(q["shown"][row])),
            expected=float(usual[row]),
            clicks_lost=float(lost[row]),
            first_click_position=mean(
                float(q["first_sum"][row]), float(q["first_squares"][row]), int(q["with_click"][row])
            ),
        )
        for row in worst[:limit]
    ]
    return Findings(rows, len(worst), int(enough.sum()), int((some & ~enough).sum()))


def skipped_documents(documents: dict[str, NDArray[Any]], limit: int) -> Findings[DocumentSignal]:
    """Return the documents that stand at the top and are passed over."""
    examined, clicks = documents["top_examined"], documents["top_clicks"]
    expected = documents["top_expected"] / np.maximum(examined, 1)
    bar = (1 - expected) * SKIPPED_SHARE
    enough = wilson(np.zeros(len(examined)), examined)[1] < bar
    unlikely = np.where(enough & (clicks < examined * (1 - expected)), tail(clicks, examined, 1 - expected), 1.0)
    found = np.zeros(len(examined), np.bool_)
    found[enough] = discoveries(unlikely[enough])
    found &= wilson(clicks, examined)[1] < bar
    above = (examined - clicks) - documents["top_expected"]
    worst = sorted(np.flatnonzero(found).tolist(), key=lambda row: (-above[row], documents["feature_id"][row]))
    rows = [
        DocumentSignal(
            feature_id=documents["feature_id"][row],
            shown_at_top=int(documents["top_shown"][row]),
            skip_rate=rate(int(examined[row] - clicks[row]), int(examined[row])),
            expected=float(expected[row]),
            skips_above_expected=float(above[row]),
        )
        for row in worst[:limit]
    ]
    return Findings(rows, len(worst), int(enough.sum()), int((~enough).sum()))


def zero_result_queries(
    queries: dict[str, NDArray[Any]], detours: dict[str, tuple[str, int]], limit: int
) -> Findings[ZeroResultQuery]:
    """Return the queries that find nothing, more often than the retriever's searches do on the whole."""
    enough = queries["searches"] >= ZERO_SEARCHES
    q = {name: column[enough] for name, column in queries.items()}
    low, _ = wilson(q["zero"], q["searches"])
    usual = queries["zero"].sum() / max(queries["searches"].sum(), 1)
    above = q["zero"] > usual * q["searches"]
    unlikely = np.where(above, tail(q["zero"], q["searches"], usual), 1.0)
    # Where nearly everything finds nothing, no query does so more than the others: then the share alone tells.
    found = np.flatnonzero((low > ZERO_SHARE) & (discoveries(unlikely) | (usual > 0.5)))
    worst = sorted(found.tolist(), key=lambda row: (-q["zero"][row], q["query_key"][row]))
    rows = [
        ZeroResultQuery(
            query=q["query_key"][row],
            zero_results=rate(int(q["zero"][row]), int(q["searches"][row])),
            last_at=int(q["last_at"][row]),
            next_query=detours.get(q["query_key"][row], (None, 0))[0],
            next_searches=detours.get(q["query_key"][row], (None, 0))[1],
        )
        for row in worst[:limit]
    ]
    return Findings(rows, len(worst), int(enough.sum()), int((~enough).sum()))


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
