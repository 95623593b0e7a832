"""One query or one document in numbers: what a list of problems leads to."""

from dataclasses import dataclass
from datetime import date

from clickwell.analytics.impressions import join
from clickwell.analytics.intervals import Rate, rate
from clickwell.schemas.keys import normal_query
from clickwell.settings import Settings

# Rows of a table that somebody reads.
_MOST = 50


@dataclass(frozen=True, slots=True)
class Day:
    """One day: searches, results shown and clicks on them."""

    day: date
    searches: int
    ctr: Rate


@dataclass(frozen=True, slots=True)
class Pair:
    """A query with a document.

    Attributes:
        query: its normal form.
        feature_id: the document.
        position: mean position at which it was shown, 0-based.
        ctr: clicks over times shown.
        skip_rate: skipped over times shown.
    """

    query: str
    feature_id: str
    position: float
    ctr: Rate
    skip_rate: Rate


@dataclass(frozen=True, slots=True)
class Details:
    """Numbers of one query or document, as far as it was shown.

    Attributes:
        days: in order.
        positions: CTR by position, 0-based, as far as it was shown there.
        pairs: the documents of the query, or the queries of the document; the most shown first, at most 50.
    """

    days: list[Day]
    positions: list[tuple[int, Rate]]
    pairs: list[Pair]


def details(
    settings: Settings,
    retriever_id: str,
    since: date,
    until: date,
    *,
    query: str | None = None,
    feature_id: str | None = None,
) -> Details:
    """Return the numbers of a query or of a document in a retriever on the days `since` to `until`, both included.

    Raises:
        LakeError: there is no table at all, or its storage does not answer.
    """
    assert (query is None) != (feature_id is None), "one of them"
    column, value = ("query_key", normal_query(query)) if query is not None else ("feature_id", feature_id)
    connection = join(settings, since=since, until=until, retriever=retriever_id).connection
    connection.execute(
        f"create view these as select * from impressions where {column} = getvariable('wanted')"  # noqa: S608
    )
    connection.execute("set variable wanted = $value", {"value": value})
    days = connection.execute(
        "select timestamp::date, count(distinct execution_id), count(*) filter (clicked), count(*) "
        "from these group by 1 order by 1"
    ).fetchall()
    positions = connection.execute(
        "select position, count(*) filter (clicked), count(*) from these group by 1 order by 1"
    ).fetchall()
    pairs = connection.execute(
        "select query_key, feature_id, avg(position), count(*) filter (clicked), count(*) filter (skipped), count(*) "
        "from these group by 1, 2 order by 6 desc, 1, 2 limit $most",
        {"most": _MOST},
    ).fetchall()
    return Details(
        days=[Day(day, searches, rate(clicks, shown)) for day, searches, clicks, shown in days],
        positions=[(position, rate(clicks, shown)) for position, clicks, shown in positions],
        pairs=[
            Pair(asked, document, position, rate(clicks, shown), rate(skips, shown))
            for asked, document, position, clicks, skips, shown in pairs
        ],
    )
