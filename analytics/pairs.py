"""(query, positive, hard negatives) out of the lake, with position bias, robots and heavy users out.

```python
from clickwell.analytics import get_query_document_pairs

found = get_query_document_pairs(date_range="last_30_days", min_interactions=2)
for row in found.tuples(negatives=4):
    row.anchor, row.positive_id, row.negative_ids, row.weight
```
A pair is judged by all its impressions together. One skip says little: many of the documents that were ever skipped are
relevant. A positive was clicked and is credible once its exposure is taken into account; clicks that led to a long view
or a purchase say more, clicks from which people came straight back say less. A hard negative was ranked high, has been
examined at least once in expectation, was never really chosen and remains unlikely to be relevant.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickwell.analytics.click_models import ClickModel, interval, posterior, query_prior
from clickwell.analytics.impressions import Impressions, at_position, join_one, rows
from clickwell.analytics.propensities import Propensities, estimate
from clickwell.analytics.relevance import fit
from clickwell.analytics.traffic import LeftOut, leave_out
from clickwell.errors import UsageError
from clickwell.settings import Settings
from clickwell.sinks.compact import live_files
from clickwell.sinks.standing import exists
from clickwell.sinks.table import INTERACTION_TABLE, SEARCH_TABLE, open_table

POSITIVE, HARD_NEGATIVE = "positive", "hard_negative"

# Estimates of relevance, clicks weighed by their strength: on simulated clicks with human labels five in six above the
# first are relevant, one in twenty-five below the second.
CREDIBLE = 0.25
UNLIKELY = 0.2
# A hard negative was ranked on a first page of so many, and examined so often in expectation.
RANKED_HIGH = 10
EXAMINED = 1.0
# Inverse propensities are cut here: beyond, single clicks far down would outweigh whole queries.
MAX_WEIGHT = 10.0

DateRange = str | tuple[date, date]


@dataclass(frozen=True)
class Tuple:
    """One training example.

    Attributes:
        query_key: normal form of the query.
        anchor: the query as most often typed.
        positive_id: feature_id.
        negative_ids: feature_ids, hard ones first, then documents that were never shown for the query.
        hard: how many of them are hard.
        strength, propensity, weight: of the positive, as in `Pairs.table`.
    """

    query_key: str
    anchor: str
    positive_id: str
    negative_ids: list[str]
    hard: int
    strength: float
    propensity: float
    weight: float


@dataclass(frozen=True)
class Gathered:
    """Impressions of one retriever that count.

    Attributes:
        joined: the impressions, and what could not be joined.
        left_out: searches that do not count, by reason.
        since, until: the days.
    """

    joined: Impressions
    left_out: LeftOut
    since: date
    until: date


@dataclass(frozen=True)
class Pairs:
    """Judged pairs of one retriever and how they came about; iterating yields `tuples` with four negatives each.

    Attributes:
        table: `COLUMNS` of `docs/training-data.md`, ordered by query_key, label (positives first) and feature_id.
        shown: per query_key, all documents that were shown for it.
        gathered: the impressions it rests on.
        propensities: what exposure rests on.
        model: what turned clicks into estimates.
    """

    table: pa.Table
    shown: dict[str, set[str]] = field(repr=False)
    gathered: Gathered = field(repr=False)
    propensities: Propensities
    model: ClickModel = field(repr=False)

    def __iter__(self) -> Iterator[Tuple]:
        return self.tuples()

    def count(self, label: str) -> int:
        """Return how many pairs have a label."""
        return int(pc.sum(pc.equal(self.table["label"], label)).as_py() or 0)

    def tuples(self, negatives: int = 4, *, seed: int = 1) -> Iterator[Tuple]:
        """Yield an example for each positive, with as many negatives each.

        A positive is left out when the log does not have so many other documents.

        Args:
            negatives: how many; where hard ones are too few, documents never shown for the query are drawn.
            seed: of the drawing.
        """
        return tuples_of(self.table, self.shown, negatives, seed)


def get_query_document_pairs(
    settings: Settings | None = None,
    *,
    retriever: str | None = None,
    date_range: DateRange = "last_30_days",
    min_interactions: int = 2,
) -> Pairs:
    """Judge every (query, document) of a retriever that was shown in a range of days.

    Args:
        settings: where the lake is; read from the environment when None.
        retriever: its `retriever_id`; may be None when the lake has one only.
        date_range: `last_N_days` (N full days and the running one, counted back from the lake's last search, so that
            the same lake gives the same pairs), `all`, `2026-05-01..2026-05-31`, or two dates, both included.
        min_interactions: a positive needs so many: each signal of a search counts, a click that became a long view
            twice. Impressions do not count.

    Raises:
        UsageError: the range is malformed, the retriever unknown, or None where there are several.
        LakeError: there is no table at all, or the storage does not answer.
    """
    found = gather(settings or Settings.load(), retriever, date_range)
    shown = found.joined.relation
    propensities = estimate(shown)
    model = fit(shown, propensities)
    table = judge(shown, model, min_interactions=min_interactions)
    return Pairs(table, shown_documents(shown), found, propensities, model)


def gather(settings: Settings, retriever: str | None, date_range: DateRange) -> Gathered:
    """Join the impressions of one retriever in a range of days and leave out those that do not count.

    Raises:
        UsageError: the range is malformed, the retriever unknown, or None where there are several, or nothing counts.
        LakeError: there is no table at all, or the storage does not answer.
    """
    since, until = days_of(settings, date_range)
    joined = join_one(settings, retriever, since=since, until=until)
    left_out = leave_out(joined)
    if not joined.relation.limit(1).fetchall():
        raise UsageError(
            f"none of {joined.counts.searches:,} searches count",
            why=f"left out: {left_out}",
            fix="choose a longer time",
        )
    return Gathered(joined, left_out, since, until)


def days_of(settings: Settings, date_range: DateRange) -> tuple[date, date]:
    """Return the first and last day that a range means for a lake.

    Raises:
        UsageError: it is malformed.
        LakeError: the storage does not answer.
    """
    if isinstance(date_range, tuple):
        return date_range
    if date_range == "all":
        return date.min, date.max - timedelta(days=1)
    if found := re.fullmatch(r"last_(\d{1,5})_days", date_range):
        last = _last_day(settings)
        return last - timedelta(days=int(found[1])), last
    try:
        since, until = map(date.fromisoformat, date_range.split(".."))
    except ValueError:
        raise UsageError(
            f"{date_range!r} is not a range of days", fix="write last_30_days, all, or 2026-05-01..2026-05-31"
        ) from None
    return since, until


def judge(shown: duckdb.DuckDBPyRelation, model: ClickModel, *, min_interactions: int) -> pa.Table:
    """Return the pairs that are positive or hard negative, with their evidence.

    Args:
        shown: impressions of one retriever.
        model: what turns clicks into relevance.
        min_interactions: that a positive needs.
    """
    sql = _EVIDENCE.format(theta=at_position(model.theta), prior=at_position(model.prior))
    found = rows(shown, sql).to_arrow_table()
    names = ("credit", "clicks", "exposure", "prior", "impressions", "best_position", "strength", "praise", "blame")
    credit, clicks, exposure, prior, times, best, strength, praise, blame = (found[name].to_numpy() for name in names)
    interactions = found["interactions"].to_numpy()
    # The prior is in clicks; on average a click is worth as much as all the credit is.
    scale = clicks.sum() / max(credit.sum(), 1.0)
    query = pc.rank(found["query_key"], tiebreaker="dense").to_numpy().astype(np.int64) - 1
    prior = query_prior(query, credit * scale, exposure * prior, prior)
    estimate = posterior(credit, exposure, prior, model.a)
    low, high = interval(credit, exposure, prior, model.a)
    positive = (credit > 0) & (estimate >= CREDIBLE) & (interactions >= min_interactions) & (praise >= blame)
    disliked = (estimate < UNLIKELY) & (strength < 1) | (blame > 0) & (credit < 1)
    negative = ~positive & (best < RANKED_HIGH) & (exposure >= EXAMINED) & disliked & (praise == 0)
    propensity = exposure / times
    columns = {
        "label": np.where(positive, POSITIVE, HARD_NEGATIVE),
        "estimate": estimate,
        "low": low,
        "high": high,
        "propensity": propensity,
        "weight": np.minimum(1 / propensity, MAX_WEIGHT),
    }
    for name, values in columns.items():
        found = found.append_column(name, pa.array(values))
    found = found.filter(pa.array(positive | negative)).select(list(COLUMNS))
    return found.sort_by([("query_key", "ascending"), ("label", "descending"), ("feature_id", "ascending")])


def shown_documents(shown: duckdb.DuckDBPyRelation) -> dict[str, set[str]]:
    """Return all documents that were shown for each query."""
    found = shown.aggregate("query_key, list(distinct feature_id)", "query_key").fetchall()
    return {query: set(documents) for query, documents in found}


def tuples_of(table: pa.Table, shown: dict[str, set[str]], negatives: int, seed: int) -> Iterator[Tuple]:
    """Yield an example for each positive of a table of judged pairs, see `Pairs.tuples`."""
    everything = sorted(set().union(*shown.values())) if shown else []
    rng = np.random.default_rng(seed)
    hard: dict[str, list[str]] = {}
    order = [("query_key", "ascending"), ("best_position", "ascending"), ("feature_id", "ascending")]
    wanted = table.filter(pc.equal(table["label"], HARD_NEGATIVE)).sort_by(order).select(["query_key", "feature_id"])
    for row in wanted.to_pylist():
        hard.setdefault(row["query_key"], []).append(row["feature_id"])
    used: Counter[str] = Counter()
    for row in table.filter(pc.equal(table["label"], POSITIVE)).to_pylist():
        key = row["query_key"]
        # The positives of a query take turns through its hard negatives.
        known = hard.get(key, [])
        first = used[key] % len(known) if len(known) > negatives else 0
        chosen = (known + known)[first : first + negatives][: len(known)]
        used[key] += negatives
        count = len(chosen)
        drawn = _drawn(everything, shown[key], negatives - count, rng)
        if len(drawn) < negatives - count:
            continue
        about = (row["strength"], row["propensity"], row["weight"])
        yield Tuple(key, row["query"], row["feature_id"], chosen + drawn, count, *about)


def _drawn(documents: list[str], known: set[str], count: int, rng: np.random.Generator) -> list[str]:
    """Return different documents that are not known; fewer where there are not so many."""
    found: list[str] = []
    if len(documents) - len(known) < count:
        return found
    while len(found) < count:
        document = documents[rng.integers(len(documents))]
        if document not in known and document not in found:
            found.append(document)
    return found


def _last_day(settings: Settings) -> date:
    table = SEARCH_TABLE if exists(settings, SEARCH_TABLE) else INTERACTION_TABLE
    days = [file.day for file in live_files(open_table(settings, table))]
    if not days:
        raise UsageError("the lake is empty", fix="`clickwell sink` or `clickwell lake load` fill it")
    return max(days)


COLUMNS = (
    "query_key", "query", "feature_id", "label", "estimate", "low", "high", "strength", "propensity", "weight",
    "clicks", "impressions", "exposure", "interactions", "best_position", "first_at", "last_at",
)  # fmt: skip

# Skips count once, whether they were told or follow from the list.
_EVIDENCE = """
with each as (
  select *, len(signals) - len(list_intersect(signals, ['impression', 'view', 'skip'])) + skipped::int as reactions
  from shown
)
select mode(query order by query) as query, query_key, feature_id, count(*) as impressions,
       count(*) filter (clicked) as clicks, sum(strength) as credit, max(strength) as strength,
       sum({theta})::double as exposure, sum({prior})::double / count(*) as prior,
       sum(reactions)::bigint as interactions, min(position) as best_position,
       count(*) filter (list_contains(signals, 'positive_feedback')) as praise,
       count(*) filter (list_contains(signals, 'negative_feedback')) as blame,
       min(timestamp) as first_at, max(greatest(timestamp, last_at)) as last_at
from each group by query_key, feature_id
"""
