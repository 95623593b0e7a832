"""A retriever over some days: the facts of each day, added up."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from clickwell.analytics.facts import DEEP, DELAY_STEP
from clickwell.analytics.intervals import Mean, Rate, least_evidence, mean, rate, wilson


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
class PositionSignal:
    """One position, 0-based; the last one stands for all below it too."""

    position: int
    ctr: Rate
    skip_rate: Rate


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
{f"group by {by} {having} order by {by}" if by else ""}"""  # noqa: S608  # only own text
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

    def documents(self) -> dict[str, NDArray[Any]]:
        """Return the sums of each document, in no order, and `elsewhere`, its clicks in other retrievers.

        A month of a large site has more rows of documents than of all else together: whoever asks shares the answer.
        """
        whole = ("shown", "top_shown", "top_examined", "top_clicks", "deep_shown", "deep_clicks")
        parts = [f"coalesce(sum({name}) filter (own), 0)::bigint as {name}" for name in whole]
        parts += ["coalesce(sum(top_expected) filter (own), 0) as top_expected"]
        parts += ["coalesce(sum(clicks) filter (not own), 0)::bigint as elsewhere"]
        text = f"""
select feature_id, {", ".join(parts)}
from (select *, retriever_id = $retriever as own from documents where day between $since and $until)
group by feature_id"""  # noqa: S608  # only own text
        return self._connection.execute(text, self._bound).fetchnumpy()

    def detours(self) -> dict[str, tuple[str, int]]:
        """Return, for each query that found nothing, what was asked next most often, and how often."""
        found = self.columns("sum(searches)::bigint as n", "detours", by="query_key, next_key")
        best: dict[str, tuple[str, int]] = {}
        for query, following, n in zip(*(found[name].tolist() for name in ("query_key", "next_key", "n")), strict=True):
            if n > best.get(query, ("", 0))[1]:
                best[query] = (following, n)
        return best

    def blind_spots(
        self, queries: dict[str, NDArray[Any]], documents: dict[str, NDArray[Any]], low_ctr: float
    ) -> BlindSpots:
        """Return what these facts cannot see."""
        thin = (queries["shown"] < least_evidence(low_ctr)) & (queries["shown"] > 0)
        searches = queries["searches"].sum()
        curve = self.columns("sum(clicks)::double as clicks, sum(shown)::double as shown", "positions", by="position")
        below = curve["position"] >= DEEP
        usual = curve["clicks"][below].sum() / max(curve["shown"][below].sum(), 1)
        hardly_at_top = documents["top_shown"] < documents["shown"] / 20
        low, _ = wilson(documents["deep_clicks"], documents["deep_shown"])
        return BlindSpots(
            deep_documents=int(((documents["deep_clicks"] > 0) & hardly_at_top & (low > usual)).sum()),
            unseen_documents=int(((documents["elsewhere"] > 0) & (documents["shown"] == 0)).sum()),
            thin_queries=int(thin.sum()),
            thin_searches=float(queries["searches"][thin].sum() / searches) if searches else None,
        )
