"""Searches with what was clicked in them, one row for each search: what is counted about searches begins here.

Beside `clickwell.analytics.impressions`, which has a row for everything shown: a list stays a list here, so that ten
million events fit into seconds. Both tell the same of a log; executions known from impression events alone are only
there.
"""

from datetime import date

import duckdb
import pyarrow as pa

from clickwell.analytics import lake
from clickwell.schemas.keys import normal_query


def search(connection: duckdb.DuckDBPyConnection, since: date, until: date) -> None:
    """Make tables of the searches of some days: `searched`, what was clicked in them: `hits`, and their `lists`.

    | `searched` | |
    |---|---|
    | `search` | its number: the `rowid` of `lists`, whose `results` are what was shown |
    | `day`, `timestamp`, `retriever_id`, `query`, `ranker_id`, `session_id` | as told; no retriever is an empty one |
    | `query_key` | the query's normal form |
    | `shown` | results shown; pages told under one `execution_id` are one list |
    | `clicks`, `lowest`, `highest` | how many results were clicked, and the outermost positions; null without clicks |
    | `first`, `first_at` | position and time of the first click |

    `hits` has `search`, `feature_id`, `position`, `moment`. A result is clicked by a click, long_view, add_to_cart or
    purchase that names the search; repeats count once. A document that is listed twice is clicked at its first place.

    Args:
        connection: of `lake.connect`, for these days and the next, as clicks may follow after midnight.
        since: first day.
        until: last day.
    """
    lake.complete(connection)
    connection.execute(_LISTS, {"since": since, "until": until})
    told = connection.execute("select count(*), count(distinct (retriever_id, execution)) from lists").fetchone()
    if told and told[0] != told[1]:
        connection.execute(_PAGES)
    queries = [text for (text,) in connection.execute("select distinct query from lists").fetchall()]
    keys = pa.schema([("query", pa.string()), ("query_key", pa.string())])
    connection.register("query_keys", pa.table([queries, [normal_query(text) for text in queries]], schema=keys))
    connection.execute(_SEARCHED)
    connection.unregister("query_keys")


# Ids are joined by their 64-bit hash, three times as fast as by their text: that any two of ten million searches meet
# has a chance of 3 in a million, and then one click is counted for the wrong search.
_LISTS = """
create temp table lists as
select event_date as day, hash(execution_id) as execution,
       coalesce(retriever_id, '') as retriever_id, query, ranker_id, session_id, timestamp, results
from searches where event_date between $since and $until
"""

_PAGES = """
create temp table pages as
select min(day) as day, execution, retriever_id, arg_min(query, (timestamp, results)) as query,
       arg_min(ranker_id, (timestamp, results)) as ranker_id, arg_min(session_id, (timestamp, results)) as session_id,
       min(timestamp) as timestamp, flatten(list(results order by timestamp, results)) as results
from lists group by retriever_id, execution having count(*) > 1;
delete from lists where (retriever_id, execution) in (select (retriever_id, execution) from pages);
insert into lists by name select * from pages;
drop table pages
"""

_SEARCHED = """
create temp table hits as
select search, feature_id, position, min(timestamp) as moment
from (
  select lists.rowid as search, feature_id, list_position(results, feature_id) - 1 as position, opened.timestamp
  from lists join (
    select hash(execution_id) as execution, feature_id, timestamp from interactions
    where execution_id is not null
      and list_has_any(interaction_type, ['click', 'long_view', 'add_to_cart', 'purchase'])
  ) opened using (execution)
)
where position >= 0
group by search, feature_id, position;
create temp table searched as
select lists.rowid as search, lists.* exclude (execution, results), query_key, len(results) as shown,
       clicks, lowest, highest, first, first_at
from lists join query_keys using (query) left join (
  select search, count(*) as clicks, max(position) as lowest, min(position) as highest,
         arg_min(position, (moment, position)) as first, min(moment) as first_at
  from hits group by search
) acts on lists.rowid = acts.search
"""
