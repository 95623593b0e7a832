"""What was shown, where, and what came of it: searches and interactions joined, one row for each impression.

```python
from clickwell.analytics.impressions import join

joined = join(Settings.load(), since=date(2026, 5, 1), retriever="shop")
joined.relation.aggregate("position, avg(clicked::int)", "position")  # a DuckDB relation over COLUMNS
joined.connection.sql("select query_key, count(*) from impressions group by all")
joined.counts.clicks_without_execution  # what could not be used, by reason
```
A search's list says what was shown and where; what an event says of its position is only compared with it. A search
that is told in several lists under one `execution_id` has pages: positions go on from one to the next. Executions of
which there is no search, but `impression` or `view` events, are taken from these, at the positions that they tell.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clickwell.analytics import lake
from clickwell.errors import UsageError
from clickwell.schemas.interactions import RETURN_TO_RESULTS_MS
from clickwell.schemas.keys import normal_query
from clickwell.settings import Settings

COLUMNS = {
    "execution_id": "the search",
    "retriever_id": "which search box or stage; empty when not told",
    "ranker_id": "which ranker or experiment arm ordered the list; null when not told",
    "user_id": "who; null when not told",
    "session_id": "which visit; null when not told",
    "device": "as the search (or the impression) tells it in its metadata; never taken from clicks, which would select",
    "timestamp": "when the list was shown, UTC",
    "query": "as typed",
    "query_key": "its normal form, see `normal_query`",
    "feature_id": "the document",
    "position": "0-based, within the whole search",
    "clicked": "whether it was opened: a click, long_view, add_to_cart or purchase",
    "skipped": "not clicked, and a result below it was",
    "signals": "all that happened with it, sorted; long_view and return_to_results are derived from clicks' durations",
    "strength": "of the strongest positive signal, see STRENGTHS; 0 without one",
    "last_at": "when the last of it happened; null when nothing did",
    "told_position": "the lowest position that its events tell, which may differ; null when they tell none",
}
"""Columns of the relation."""

STRENGTHS = {"click": 1.0, "long_view": 2.0, "add_to_cart": 3.0, "purchase": 3.0, "positive_feedback": 3.0}
"""What a signal says for a result, a click being 1. Purchases are too rare beside clicks for larger steps to matter."""
HASTY = 0.25
"""Strength of a click from which the person came back within 10 s and that led to nothing else."""

# What follows a search later than this much after its last day is not waited for.
_FOLLOWS = timedelta(days=1)


@dataclass(frozen=True)
class Counts:
    """What was joined and what was left out.

    Attributes:
        searches: executions with at least one impression.
        impressions: rows.
        clicks: rows that were clicked.
        clicks_without_execution: clicks without an execution_id: no list tells what else was shown.
        clicks_without_search: clicks whose execution_id no search and no impression has.
        clicks_outside_list: clicks on documents that the search did not show.
        repeated_impressions: documents shown again by the same search; the first place counts.
        impressions_without_position: impression events that cannot be used for want of a position.
        position_disagreements: rows with a click that tells another position than the list.
    """

    searches: int
    impressions: int
    clicks: int
    clicks_without_execution: int
    clicks_without_search: int
    clicks_outside_list: int
    repeated_impressions: int
    impressions_without_position: int
    position_disagreements: int


@dataclass(frozen=True)
class Impressions:
    """The joined rows, as table `impressions` of a DuckDB connection of its own, and what was left out.

    All of it is in memory, about 400 bytes an impression.
    """

    connection: duckdb.DuckDBPyConnection
    counts: Counts

    @property
    def relation(self) -> duckdb.DuckDBPyRelation:
        """The rows, with `COLUMNS`."""
        return self.connection.table("impressions")


def rows(shown: duckdb.DuckDBPyRelation, sql: str) -> duckdb.DuckDBPyRelation:
    """Return what a query finds in `shown`, which is the name that impressions, or a part of them, have in it."""
    found = shown.query("shown", sql)
    assert found is not None, "a query returns rows"
    return found


def at_position(values: NDArray[np.float64]) -> str:
    """Return SQL for the value that belongs to a row's position; the last one where the list goes deeper.

    It is a decimal: its sums are exact, so they do not depend on the order in which threads add.
    """
    listed = ", ".join(f"{value:.12f}" for value in values)
    return f"[{listed}][least(position, {len(values) - 1}) + 1]"


def join(
    settings: Settings, *, since: date | None = None, until: date | None = None, retriever: str | None = None
) -> Impressions:
    """Join what was shown on the days `since` to `until`, both included, with what came of it up to a day later.

    Args:
        settings: where the lake is, and what makes a long view.
        since: first day; the first of the lake when None.
        until: last day; the last of the lake when None.
        retriever: only of this `retriever_id`; all when None.

    Raises:
        LakeError: there is no table at all, or the storage does not answer.
    """
    connection = lake.connect(settings, since=since, until=until + _FOLLOWS if until else None)
    lake.complete(connection)
    until = until or date.max
    connection.execute(_EVENTS, {"long_view_ms": settings.popularity.long_view_ms, "return_ms": RETURN_TO_RESULTS_MS})
    connection.execute(_SHOWN, {"until": until, "retriever": retriever})
    queries = [text for (text,) in connection.execute("select distinct query from shown").fetchall()]
    keys = pa.schema([("query", pa.string()), ("query_key", pa.string())])
    connection.register("query_keys", pa.table([queries, [normal_query(text) for text in queries]], schema=keys))
    connection.execute(_IMPRESSIONS)
    counts = connection.execute(_COUNTS, {"until": until, "retriever": retriever}).fetchone()
    assert counts is not None
    connection.execute("drop table shown; drop table events")
    connection.unregister("query_keys")
    return Impressions(connection, Counts(*counts))


def join_one(
    settings: Settings, retriever: str | None, *, since: date | None = None, until: date | None = None
) -> Impressions:
    """Join as `join` does what one retriever showed; None means the only one that there is.

    Raises:
        UsageError: there is none, or there are several.
        LakeError: there is no table at all, or the storage does not answer.
    """
    joined = join(settings, since=since, until=until, retriever=retriever)
    known = joined.relation.aggregate("retriever_id", "retriever_id").order("retriever_id").fetchall()
    names = [name for (name,) in known]
    if not names:
        what = f"retriever {retriever!r} has" if retriever else "the lake has"
        raise UsageError(
            f"{what} no impressions in this range", fix="`clickwell lake status` shows what there is: send searches too"
        )
    if len(names) > 1:
        raise UsageError(
            "there are several retrievers, whose lists are looked at differently", fix=f"name one of {', '.join(names)}"
        )
    return joined


_OPENED = "list_has_any(signals, ['click', 'long_view', 'add_to_cart', 'purchase'])"
_WEIGHED = (f"if(list_contains(signals, '{name}'), {value}::double, 0)" for name, value in STRENGTHS.items())
_STRONGEST = f"greatest({', '.join(_WEIGHED)})"

# One row for each document of each execution.
_EVENTS = f"""
create table events as
with told as (
  select execution_id, feature_id, min(position) as told_position, min(retriever_id) as retriever_id,
         min(event_date) as day, max(timestamp) as last_at,
         list_sort(list_distinct(flatten(list({lake.SIGNALS})))) as signals
  from interactions where execution_id is not null
  group by execution_id, feature_id
)
select *, {_OPENED} as clicked,
       case when list_contains(signals, 'return_to_results') and {_STRONGEST} <= 1 then {HASTY} else {_STRONGEST} end
         as strength
