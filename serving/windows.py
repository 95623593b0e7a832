"""What was shown, clicked, skipped and converted in hourly and daily windows: what `clickwell windows` prints."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

import redis

from clickwell.clock import SystemClock
from clickwell.redis_client import redis_errors
from clickwell.schemas.keys import SHARDS, tables_key
from clickwell.schemas.rings import Generation
from clickwell.schemas.windows import BEYOND, BYS, WIDTH_MS, WIDTHS, By, Rows, Width, add_table, kept_from, window_of

OTHER = "other"
# Tables asked for in one round trip; more would hold up other readers.
_AT_ONCE = 8 * SHARDS


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One row of one window.

    Attributes:
        retriever_id: null where events name none.
        window_start: epoch ms; the time of the search tells the window, in UTC.
        width: `hour` or `day`.
        by: `position`, `query` or `document`.
        key: position from 0, query as typed, or document; null where events do not tell. The rows beyond the limit of a
            table are summed as `other`.
        exposures: results, each position of a document once a search; never 0.
        clicks: of them, those that were clicked.
        skips: those that were not, though a result below them was.
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

    One round trip tells which tables there are, then one brings as many windows as fit. What is read does not belong to
    one instant while workers write.

    Args:
        client: gives bytes.
        generation: which counters.
        widths: of the windows.
        bys: what to count by.
        retriever_id: only this one's.
        since_ms: windows that begin at or after this time, epoch ms.
        until_ms: and before this one.
        at_top: count documents at the first three positions only.

    Raises:
        RedisError: Redis is away, or nothing counts windows.
    """
    now_ms = SystemClock().now_ms()
    oldest = {width: kept_from(generation, width, now_ms) for width in widths}
    for (width, window, by), keys in _tables(client, generation.name, widths, bys).items():
        start_ms = window * WIDTH_MS[width]
        if window < oldest[width] or start_ms < since_ms or (until_ms is not None and start_ms >= until_ms):
            continue
        rows: Rows = {}
        for first in range(0, len(keys), _AT_ONCE):
            pipeline = client.pipeline(transaction=False)
            for key in keys[first : first + _AT_ONCE]:
                pipeline.hgetall(key)
            with redis_errors():
                for table in cast("list[dict[bytes, bytes]]", pipeline.execute()):
                    add_table(rows, table)
        for name in sorted(rows):
            row = _row(name, start_ms, width, by, rows[name], at_top=at_top)
            if row.exposures and retriever_id in {None, row.retriever_id}:
                yield row


def _tables(
    client: redis.Redis, generation: str, widths: Collection[Width], bys: Collection[By]
) -> dict[tuple[Width, int, By], list[bytes]]:
    """Return the keys of the tables of each window, in the order of the windows."""
    pipeline = client.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipeline.smembers(tables_key(shard, generation))
    with redis_errors():
        found = cast("list[set[bytes]]", pipeline.execute())
    windows: dict[tuple[Width, int, By], list[bytes]] = {}
    for shard, names in enumerate(found):
        for name in names:
            for width in widths:
                window = window_of(name, width)
                if window and window[1] in bys:
                    key = tables_key(shard, generation).encode() + b":" + name
                    windows.setdefault((width, *window), []).append(key)
    order = {name: place for place, name in enumerate((*WIDTHS, *BYS))}
    return dict(sorted(windows.items(), key=lambda item: (order[item[0][0]], item[0][1], order[item[0][2]])))


def _row(name: tuple[str, str], start_ms: int, width: Width, by: By, counts: list[int], *, at_top: bool) -> WindowRow:
    retriever, text = name
    key: str | int | None = OTHER if text == BEYOND else text or None
    if by == "position" and text not in {"", BEYOND}:
        key = int(text)
    four: Any = counts[4:] if at_top and by == "document" else counts[:4]
    return WindowRow(retriever or None, start_ms, width, by, key, *four)
