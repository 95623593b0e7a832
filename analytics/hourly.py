"""Searches and clicks hour by hour, apart by position and by kind of query: what alerts compare.

Queries are of one kind that had about the same CTR, position for position, in the four weeks before; a day on which
other queries are asked is then compared with what these queries brought before, and is no loss of relevance.
"""

# ruff: noqa: S608  # the texts are put together from constants of our own

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clickwell.analytics import kept, lake
from clickwell.analytics.searched import search
from clickwell.clock import MS_PER_HOUR
from clickwell.settings import Settings

POSITIONS = 30
"""Positions that are looked at; a relevance that falls only further down is not missed by anybody."""
KINDS = 8
"""Kinds of queries by their CTR, and before these: 0, queries too rare to have a kind of their own."""
# Results that a query has to have shown for a kind of its own: then its CTR is known to about a third.
_ENOUGH = 200
# Shown results of the prior by which the CTR of a query is drawn towards that of all.
_PRIOR = 100

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Hours:
    """What happened in each hour of a retriever; hour i begins at `start_ms + i * 3,600,000`.

    Attributes:
        retriever_id: whose.
        start_ms: begin of the first hour, epoch ms.
        searches, zero: int64 of shape (hours,): all, and those without results.
        shown, clicks: int64 of shape (hours, KINDS + 1, POSITIONS).
        lists: searches by the length of their list; int64 of shape (hours, POSITIONS + 1).
        highest, first: searches by the highest and by the first clicked position; int64 of shape (hours, POSITIONS).
        lowest, skips: searches by the lowest clicked position, and the results skipped in them; of the same shape.
    """

    retriever_id: str
    start_ms: int
    searches: Counts
    zero: Counts
    shown: Counts
    clicks: Counts
    lists: Counts
    highest: Counts
    first: Counts
    lowest: Counts
    skips: Counts

    @property
    def end_ms(self) -> int:
        """When the last hour ends."""
        return self.start_ms + len(self.searches) * MS_PER_HOUR


def hours(settings: Settings, start_ms: int, end_ms: int, kinds_before_ms: int) -> list[Hours]:
    """Count the full hours from one time to another, by retriever.

    Args:
        settings: where the lake is.
        start_ms: begin of an hour, epoch ms.
        end_ms: end of an hour.
        kinds_before_ms: queries get their kind from the four weeks before the day of this time.

    Raises:
        LakeError: there is no table of searches, or its storage does not answer.
    """
    since, until = _day(start_ms), _day(end_ms - 1)
    kinds = _kinds(settings, _day(kinds_before_ms))
    with lake.connect(settings, since=since, until=until + timedelta(days=1)) as connection:
        search(connection, since, until)
        connection.register("kinds", kinds)
        connection.execute(_HOURLY, {"start": start_ms, "end": end_ms})
        names = [
            name for (name,) in connection.execute("select distinct retriever_id from hourly order by 1").fetchall()
        ]
        count = (end_ms - start_ms) // MS_PER_HOUR

        def cube(text: str, retriever: str, *shape: int) -> Counts:
            filled = np.zeros((count, *shape), np.int64)
            found = connection.execute(text, {"retriever": retriever}).fetchnumpy()
            *index, n = (np.asarray(column).astype(np.int64) for column in found.values())
            filled[tuple(index)] = n
            return filled

        return [
            Hours(
                retriever_id=name,
                start_ms=start_ms,
                searches=cube(_SUM.format(sum="count(*)"), name),
                zero=cube(_SUM.format(sum="count(*) filter (shown = 0)"), name),
                shown=cube(_SHOWN, name, KINDS + 1, POSITIONS),
                clicks=cube(_CLICKS, name, KINDS + 1, POSITIONS),
                lists=cube(
                    _BY.format(by=f"least(shown, {POSITIONS})", n="count(*)", last=POSITIONS), name, POSITIONS + 1
                ),
                highest=cube(_BY.format(by="highest", n="count(*)", last=POSITIONS - 1), name, POSITIONS),
                first=cube(_BY.format(by="first", n="count(*)", last=POSITIONS - 1), name, POSITIONS),
                lowest=cube(_BY.format(by="lowest", n="count(*)", last=POSITIONS - 1), name, POSITIONS),
                skips=cube(
                    _BY.format(by="lowest", n="sum(lowest + 1 - clicks)::bigint", last=POSITIONS - 1), name, POSITIONS
                ),
            )
            for name in names
        ]


def _kinds(settings: Settings, before: date) -> pa.Table:
    """Return the kind of each query that was frequent in the four weeks before a day."""
    with kept.connect(settings, before - timedelta(days=28), before - timedelta(days=1)) as connection:
        return connection.sql(_KINDS).to_arrow_table()


def _day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()


_KINDS = f"""
select retriever_id, query_key,
       ntile({KINDS}) over (partition by retriever_id
                            order by (clicks + {_PRIOR} * usual) / (shown + {_PRIOR}) / usual, query_key)::integer as
                            kind
from (
  select retriever_id, query_key, sum(clicks) as clicks, sum(shown) as shown, sum(expected) / sum(shown) as usual
  from queries group by all having sum(shown) >= {_ENOUGH} and sum(expected) > 0
)
"""
_HOURLY = f"""
create temp table hourly as
select searched.*, ((epoch_ms(timestamp) - $start) // {MS_PER_HOUR})::bigint as hour, coalesce(kind, 0) as kind
from searched left join kinds using (retriever_id, query_key)
where epoch_ms(timestamp) >= $start and epoch_ms(timestamp) < $end
"""
_SUM = "select hour, {sum} as n from hourly where retriever_id = $retriever group by hour"
_BY = """
select hour, {by} as at, {n} as n from hourly
where retriever_id = $retriever and ({by}) between 0 and {last} group by all
"""
_SHOWN = f"""
select hour, kind, position, sum(n)::bigint as n
from (select hour, kind, unnest(range(least(shown, {POSITIONS}))) as position, n
      from (select hour, kind, shown, count(*) as n from hourly where retriever_id = $retriever group by all))
group by all
"""
_CLICKS = f"""
select hour, kind, position, count(*) as n from hits join hourly using (search)
where retriever_id = $retriever and position < {POSITIONS} group by all
"""