from told
"""  # noqa: S608  # constants of this module

# Only where a search told several lists, or one that repeats a document, is it costly to find what was shown first.
_SHOWN = """
create table shown as
with pages as (
  select execution_id, coalesce(retriever_id, '') as retriever_id, ranker_id, user_id, session_id,
         metadata_json->>'$.device' as device, timestamp, query, results,
         coalesce(sum(len(results)) over (execution order by timestamp, results
                                          rows between unbounded preceding and 1 preceding), 0) as before,
         count(*) over execution = 1 and len(list_distinct(results)) = len(results) as is_plain
  from searches
  where event_date <= $until and ($retriever is null or retriever_id = $retriever)
  window execution as (partition by retriever_id, execution_id)
), listed as (
  select * exclude (results, before), unnest(results) as feature_id,
         (before + generate_subscripts(results, 1) - 1)::integer as position
  from pages
), told as (
  select execution_id, coalesce(retriever_id, '') as retriever_id, metadata_json->>'$.ranker_id' as ranker_id,
         user_id, session_id, device, timestamp, coalesce(query, '') as query, feature_id, position
  from interactions
  where list_has_any(interaction_type, ['impression', 'view']) and execution_id is not null and position is not null
    and event_date <= $until and ($retriever is null or retriever_id = $retriever)
    and execution_id not in (select execution_id from searches)
), doubtful as (
  select * exclude (is_plain) from listed where not is_plain union all by name select * from told
)
select * exclude (is_plain), 1 as time from listed where is_plain
union all by name
select *, row_number() over (partition by retriever_id, execution_id, feature_id order by position, timestamp) as time
from doubtful
"""

_IMPRESSIONS = """
create table impressions as
with deepest as (
  select shown.retriever_id, execution_id, max(position) as position
  from shown join events using (execution_id, feature_id)
  where time = 1 and clicked
  group by shown.retriever_id, execution_id
)
select shown.execution_id, shown.retriever_id, ranker_id, user_id, session_id, device, timestamp, query, query_key,
       shown.feature_id, shown.position, coalesce(clicked, false) as clicked,
       not coalesce(clicked, false) and shown.position < coalesce(deepest.position, -1) as skipped,
       coalesce(signals, []) as signals, coalesce(strength, 0) as strength, last_at, told_position
from shown
join query_keys using (query)
left join events using (execution_id, feature_id)
left join deepest on deepest.execution_id = shown.execution_id and deepest.retriever_id = shown.retriever_id
where time = 1
"""

# Events without a retriever count for any, unless a search outside the range or of another retriever has them.
_COUNTS = """
with clicks as (
  select execution_id, feature_id, execution_id in (select execution_id from shown) as is_shown
  from events
  where clicked and day <= $until and ($retriever is null or coalesce(retriever_id, $retriever) = $retriever)
)
select
  (select count(distinct (retriever_id, execution_id)) from impressions),
  (select count(*) from impressions),
  (select count(*) from impressions where clicked),
  (select count(*) from interactions where execution_id is null and list_contains(interaction_type, 'click')
     and event_date <= $until and ($retriever is null or coalesce(retriever_id, $retriever) = $retriever)),
  (select count(*) from clicks where not is_shown and execution_id not in (select execution_id from searches)),
  (select count(*) from clicks anti join shown using (execution_id, feature_id) where is_shown),
  (select count(*) from shown where time > 1),
  (select count(*) from interactions where list_has_any(interaction_type, ['impression', 'view']) and position is null
     and event_date <= $until and ($retriever is null or retriever_id = $retriever)
     and (execution_id is null or execution_id not in (select execution_id from searches))),
  (select count(*) from impressions where clicked and told_position <> position)
"""
