"""Searches, clicks and skips of a retriever, hour by hour: what a chart draws."""

from dataclasses import dataclass
from datetime import date

from clickwell.analytics import kept
from clickwell.settings import Settings


@dataclass(frozen=True, slots=True)
class Trend:
    """Full columns of the same length, one entry for each hour with searches, in order.

    Attributes:
        hours: begin of the hour, epoch ms.
        searches, zero: all searches, and those without results.
        shown, clicks: results.
        examined: results down to the search's lowest click; those without a click are skipped.
        new_rankers: (hour, ranker_id) at which a ranker first ordered lists, unless it did from the first hour on.
    """

    hours: list[int]
    searches: list[int]
    zero: list[int]
    shown: list[int]
    clicks: list[int]
    examined: list[int]
    new_rankers: list[tuple[int, str]]


_HOURS = """
select hour, sum(searches)::bigint, sum(zero)::bigint, sum(shown)::bigint, sum(clicks)::bigint, sum(examined)::bigint
from hours where retriever_id = $retriever and day between $since and $until group by hour order by hour
"""
_RANKERS = """
select min(hour) as first, ranker_id from hours
where retriever_id = $retriever and day between $since and $until and ranker_id is not null
group by ranker_id having first > (select min(hour) from hours where retriever_id = $retriever)
order by first, ranker_id
"""


def trend(settings: Settings, retriever_id: str, since: date, until: date) -> Trend:
    """Return the hours of a retriever from `since` to `until`, both included, UTC.

    Raises:
        LakeError: there is no table of searches, or its storage does not answer.
    """
    bound = {"retriever": retriever_id, "since": since, "until": until}
    with kept.connect(settings, since, until) as connection:
        rows = connection.execute(_HOURS, bound).fetchall()
        rankers = connection.execute(_RANKERS, bound).fetchall()
    hours, searches, zero, shown, clicks, examined = ([row[at] for row in rows] for at in range(6))
    return Trend(hours, searches, zero, shown, clicks, examined, rankers)
