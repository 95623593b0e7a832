"""Parts for training, validation and test that share neither queries nor time, and the checks that they do not.

A query goes by the hash of its normal form, so it stays in its part from one export to the next. Training and
validation end where the test begins: what happened later, also to an earlier search, is in neither.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from clickwell.analytics.impressions import rows
from clickwell.analytics.pairs import Tuple
from clickwell.errors import LeakError

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class Shares:
    """How much goes where.

    Attributes:
        validation: share of the queries.
        test: share of the queries.
        later: share of the searches, the last ones, that only the test may see.
    """

    validation: float = 0.1
    test: float = 0.1
    later: float = 0.2


def cut_of(shown: duckdb.DuckDBPyRelation, shares: Shares) -> datetime:
    """Return the time before which training ends and from which on the test begins."""
    cut: datetime = rows(
        shown,
        "select quantile_disc(moment, "  # noqa: S608  # a number
        f"{1 - shares.later}) from (select min(timestamp) as moment from shown group by execution_id)",
    ).fetchall()[0][0]
    return cut


def split(shown: duckdb.DuckDBPyRelation, cut: datetime, shares: Shares) -> dict[str, duckdb.DuckDBPyRelation]:
    """Return the impressions of each part, by its name.

    Args:
        shown: impressions that count.
        cut: of `cut_of`.
        shares: of the queries.
    """
    rows(shown, _PLACED.format(cut=cut.isoformat(), test=shares.test, held=shares.test + shares.validation)).create(
        "parts"
    )
    return {
        name: rows(shown, f"select * exclude part from parts where part = '{name}'")  # noqa: S608  # ours
        for name in (TRAIN, VALIDATION, TEST)
    }


def check_pairs(parts: Mapping[str, pa.Table], cut: datetime) -> None:
    """Check that the judged pairs of the parts share no query and that none knows of the other side of the cut.

    Args:
        parts: tables with query_key, feature_id, label, first_at and last_at, by name of the part.
        cut: of `cut_of`.

    Raises:
        LeakError: names the first leak.
    """
    owners: dict[str, str] = {}
    for name, table in parts.items():
        for query in pc.unique(table["query_key"]).to_pylist():
            if query in owners:
                raise LeakError(f"query {query!r} is in {owners[query]} and in {name}", fix=_FIX)
            owners[query] = name
        pairs = list(zip(table["query_key"].to_pylist(), table["feature_id"].to_pylist(), strict=True))
        if len(set(pairs)) < len(pairs):
            raise LeakError(f"a document of {name} is judged twice for a query", fix=_FIX)
        if not len(table):
            continue
        if name == TEST and pc.min(table["first_at"]).as_py() < cut:
            raise LeakError(f"{name} rests on searches before {cut.isoformat()}, which training may see", fix=_FIX)
        if name != TEST and pc.max(table["last_at"]).as_py() >= cut:
            raise LeakError(f"{name} rests on events from {cut.isoformat()} on, which are the test's", fix=_FIX)


def check_tuples(tuples: Iterable[Tuple]) -> None:
    """Check that no document is a positive and a negative of the same query, or twice a negative of one tuple.

    Raises:
        LeakError: names the first.
    """
    liked: dict[str, set[str]] = {}
    tuples = list(tuples)
    for one in tuples:
        liked.setdefault(one.query_key, set()).add(one.positive_id)
    for one in tuples:
        if both := liked[one.query_key].intersection(one.negative_ids):
            raise LeakError(f"{min(both)!r} is a positive and a negative of query {one.query_key!r}", fix=_FIX)
        if len(set(one.negative_ids)) < len(one.negative_ids):
            raise LeakError(f"a tuple of query {one.query_key!r} has a negative twice", fix=_FIX)


_FIX = "this is a fault of the export: do not train on it"

_PLACED = """
with ends as (
  select execution_id, max(greatest(timestamp, last_at)) < '{cut}'::timestamptz as is_over
  from shown group by execution_id
), placed as (
  select shown.*, is_over, ('0x' || md5(query_key)[1:8])::ubigint / 4294967296.0 as place
  from shown join ends using (execution_id)
)
select * exclude (is_over, place), case
    when place >= {held} and is_over then 'train'
    when place >= {test} and is_over then 'validation'
    when place < {test} and timestamp >= '{cut}'::timestamptz then 'test'
  end as part
from placed where part is not null
"""
