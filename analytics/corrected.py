"""Popularity without the position's part: how likely a document is clicked by one who looks at it, and how surely.

A raw count, a CTR, and clicks over expected clicks (COEC) all reward a document for where it stood: the first two
because high places bring clicks, the last because it divides out what good rankers know together with the place. Here
it is

    (clicks + a * prior) / (exposure + a)

exposure is the sum of the examination of each place where it was shown; prior is what documents at its places are worth
on average (`clickwell.analytics.relevance`), over all searches of the query: one that did not list it speaks against it
too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from clickwell.analytics.click_models import ClickModel, interval, posterior
from clickwell.analytics.impressions import at_position, join_one, rows
from clickwell.analytics.propensities import Propensities, estimate
from clickwell.analytics.relevance import fit
from clickwell.redis_client import connect, redis_errors
from clickwell.schemas.keys import corrected_key
from clickwell.settings import Settings

# What a search says of a document that it did not list: half of what it says of the last that it did.
UNLISTED = 0.5
# Two nights without a renewal are survived; older numbers are of another catalogue.
KEPT_SECONDS = 3 * 86_400
# Fields of one command at most, which a server takes without stalling others.
_FIELDS = 5_000


@dataclass(frozen=True)
class Popularity:
    """Corrected popularity of one retriever.

    Attributes:
        documents: feature_id, estimate, low, high (90 % interval), clicks, shown, exposure, coec; by falling estimate.
        pairs: the same for each query_key and feature_id; by query_key and falling estimate.
        propensities: what exposure rests on; not `identifiable` where the log cannot tell, and a declared curve stands
        in. a: how many examinations the prior is worth.
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
    shown = join_one(settings, retriever, since=since, until=until).relation
    propensities = estimate(shown)
    model = fit(shown, propensities)
    unlisted = model.prior[-1] * UNLISTED
    values = {"theta": at_position(model.theta), "prior": at_position(model.prior), "unlisted": f"{unlisted:.12f}"}
    pairs = rows(shown, _PAIRS.format(**values)).to_arrow_table()
    sums = pairs.group_by("feature_id").aggregate(
        [(name, "sum") for name in ("clicks", "shown", "exposure", "prior", "asked", "expected")]
    )
    documents = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    by_query = [("query_key", "ascending"), ("estimate", "descending"), ("feature_id", "ascending")]
    return Popularity(
        documents=_estimated(documents, model).sort_by([("estimate", "descending"), ("feature_id", "ascending")]),
        pairs=_estimated(pairs, model).sort_by(by_query),
        propensities=propensities,
        a=model.a,
    )


def _estimated(sums: pa.Table, model: ClickModel) -> pa.Table:
    """Return the keys of sums with the estimate, its interval, the evidence and COEC."""
    names = ("clicks", "exposure", "prior", "asked", "expected")
    clicks, exposure, prior, asked, expected = (sums[name].to_numpy().astype(np.float64) for name in names)
    prior = prior / asked
    low, high = interval(clicks, exposure, prior, model.a)
    columns = {name: sums[name] for name in ("query_key", "feature_id") if name in sums.column_names}
    columns |= {"estimate": pa.array(posterior(clicks, exposure, prior, model.a))}
    columns |= {"low": pa.array(low), "high": pa.array(high)}
    columns |= {name: sums[name] for name in ("clicks", "shown", "exposure")}
    columns["coec"] = pa.array(np.divide(clicks, expected, out=np.zeros(len(clicks)), where=expected > 0))
    return pa.table(columns)


def publish(settings: Settings, retriever: str, found: Popularity) -> int:
    """Write corrected popularity to Redis, for readers of `corrected_ctr`, and return how many numbers that were.

    Each key is replaced as a whole. It expires after KEPT_SECONDS, so that numbers nobody renews fade.

    Raises:
        RedisError: Redis is away.
    """
    with connect(settings) as client, redis_errors():
        for key, fields in _by_key(retriever, found):
            # One transaction for each key: readers see the old numbers or the new.
            pipeline = client.pipeline(transaction=True)
            pipeline.delete(key)
            for first in range(0, len(fields), _FIELDS):
                pipeline.hset(key, mapping=dict(fields[first : first + _FIELDS]))
            pipeline.expire(key, KEPT_SECONDS)
            pipeline.execute()
    return len(found.documents) + len(found.pairs)


def _by_key(retriever: str, found: Popularity) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    yield corrected_key(retriever), _fields(found.documents)
    queries = found.pairs["query_key"].to_pylist()
    bounds = [i for i in range(len(queries)) if i == 0 or queries[i] != queries[i - 1]]
    for first, last in zip(bounds, [*bounds[1:], len(queries)], strict=True):
        yield corrected_key(retriever, queries[first]), _fields(found.pairs.slice(first, last - first))


def _fields(table: pa.Table) -> list[tuple[str, str]]:
    columns = (table[name].to_pylist() for name in ("feature_id", "estimate", "low"))
    return [(document, f"{estimate:.6f} {low:.6f}") for document, estimate, low in zip(*columns, strict=True)]


# Sums of decimals, rounded once: exact, whatever order threads add in. `prior` is still a sum over the query's
# searches.
_PAIRS = """
with rates as (
  select position, avg(clicked::integer)::decimal(18, 12) as rate from shown group by position
), asked as (
  select query_key, count(distinct execution_id) as asked from shown group by query_key
), placed as (
  select query_key, feature_id, count(*) filter (clicked) as clicks, count(*) as shown, sum({theta}) as exposure,
         sum({prior}) as prior, sum(rate) as expected
  from shown join rates using (position) group by query_key, feature_id
)
select query_key, feature_id, clicks, shown, exposure::double as exposure, expected::double as expected,
       greatest(asked, shown) as asked, (prior + greatest(asked - shown, 0) * {unlisted})::double as prior
from placed join asked using (query_key)
"""
