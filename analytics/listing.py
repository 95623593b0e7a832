"""Single interactions out of the lake, newest first, page by page.

Everything that a caller says is bound as a parameter; the text of a query depends on which filters are there, and on
nothing else.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import duckdb

from clickwell.analytics import lake
from clickwell.errors import LakeError, NoTableError, UsageError
from clickwell.settings import Settings
from clickwell.sinks.standing import written_ms
from clickwell.sinks.table import INTERACTION_TABLE, open_table, storage_errors

MAX_PAGE = 1000
# Rows before a page are read to be skipped; whoever wants more follows the cursor, which costs the same at any depth.
MAX_SKIPPED = 100_000

_COLUMNS = (
    "interaction_id, feature_id, interaction_type, position, user_id, session_id, retriever_id, execution_id, "
    "timestamp, sent_at, metadata_json, received_at"
)
# No two rows share all of these unless they are repeats that compaction has yet to drop.
_ORDER = (
    "timestamp",
    "coalesce(kafka_partition, -1)",
    "coalesce(kafka_offset, -1)",
    "feature_id",
    "coalesce(interaction_id, '')",
)


@dataclass(frozen=True)
class Filters:
    """Which interactions; what is None does not filter. `since` is included, `until` is not."""

    interaction_id: str | None = None
    feature_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    retriever_id: str | None = None
    execution_id: str | None = None
    interaction_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Place(NamedTuple):
    """Where a page ended: the last row's order, and when the first page was asked for.

    Rows that came into the lake after that are left out, so that an export is of one moment, however long it takes.
    """

    asked: datetime
    timestamp: datetime
    partition: int
    offset: int
    feature_id: str
    interaction_id: str

    def cursor(self) -> str:
        """Return it as text for URLs."""
        parts = [_microseconds(self.asked), _microseconds(self.timestamp), *self[2:]]
        return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def of(cls, cursor: str) -> "Place":
        """Return what `cursor` turned into text.

        Raises:
            UsageError: it did not.
        """
        try:
            parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            asked, timestamp, partition, offset, feature_id, interaction_id = parts
            return cls(
                _moment(asked), _moment(timestamp), int(partition), int(offset), str(feature_id), str(interaction_id)
            )
        except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
            raise UsageError("the cursor is not one that a page gave", fix="begin without a cursor") from None


@dataclass(frozen=True)
class Page:
    """Rows, newest first.

    Attributes:
        rows: column -> value; `metadata` is decoded, times are datetimes.
        cursor: for the next page; None after the last.
        version: the table's; None while there is no table.
        written: when that version was written. What reached Kafka shortly before, or since, may be missing.
    """

    rows: list[dict[str, Any]]
    cursor: str | None
    version: int | None = None
    written: datetime | None = None


def interactions(
    settings: Settings, filters: Filters, *, size: int = 100, skip: int = 0, after: str | None = None
) -> Page:
    """Return one page of the interactions that pass the filters, newest first. Erased ones are never among them.

    Args:
        settings: where the lake is.
        filters: which.
        size: rows at most, 1 to 1,000.
        skip: rows to leave out before; pages move while events come in, unlike cursors.
        after: the cursor of the page before.

    Raises:
        UsageError: the cursor is malformed, or `skip` beyond 100,000.
        LakeError: the storage does not answer.
    """
    if skip > MAX_SKIPPED:
        raise UsageError(f"a page begins at most {MAX_SKIPPED:,} rows down", fix="follow next_cursor instead")
    place = Place.of(after) if after is not None else None
    asked = place.asked if place else datetime.now(UTC)
    conditions, values = _conditions(filters)
    conditions.append("ingested_at <= ?")
    values.append(asked)
    if place:
        conditions.append(f"({', '.join(_ORDER)}) < (?, ?, ?, ?, ?)")
        values += place[1:]
    try:
        delta = open_table(settings, INTERACTION_TABLE)
    except NoTableError:
        return Page([], None)
    days = {"since": _day(filters.since), "until": _day(filters.until)}
    text = (
        f"select {_COLUMNS}, {', '.join(f'{each} as order_{n}' for n, each in enumerate(_ORDER))} "  # noqa: S608
        f"from interactions where {' and '.join(conditions)} "
        f"order by {', '.join(f'{each} desc' for each in _ORDER)} limit ? offset ?"
    )
    try:
        at_ms = written_ms(settings, delta)
        tables = {INTERACTION_TABLE.name: delta}
        with storage_errors(settings), lake.connect(settings, tables=tables, **days) as connection:
            found = connection.execute(text, [*values, size + 1, skip])
            names = [column[0] for column in found.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    except duckdb.Error as error:
        raise LakeError("the lake could not be read", why=" ".join(str(error).split())[:500]) from None
    shown = rows[:size]
    more = len(rows) > size
    last = [shown[-1][f"order_{n}"] for n in range(len(_ORDER))] if more else []
    return Page(
        rows=[_row(row) for row in shown],
        cursor=Place(asked, *last).cursor() if more else None,
        version=delta.version(),
        written=_moment(at_ms * 1000),
    )


def _conditions(filters: Filters) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    for name, text in (
        ("interaction_id", "interaction_id = ?"),
        ("feature_id", "feature_id = ?"),
        ("user_id", "user_id = ?"),
        ("session_id", "session_id = ?"),
        ("retriever_id", "retriever_id = ?"),
        ("execution_id", "execution_id = ?"),
        ("interaction_type", "list_contains(interaction_type, ?)"),
        ("since", "timestamp >= ?"),
        ("until", "timestamp < ?"),
    ):
        value = getattr(filters, name)
        if value is not None:
            conditions.append(text)
            values.append(value)
    return conditions, values


def _row(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if not name.startswith("order_")}
    text = shown.pop("metadata_json")
    return shown | {"metadata": json.loads(text) if text else {}}


def _day(moment: datetime | None) -> date | None:
    return moment.astimezone(UTC).date() if moment else None


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
