"""Popularity with the position taken out: how likely a document is clicked by somebody who looks at it, and how sure that is.

A raw count, a CTR, and clicks over expected clicks all reward a document for where it stood: the first because high places
bring clicks, the last because it divides out what good rankers know together with the place. The estimate here is

    (clicks + a * prior) / (exposure + a)

where exposure is the sum of the examination of each place at which it was shown, and prior is what documents at these places
are worth on average (`clickwell.analytics.relevance`). It is counted for a document over all queries, and for each query.
"""

from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa

from clickwell.analytics.click_models import ClickModel, interval, posterior
from clickwell.analytics.impressions import at_position, join, rows
from clickwell.analytics.propensities import Propensities, estimate, only_retriever
from clickwell.analytics.relevance import fit
from clickwell.settings import Settings


@dataclass(frozen=True)
class Popularity:
    """Corrected popularity of one retriever.

    Attributes:
        documents: feature_id, estimate, low, high (90 % interval), clicks, shown, exposure, coec; by falling estimate.
        pairs: the same for each query_key and feature_id; by query_key and falling estimate.
        propensities: what exposure rests on; not `identifiable` where the log cannot tell, and a declared curve stands in.
        a: how many examinations the prior is worth.
    """

    documents: pa.Table
    pairs: pa.Table
    propensities: Propensities
    a: float


def popularity(
    settings: Settings, retriever: str | None = None, *, since: date | None = None, until: date | None = None
) -> Popularity:
    """Estimate the popularity of everything that a retriever showed on the days `since` to `until`, both included.

    Raises:
        UsageError: the retriever is unknown, or None where there are several.
        LakeError: there is no table at all, or the storage does not answer.
    """
    shown = join(settings, since=since, until=until, retriever=retriever).relation
    only_retriever(shown, retriever)
    propensities = estimate(shown)
    model = fit(shown, propensities)
    return Popularity(
        documents=_estimated(shown, model, ("feature_id",)),
        pairs=_estimated(shown, model, ("query_key", "feature_id")),
        propensities=propensities,
        a=model.a,
    )


def _estimated(shown: duckdb.DuckDBPyRelation, model: ClickModel, keys: tuple[str, ...]) -> pa.Table:
    text = _SUMS.format(keys=", ".join(keys), theta=at_position(model.theta), prior=at_position(model.prior))
    found = rows(shown, text).to_arrow_table()
    clicks, exposure, prior = (found[name].to_numpy() for name in ("clicks", "exposure", "prior"))
    low, high = interval(clicks, exposure, prior, model.a)
    columns = {name: found[name] for name in keys}
    columns |= {"estimate": pa.array(posterior(clicks, exposure, prior, model.a)), "low": pa.array(low)}
    columns |= {"high": pa.array(high)} | {name: found[name] for name in ("clicks", "shown", "exposure")}
    expected = found["expected"].to_numpy()
    columns["coec"] = pa.array(np.divide(clicks, expected, out=np.zeros(len(clicks)), where=expected > 0))
    order = [*((key, "ascending") for key in keys[:-1]), ("estimate", "descending"), (keys[-1], "ascending")]
    return pa.table(columns).sort_by(order)


# Sums of decimals: exact, whatever order threads add in.
_SUMS = """
with placed as (
  select *, (avg(clicked::integer) over (partition by position))::decimal(18, 12) as rate from shown
)
select {keys}, count(*) filter (clicked) as clicks, count(*) as shown, sum({theta})::double as exposure,
       sum({prior})::double / count(*) as prior, sum(rate)::double as expected
from placed group by {keys}
"""
