"""Which queries and documents are a problem of relevance, as far as chance is no explanation.

A query or a document is only reported when its interval lies beyond the threshold, and when it stays after all that
were tested at once are taken into account (at most about one report in twenty is noise). How many could not be tested
for want of evidence is said beside it.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from clickwell.analytics.intervals import Mean, Rate, discoveries, least_evidence, mean, rate, tail, wilson

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
    looked_at = documents["top_examined"] > 0
    documents = {name: column[looked_at] for name, column in documents.items()}
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
