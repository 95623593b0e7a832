"""Tables of what was shown and done, as workers keep them and readers add them up: see `engagement.lua`. Pure.

A window is the sum of its tables in all shards. A day's are those of its hours as long as these are kept, and one of
the day for what came or was kept later.
"""

import struct
from collections.abc import Mapping
from typing import Literal, cast

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.errors import RedisError
from clickwell.schemas.rings import Generation

LANE = "engagement"
Width = Literal["hour", "day"]
By = Literal["position", "query", "document"]
WIDTHS: tuple[Width, ...] = ("hour", "day")
BYS: tuple[By, ...] = ("position", "query", "document")
WIDTH_MS = {"hour": MS_PER_HOUR, "day": MS_PER_DAY}
# The key of rows beyond a table's limit: no name holds a NUL.
BEYOND = "\0"

Counts = list[int]
"""Exposures, clicks, skips, conversions; by document then those at the first three positions."""
Rows = dict[tuple[str, str], Counts]
"""(retriever, key) -> counts; empty text where events do not tell."""


def window_of(name: bytes, width: Width) -> tuple[int, By] | None:
    """Return the window, epoch ms // width, that a table of this name is a part of; None if it is of no such width."""
    by, _, unit_window = name.decode().partition(":")
    unit, number = unit_window[0], int(unit_window[1:])
    if unit == "d" and width == "hour":
        return None
    return number // 24 if unit == "h" and width == "day" else number, cast("By", by)


def add_table(rows: Rows, table: Mapping[bytes, bytes]) -> None:
    """Add a table as Redis holds it."""
    for field, value in table.items():
        retriever, _, key = field.decode().partition("\0")
        counts = struct.unpack(f"<{len(value) // 4}i", value)
        before = rows.get((retriever, key))
        rows[retriever, key] = [*counts] if before is None else [a + b for a, b in zip(before, counts, strict=True)]


def kept_from(generation: Generation, width: Width, now_ms: int) -> int:
    """Return the first window of which all is kept, epoch ms // width.

    Raises:
        RedisError: nothing counts windows.
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
