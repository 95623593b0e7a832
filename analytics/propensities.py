"""How often people examine each position of a result list, from the log itself, and whether the log can tell.

Examination at position k relative to position 0 divides the clicks at k to make them comparable. It is that of the
position-based model. Where people trust high ranks beyond looking at them, or stop at the first hit, the estimate is
how much less often the same document is clicked at k, which is what correcting clicks needs, averaged over the log.
"""

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

import duckdb
import numpy as np

from clickwell.analytics.harvesting import Floats, Harvest, Ints, harvest
from clickwell.analytics.impressions import join_one, rows
from clickwell.analytics.regression_em import regression_em
from clickwell.settings import Settings

Method = Literal["all-pairs", "regression-em"]

# Deeper positions get too few clicks to be told apart and are taken together with the last of these.
MAX_POSITIONS = 50
# (1 / rank) ** DECAY is the form of Joachims, Swaminathan and Schnabel (Unbiased learning-to-rank with biased feedback,
# WSDM 2017), who use 1; curves measured on web search fall with about 0.6. Between the two, neither error is large.
DECAY = 0.8
# Of the clicks, so many must lie at positions that were estimated, or the curve would mostly be the declared one.
CLICKS_COVERED = 0.9
# Below, queries are too few to stand for others, and (query, document) pairs are drawn instead.
_MIN_QUERIES = 50
# A sample of so many pairs gives intervals of about 1 %.
_MAX_PAIRS = 200_000


@dataclass(frozen=True)
class Propensities:
    """Examination by position, 0-based.

    Attributes:
        identifiable: whether the log tells; otherwise `theta` is the declared prior.
        theta: relative to position 0, which is 1; above 1 where a position is looked at more.
        low, high: 90 % bootstrap interval; null at positions that were not estimated.
        evidence: (query, document) pairs at each position that were shown at another one too and clicked.
        method: `all-pairs`, `regression-em` or `prior`.
        note: in words, what was estimated, or why not.
    """

    identifiable: bool
    theta: list[float]
    low: list[float | None]
    high: list[float | None]
    evidence: list[int]
    method: str
    note: str


def propensities(
    settings: Settings,
    retriever: str | None = None,
    *,
    device: str | None = None,
    since: date | None = None,
    until: date | None = None,
    method: Method = "all-pairs",
) -> Propensities:
    """Estimate the examination of a retriever's positions on the days `since` to `until`.

    Args:
        settings: where the lake is.
        retriever: its `retriever_id`; may be None when the lake has one only.
        device: only of searches that tell this device.
        since: first day.
        until: last day, included.
        method: `regression-em` has no intervals; it says what it finds even where the log cannot tell.

    Raises:
        UsageError: the retriever is unknown, or None where there are several.
        LakeError: there is no table at all, or the storage does not answer.
    """
    shown = join_one(settings, retriever, since=since, until=until).relation
    if device is not None:
        shown = shown.filter(duckdb.ColumnExpression("device") == duckdb.ConstantExpression(device))
    return estimate(shown, method=method)


def estimate(shown: duckdb.DuckDBPyRelation, *, method: Method = "all-pairs") -> Propensities:
    """Estimate examination from impressions of one retriever."""
    clicks_at = _clicks_by_position(shown)
    first = judged(harvest(*_cells(shown, len(clicks_at), repeated=True)), clicks_at, _rankers(shown))
    if method == "all-pairs":
        return first
    counts, clicks, _ = _cells(shown, len(clicks_at), repeated=False)
    theta = regression_em(counts, clicks)
    differs = float(np.mean(np.abs(theta[1:] / np.array(first.theta[1:]) - 1))) if len(theta) > 1 else 0.0
    note = f"a second opinion without intervals, {differs:.0%} from that of {first.method}, which is the sounder one"
    alone: list[float | None] = [1.0] + [None] * (len(theta) - 1)
    return replace(first, theta=theta.tolist(), low=alone, high=list(alone), method=method, note=note)


