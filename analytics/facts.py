"""What a day says about searches, counted: the tables that signals and reports add up.

| table | a row for each day, retriever and | holds |
|---|---|---|
| `hours` | hour (epoch ms), ranker | searches, without results, with a click; results shown, clicked, examined |
| `positions` | position | results shown, clicked, examined |
| `queries` | query | as `hours`; clicks expected at its positions; searches followed by another query |
| `documents` | document | shown, clicked, expected; at the top examined, clicked, expected skips; deep shown, clicked |
| `delays` | step of 5 % | searches whose first click came after so long |
| `detours` | query without results, next query | how often the other followed it |

*Examined* are the results down to a search's lowest click; those of them without a click are *skipped*. *Expected* is
what the retriever's own rates by position, of that day, say of the positions at which something was shown. A search
counts for the day on which it happened. Nothing here points to a person.
"""

# ruff: noqa: S608  # the texts are put together from constants of our own

from datetime import date, timedelta

import pyarrow as pa

from clickwell.analytics import lake
from clickwell.analytics.searched import search
from clickwell.settings import Settings

TOP = 3
"""Positions that count as ranked high."""
DEEP = 10
"""Position from which on a result is deep in the list."""
LAST = 99
"""The last position that is told apart; those below are counted with it."""
REFORMULATED_MS = 600_000
"""Another query of the same session within this time is a reformulation; later it is another errand."""
DELAY_STEP = 1.05
"""Ratio of two steps of the time to the first click: a median is right to 2.5 %."""

_KEYS = [("day", pa.date32()), ("retriever_id", pa.string())]
_SEARCHES = [(name, pa.int64()) for name in ("searches", "zero", "with_click", "shown", "clicks")]
_FIRST = [("first_sum", pa.float64()), ("first_squares", pa.float64())]
SCHEMAS = {
    "hours": pa.schema(
        [*_KEYS, ("hour", pa.int64()), ("ranker_id", pa.string()), *_SEARCHES, ("examined", pa.int64()), *_FIRST]
    ),
    "positions": pa.schema(
        [*_KEYS, ("position", pa.int64()), ("shown", pa.int64()), ("clicks", pa.int64()), ("examined", pa.int64())]
    ),
    "queries": pa.schema(
        [
            *_KEYS,
            ("query_key", pa.string()),
            *_SEARCHES,
            *_FIRST,
            ("expected", pa.float64()),
            ("reformulated", pa.int64()),
            ("last_at", pa.int64()),
        ]
    ),
    "documents": pa.schema(
        [
            *_KEYS,
            ("feature_id", pa.string()),
            ("shown", pa.int64()),
            ("clicks", pa.int64()),
            ("expected", pa.float64()),
            ("top_shown", pa.int64()),
            ("top_examined", pa.int64()),
            ("top_clicks", pa.int64()),
            ("top_expected", pa.float64()),
            ("deep_shown", pa.int64()),
            ("deep_clicks", pa.int64()),
        ]
    ),
    "delays": pa.schema([*_KEYS, ("step", pa.int64()), ("searches", pa.int64())]),
    "detours": pa.schema([*_KEYS, ("query_key", pa.string()), ("next_key", pa.string()), ("searches", pa.int64())]),
}


def count(settings: Settings, since: date, until: date) -> dict[str, pa.Table]:
    """Count the facts of the days `since` to `until`, both included, from the lake; the tables have `SCHEMAS`.

    Holds the searches of these days in memory, about 300 bytes each with ten results.

    Raises:
        LakeError: there is no table at all, or its storage does not answer.
    """
    with lake.connect(settings, since=since, until=until + timedelta(days=1)) as connection:
        search(connection, since, until)
        connection.execute(_CURVE)
        return {name: connection.sql(_TABLES[name]).to_arrow_table().cast(schema) for name, schema in SCHEMAS.items()}


_CURVE = f"""
create temp table curve as
select day, retriever_id, position, sum(shown)::bigint as shown, sum(clicks)::bigint as clicks,
       sum(examined)::bigint as examined, sum(clicks) / sum(shown) as ctr,
       1 - sum(clicks) / nullif(sum(examined), 0) as skip_rate
from (
  select day, retriever_id, least(unnest(range(shown)), {LAST}) as position, n as shown, 0 as clicks, 0 as examined
  from (select day, retriever_id, shown, count(*) as n from searched group by all)
  union all
  select day, retriever_id, least(unnest(range(lowest + 1)), {LAST}), 0, 0, n
  from (select day, retriever_id, lowest, count(*) as n from searched where lowest is not null group by all)
  union all
  select day, retriever_id, least(position, {LAST}), 0, count(*), 0
  from hits join searched using (search) group by 1, 2, 3
)
group by all;
create temp table ahead as
select day, retriever_id, position + 1 as depth, sum(ctr) over up_to as expected, ctr
from curve window up_to as (partition by day, retriever_id order by position)
"""

