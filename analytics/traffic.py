"""Whose behaviour counts: robots and bursts out, and nobody counts more than a few times for the same query."""

from dataclasses import dataclass

from clickwell.analytics.impressions import Impressions

# Nobody reads result lists at this rate; a search box that searches at every keystroke stays below it.
MAX_SEARCHES_A_MINUTE = 30
# Who opens half of everything that is shown, over at least ten pages of ten, does not choose.
MAX_CLICK_RATE = 0.5
MIN_IMPRESSIONS = 100
# Repeats of a query by one person are one opinion; a few of them let a changed mind count.
MAX_SAME_QUERY = 3
# Of one person. Beyond, one heavy user would be a group of the model's customers on his own.
MAX_SEARCHES = 1000


@dataclass(frozen=True)
class LeftOut:
    """Searches that were not used, by reason.

    Attributes:
        without_query: of a category page or a feed; there is nothing to learn an answer to.
        bursts: of somebody who once searched more than 30 times within a minute.
        clickers: of somebody who opened at least half of 100 or more results.
        repeats: beyond the third of the same person for the same query.
        heavy: beyond the 1,000th of the same person.
    """

    without_query: int
    bursts: int
    clickers: int
    repeats: int
    heavy: int


def leave_out(joined: Impressions) -> LeftOut:
    """Remove the impressions that do not count, and return how many searches that was.

    A person is a `user_id`, else a `session_id`; searches with neither all count.
    """
    connection = joined.connection
    connection.execute(_JUDGED.format(**_LIMITS))
    counts = dict(connection.execute("select reason, count(*) from left_out group by reason").fetchall())
    connection.execute("delete from impressions where execution_id in (select execution_id from left_out)")
    connection.execute("drop table left_out")
    return LeftOut(*(counts.get(name, 0) for name in ("without_query", "bursts", "clickers", "repeats", "heavy")))


_LIMITS = {
    "rate": MAX_SEARCHES_A_MINUTE,
    "share": MAX_CLICK_RATE,
    "least": MIN_IMPRESSIONS,
    "same": MAX_SAME_QUERY,
    "most": MAX_SEARCHES,
}
# Ties in time are broken by the execution's id: the same lake leaves the same searches out.
_JUDGED = """
create table left_out as
with searches as (
  select execution_id, min(timestamp) as moment, min(query_key) as query_key, count(*) as shown,
         count(*) filter (clicked) as clicks, min(coalesce(user_id, session_id)) as who
  from impressions group by execution_id
), bursts as (
  select distinct who from searches where who is not null
  group by who, time_bucket(interval 1 minute, moment) having count(*) > {rate}
), clickers as (
  select who from searches where who is not null group by who
  having sum(shown) >= {least} and sum(clicks) >= {share} * sum(shown)
), placed as (
  select *, row_number() over (partition by who, query_key order by moment, execution_id) as same,
         row_number() over (partition by who order by moment, execution_id) as nth
  from searches
)
select execution_id, case
    when query_key = '' then 'without_query'
    when who in (select who from bursts) then 'bursts'
    when who in (select who from clickers) then 'clickers'
    when who is not null and same > {same} then 'repeats'
    when who is not null and nth > {most} then 'heavy'
    end as reason
from placed where reason is not null
"""