def judged(found: Harvest, clicks_at: Ints, rankers: int) -> Propensities:
    """Decide whether an estimate covers enough of the clicks, and complete it with the declared prior.

    Args:
        found: what the changes of rank say.
        clicks_at: all clicks by position.
        rankers: how many different rankers the log names.
    """
    positions = len(clicks_at)
    declared = (1.0 + np.arange(positions)) ** -DECAY
    known = ~np.isnan(found.theta)
    covered = clicks_at[known].sum() / max(clicks_at.sum(), 1)
    evidence = found.evidence.tolist()
    if known.sum() < 2 or covered < CLICKS_COVERED:
        low: list[float | None] = [1.0] + [None] * (positions - 1)
        return Propensities(False, declared.tolist(), low, list(low), evidence, "prior", _refusal(evidence, rankers))
    theta = found.theta.copy()
    for position in np.flatnonzero(~known):
        last = np.flatnonzero(known[:position])[-1]
        theta[position] = theta[last] * declared[position] / declared[last]
    note = f"estimated from {int(max(evidence)):,} (query, document) pairs shown at several positions"
    if not known.all():
        names = ", ".join(map(str, np.flatnonzero(~known)))
        note += f"; too little evidence at position {names}: continued by rank ** -{DECAY}"
    return Propensities(True, theta.tolist(), _or_none(found.low), _or_none(found.high), evidence, "all-pairs", note)


def _refusal(evidence: list[int], rankers: int) -> str:
    pairs = max(evidence, default=0)
    why = f"only {pairs:,} clicked (query, document) pairs were shown at several positions"
    if rankers <= 1:
        why = f"one ranker, and {why}"
    return (
        f"not identifiable: {why}; without changes of rank, examination and relevance cannot be told apart. "
        f"theta is the declared prior rank ** -{DECAY}. Let a second ranker or a swap of neighbours serve some traffic"
    )


def _or_none(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _rankers(shown: duckdb.DuckDBPyRelation) -> int:
    return int(shown.aggregate("count(distinct ranker_id)").fetchall()[0][0])


def _clicks_by_position(shown: duckdb.DuckDBPyRelation) -> Ints:
    place = f"least(position, {MAX_POSITIONS - 1})"
    found = shown.aggregate(f"{place} as position, count(*) filter (clicked) as clicks", place).fetchall()
    clicks = np.zeros(1 + max((position for position, _ in found), default=0), np.int64)
    for position, count in found:
        clicks[position] = count
    return clicks


def _cells(shown: duckdb.DuckDBPyRelation, positions: int, *, repeated: bool) -> tuple[Floats, Floats, Ints]:
    """Return impressions and clicks of pairs by position, shape (pairs, positions), and the cluster of each pair.

    Args:
        shown: impressions.
        positions: how many; deeper ones count as the last.
        repeated: only pairs that were shown at several positions and clicked.
    """
    found = rows(shown, _CELLS.format(last=positions - 1, repeated=repeated, most=_MAX_PAIRS)).fetchnumpy()
    pairs = int(found["pair"].max()) + 1 if len(found["pair"]) else 0
    counts, clicks = np.zeros((pairs, positions)), np.zeros((pairs, positions))
    place = (found["pair"], found["position"])
    counts[place], clicks[place] = found["shown"], found["clicks"]
    cluster = np.zeros(pairs, np.int64)
    cluster[found["pair"]] = found["query"]
    if len(np.unique(cluster)) < _MIN_QUERIES:
        cluster = np.arange(pairs)
    return counts, clicks, cluster


# The sample is by hash, so that it does not depend on the order of the files.
_CELLS = """
with cells as (
  select query_key, feature_id, least(position, {last}) as position,
         count(*) as shown, count(*) filter (clicked) as clicks
  from shown group by all
), pairs as (
  select query_key, feature_id from cells group by query_key, feature_id
  having not {repeated} or (count(*) > 1 and sum(clicks) > 0)
  order by hash(query_key, feature_id), query_key, feature_id limit {most}
), numbered as (
  select *, row_number() over (order by query_key, feature_id) - 1 as pair,
         dense_rank() over (order by query_key) - 1 as query
  from pairs
)
select pair, query, position, shown, clicks from cells join numbered using (query_key, feature_id)
"""