_TABLES = {
    "hours": """
select day, retriever_id, epoch_ms(date_trunc('hour', timestamp)) as hour, ranker_id, count(*) as searches,
       count(*) filter (shown = 0) as zero, count(clicks) as with_click, sum(shown)::bigint as shown,
       coalesce(sum(clicks), 0)::bigint as clicks, coalesce(sum(lowest + 1), 0)::bigint as examined,
       coalesce(sum(first), 0)::double as first_sum, coalesce(sum(first * first), 0)::double as first_squares
from searched group by all
""",
    "positions": "select day, retriever_id, position, shown, clicks, examined from curve",
    "queries": f"""
with ended as (
  select *, lead(query_key) over visit <> query_key
              and epoch_ms(lead(timestamp) over visit) - epoch_ms(timestamp) <= {REFORMULATED_MS} as reformulated
  from searched window visit as (partition by day, retriever_id, session_id order by timestamp, search)
)
select ended.day, ended.retriever_id, query_key, count(*) as searches, count(*) filter (shown = 0) as zero,
       count(clicks) as with_click, sum(shown)::bigint as shown, coalesce(sum(clicks), 0)::bigint as clicks,
       coalesce(sum(first), 0)::double as first_sum, coalesce(sum(first * first), 0)::double as first_squares,
       coalesce(sum(expected + (shown - depth) * ctr), 0)::double as expected,
       count(*) filter (reformulated and session_id is not null) as reformulated,
       epoch_ms(max(timestamp)) as last_at
from ended left join ahead
  on ended.day = ahead.day and ended.retriever_id = ahead.retriever_id and depth = least(shown, {LAST + 1})
group by all
""",
    "documents": f"""
with listed as (
  select lists.day, lists.retriever_id, lowest, unnest(results) as feature_id,
         generate_subscripts(results, 1) - 1 as position
  from lists join searched on lists.rowid = search
), placed as (
  select day, retriever_id, feature_id, least(position, {LAST}) as position, count(*) as shown,
         count(*) filter (position <= lowest) as examined
  from listed group by all
), clicked as (
  select day, retriever_id, feature_id, count(*) as clicks, count(*) filter (position < {TOP}) as top_clicks,
         count(*) filter (position >= {DEEP}) as deep_clicks
  from hits join searched using (search) group by all
)
select day, retriever_id, feature_id, sum(placed.shown)::bigint as shown,
       coalesce(any_value(clicked.clicks), 0) as clicks,
       sum(placed.shown * ctr) as expected,
       coalesce(sum(placed.shown) filter (position < {TOP}), 0)::bigint as top_shown,
       coalesce(sum(placed.examined) filter (position < {TOP}), 0)::bigint as top_examined,
       coalesce(any_value(top_clicks), 0) as top_clicks,
       coalesce(sum(placed.examined * skip_rate) filter (position < {TOP}), 0) as top_expected,
       coalesce(sum(placed.shown) filter (position >= {DEEP}), 0)::bigint as deep_shown,
       coalesce(any_value(deep_clicks), 0) as deep_clicks
from placed join curve using (day, retriever_id, position) left join clicked using (day, retriever_id, feature_id)
group by all
""",
    "delays": f"""
select day, retriever_id,
       floor(ln(greatest(epoch_ms(first_at) - epoch_ms(timestamp), 1)) / ln({DELAY_STEP}))::bigint as step,
       count(*) as searches
from searched where first_at >= timestamp group by all
""",
    "detours": f"""
select day, retriever_id, query_key, next_key, count(*) as searches
from (
  select day, retriever_id, query_key, session_id, shown, lead(query_key) over visit as next_key,
         epoch_ms(lead(timestamp) over visit) - epoch_ms(timestamp) as later
  from searched window visit as (partition by day, retriever_id, session_id order by timestamp, search)
)
where shown = 0 and session_id is not null and next_key <> query_key and later <= {REFORMULATED_MS}
group by all
""",
}
