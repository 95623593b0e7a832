"""What was shown, clicked, skipped and converted in hourly and daily windows: what `clickwell windows` prints.

Counts of a window are the sums over its tables in all shards. A day's tables are those of its hours as long as these
are kept, and one of the day for what came or was kept later, see `engagement.lua`.
"""

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR, SystemClock
from clickwell.errors import RedisError
from clickwell.redis_client import redis_errors
from clickwell.schemas.keys import SHARDS, tables_key, window_key
from clickwell.schemas.rings import Generation

Width = Literal["hour", "day"]
By = Literal["position", "query", "document"]
WIDTHS: tuple[Width, ...] = ("hour", "day")
BYS: tuple[By, ...] = ("position", "query", "document")
WIDTH_MS = {"hour": MS_PER_HOUR, "day": MS_PER_DAY}
OTHER = "other"
LANE = "engagement"

Counts = list[int]
"""Exposures, clicks, skips, conversions; by document also those at the first three positions."""
Name = tuple[str, str]
"""Retriever and what the table counts by, as they stand in the table."""

# Tables asked for in one round trip; more would hold up other readers.
_AT_ONCE = 8 * SHARDS
# What stands in a table for rows beyond its limit: no name holds a NUL.
_BEYOND = "\0"


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One row of one window.

    Attributes:
        retriever_id: null where events name none.
        window_start: epoch ms; a window is told by the time of the search, UTC.
        width: `hour` or `day`.
        by: `position`, `query` or `document`.
        key: position from 0, query as typed, or document; null when events do not tell. `other` sums what is beyond the
            limit of a table's rows.
        exposures: results, each once a search, document and position.
        clicks: of them, those that were clicked.
        skips: those that were not, though one below them was.
        conversions: those that were bought or put into a cart.
    """

    retriever_id: str | None
    window_start: int
    width: Width
    by: By
    key: str | int | None
    exposures: int
    clicks: int
    skips: int
    conversions: int


def read_windows(
    client: redis.Redis,
    generation: Generation,
    *,
    widths: Collection[Width] = WIDTHS,
    bys: Collection[By] = BYS,
    retriever_id: str | None = None,
    since_ms: int = 0,
    until_ms: int | None = None,
    at_top: bool = False,
) -> Iterator[WindowRow]:
    """Yield the rows of every window that is kept, oldest first; a window of which nothing is known has none.

    Args:
        client: gives bytes.
        generation: which counters.
        widths: of the windows.
        bys: what to count by.
        retriever_id: only this one's.
        since_ms: windows that begin at or after this time, epoch ms.
        until_ms: and before this one; default: now.
        at_top: count documents at the first three positions only.

    Raises:
        RedisError: Redis is away, or this lane counts nothing.
    """
    now_ms = SystemClock().now_ms()
    windows = tables_of(
        client, generation.name, widths, bys, since_ms, now_ms + MS_PER_HOUR if until_ms is None else until_ms
    )
    oldest = {width: kept_from(generation, width, now_ms) for width in widths}
    for (width, window, by), keys in windows.items():
        if window < oldest[width]:
            continue
        rows: dict[Name, Counts] = {}
        for first in range(0, len(keys), _AT_ONCE):
            pipeline = client.pipeline(transaction=False)
            for key in keys[first : first + _AT_ONCE]:
                pipeline.hgetall(key)
            with redis_errors():
                found = cast("list[dict[bytes, bytes]]", pipeline.execute())
            for table in found:
                add_table(rows, table)
        for name in sorted(rows):
            row = _row(name, window * WIDTH_MS[width], width, by, rows[name], at_top=at_top)
            if retriever_id in {None, row.retriever_id} and row.exposures:
                yield row


def kept_from(generation: Generation, width: Width, now_ms: int) -> int:
    """Return the number of the first window of which all is kept: epoch ms // width.

    Raises:
        RedisError: this lane counts nothing.
    """
    shape = generation.lanes.get(LANE)
    if shape is None:
        raise RedisError(
            "windows are not counted",
            why=f"the workers that count run without the lane {LANE}",
            fix=f"name {LANE} in CLICKWELL_WORKER__LANES and start the workers again",
        )
    day = now_ms // MS_PER_DAY
    return (day - int(shape["hourly_days"])) * 24 if width == "hour" else day - int(shape["daily_days"])


def add_table(rows: dict[Name, Counts], table: dict[bytes, bytes]) -> None:
    """Add one table as Redis holds it."""
    for field, value in table.items():
        retriever, _, key = field.decode().partition("\0")
        counts = struct.unpack(f"<{len(value) // 4}i", value)
        before = rows.get((retriever, key))
        rows[retriever, key] = [*counts] if before is None else [a + b for a, b in zip(before, counts, strict=True)]


def tables_of(
    client: redis.Redis, generation: str, widths: Collection[Width], bys: Collection[By], since_ms: int, until_ms: int
) -> dict[tuple[Width, int, By], list[str]]:
    """Return the keys whose sums are the windows that begin within a time, in the order of the windows.

    Raises:
        RedisError: Redis is away.
    """
    pipeline = client.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipeline.smembers(tables_key(shard, generation))
    with redis_errors():
        found = cast("list[set[bytes]]", pipeline.execute())
    windows: dict[tuple[Width, int, By], list[str]] = {}
    for shard, names in enumerate(found):
        for name in names:
            by, _, unit_window = name.decode().partition(":")
            unit, number = unit_window[0], int(unit_window[1:])
            for width in widths:
                if by not in bys or (unit == "d" and width == "hour"):
                    continue
                window = number // 24 if unit == "h" and width == "day" else number
                if since_ms <= window * WIDTH_MS[width] < until_ms:
                    key = window_key(shard, generation, by, unit, number)
                    windows.setdefault((width, window, cast("By", by)), []).append(key)
    order = {name: place for place, name in enumerate((*WIDTHS, *BYS))}
    return dict(sorted(windows.items(), key=lambda item: (order[item[0][0]], item[0][1], order[item[0][2]])))


def _row(name: Name, start_ms: int, width: Width, by: By, counts: Counts, *, at_top: bool) -> WindowRow:
    retriever, text = name
    key: str | int | None = OTHER if text == _BEYOND else text or None
    if by == "position" and key not in {None, OTHER}:
        key = int(text)
    four: Any = counts[4:] if at_top and by == "document" else counts[:4]
    return WindowRow(retriever or None, start_ms, width, by, key, *four)
