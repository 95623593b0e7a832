"""How relevant each document is for each query, from clicks with the position's part taken out.

    estimate = (clicks + a * prior) / (exposure + a)

exposure is the sum of theta over the impressions, so a click far down counts for more; prior is what documents at these
ranks are worth on average, clicks_k / (impressions_k * theta_k), averaged over the pair's impressions; a, how many
examinations the prior is worth, is chosen on held-back clicks. A flat prior, or clicks over expected clicks, loses to
plain CTR where the rankers are good: it divides out what the rankers know.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from clickwell.analytics.click_models import (
    Cells,
    ClickModel,
    chosen_weight,
    interval,
    perplexities,
    posterior,
    rank_prior,
)
from clickwell.analytics.impressions import at_position, join_one, rows
from clickwell.analytics.propensities import Propensities, estimate
from clickwell.errors import UsageError
from clickwell.settings import Settings

# Pairs that a is chosen on, by hash.
_MAX_PAIRS = 200_000


@dataclass(frozen=True)
class Relevance:
    """What the log says of each (query, document).

    Attributes:
        pairs: query (as most often typed), query_key, feature_id, estimate, low, high (90 % interval), clicks,
            impressions, exposure; ordered by query_key and falling estimate.
        a: how many examinations the prior is worth.
        propensities: what exposure rests on.
    """

    pairs: pa.Table
    a: float
    propensities: Propensities

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield {query, feature_id, estimate, low, high, clicks, exposure} of each pair."""
        columns = ["query", "feature_id", "estimate", "low", "high", "clicks", "exposure"]
        for batch in self.pairs.select(columns).to_batches():
            yield from batch.to_pylist()


@dataclass(frozen=True)
class Diagnosis:
    """How well the second half of the log's searches is predicted from the first; perplexity, 1 is perfect, 2 a coin.

    Attributes:
        position_based: from theta and the corrected estimates.
        rank_ctr: from the click rate at each position alone.
        document_ctr: from the click rate of each (query, document) alone.
        impressions: how many were predicted.
    """

    position_based: float
    rank_ctr: float
    document_ctr: float
    impressions: int


def relevance(
    settings: Settings, retriever: str | None = None, *, since: date | None = None, until: date | None = None
) -> Relevance:
    """Estimate the relevance of every pair that was shown on the days `since` to `until`.

    Raises:
        UsageError: the retriever is unknown, or None where there are several.
        LakeError: there is no table at all, or the storage does not answer.
    """
    shown = join_one(settings, retriever, since=since, until=until).relation
    return corrected(shown, estimate(shown))


def diagnosis(
    settings: Settings, retriever: str | None = None, *, since: date | None = None, until: date | None = None
) -> Diagnosis:
    """Predict the clicks of the later half of a retriever's impressions from the earlier half.

    Raises:
        UsageError: the retriever is unknown, or None where there are several.
        LakeError: there is no table at all, or the storage does not answer.
    """
    shown = join_one(settings, retriever, since=since, until=until).relation
    return diagnose(shown)


def fit(shown: duckdb.DuckDBPyRelation, propensities: Propensities) -> ClickModel:
    """Fit the prior and its weight to impressions of one retriever."""
    theta = np.array(propensities.theta)
    cells = _cells(shown, len(theta), "hash(execution_id) % 2 = 1")
    prior = rank_prior(cells.all, theta)
    return ClickModel(theta, prior, chosen_weight(cells.known, cells.asked, theta, prior))


def corrected(shown: duckdb.DuckDBPyRelation, propensities: Propensities) -> Relevance:
    """Estimate the relevance of every pair among impressions of one retriever."""
    model = fit(shown, propensities)
    found = rows(shown, _PAIRS.format(theta=at_position(model.theta), prior=at_position(model.prior))).to_arrow_table()
    clicks, exposure, prior = (found[name].to_numpy() for name in ("clicks", "exposure", "prior"))
    low, high = interval(clicks, exposure, prior, model.a)
    for name, values in (("estimate", posterior(clicks, exposure, prior, model.a)), ("low", low), ("high", high)):
        found = found.append_column(name, pa.array(values))
    order = [("query_key", "ascending"), ("estimate", "descending"), ("feature_id", "ascending")]
    return Relevance(found.drop_columns("prior").sort_by(order), model.a, propensities)


def diagnose(shown: duckdb.DuckDBPyRelation) -> Diagnosis:
    """Predict the clicks of the later half of one retriever's impressions from the earlier half.

    Raises:
        UsageError: all impressions are of one moment.
    """
    middle = shown.aggregate("quantile_disc(timestamp, 0.5)").fetchall()[0][0]
    late = f"timestamp > '{middle.isoformat()}'::timestamptz"
    early = shown.filter(f"not ({late})")
    propensities = estimate(early)
    cells = _cells(shown, len(propensities.theta), late)
    if not len(cells.asked.shown):
        raise UsageError("there is no later half: all searches happened at once", fix="choose a longer time")
    found = perplexities(cells.known, cells.asked, fit(early, propensities))
    return Diagnosis(*found, int(cells.asked.shown.sum()))


@dataclass(frozen=True)
class _Parts:
    known: Cells
    asked: Cells
    all: Cells


def _cells(shown: duckdb.DuckDBPyRelation, positions: int, asked: str) -> _Parts:
    """Return the cells of the impressions, those for which an SQL condition holds apart from the others."""
    found = rows(shown, _CELLS.format(asked=asked, last=positions - 1, most=_MAX_PAIRS)).fetchnumpy()
    columns = [np.asarray(found[name]) for name in ("pair", "position", "shown", "clicks")]
    is_asked = np.asarray(found["asked"], bool)

    def part(those: Any) -> Cells:
        pair, position, count, clicks = (column[those] for column in columns)
        return Cells(pair, position, count.astype(np.float64), clicks.astype(np.float64))

    return _Parts(part(~is_asked), part(is_asked), part(slice(None)))


# The sample is by hash, so that it does not depend on the order of the files.
_CELLS = """
with cells as (
  select query_key, feature_id, least(position, {last}) as position, {asked} as asked,
         count(*) as shown, count(*) filter (clicked) as clicks
  from shown group by all
), pairs as (
  select query_key, feature_id, row_number() over (order by query_key, feature_id) - 1 as pair
  from (select distinct query_key, feature_id from cells
        order by hash(query_key, feature_id), query_key, feature_id limit {most})
)
select pair, position, asked, shown, clicks from cells join pairs using (query_key, feature_id)
"""

_PAIRS = """
select mode(query order by query) as query, query_key, feature_id, count(*) filter (clicked) as clicks,
       count(*) as impressions, sum({theta})::double as exposure, sum({prior})::double / count(*) as prior
from shown group by query_key, feature_id
"""
