"""Every count in Redis, for audits and exports: what `clickwell counts` prints."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis

from clickwell.clock import SystemClock
from clickwell.redis_client import redis_errors
from clickwell.schemas.keys import FRESH, ring_key
from clickwell.schemas.rings import Generation, Rings
from clickwell.serving.memory import applied_ms

# Keys looked at for each SCAN, and asked for at once: either takes about 0.3 ms of Redis, which readers wait for.
SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True)
class CountRow:
    """How often one signal happened to one document in one slot; `slot_start` in epoch ms."""

    feature_id: str
    signal: str
    slot_start: int
    count: int


def rows_of(
    client: redis.Redis, generation: Generation, *, feature_id: str | None = None, at_ms: int | None = None
) -> Iterator[CountRow]:
    """Yield every non-zero count within the window that ends at `at_ms` (default: now), document by document.

    Each document comes once, as it was when it was read; documents do not belong to one instant while workers write.
    Memory: the names of the documents seen, because SCAN may return a key twice.

    Args:
        client: gives bytes.
        generation: which counters.
        feature_id: only this document's.
        at_ms: end of the window in epoch ms.

    Raises:
        RedisError: Redis is away.
        LayoutError: a key does not hold a ring.
    """
    if feature_id is not None:
        yield from _read(client, [ring_key(feature_id, generation.name).encode()], generation, at_ms)
        return
    seen: set[bytes] = set()
    # Shards differ in three digits only; everything else of the pattern is literal.
    names = client.scan_iter(match=f"cw1:{{s???}}:{generation.name}:c:*", count=SCAN_COUNT)
    while keys := _next(names):
        new = [key for key in dict.fromkeys(keys) if key not in seen]
        seen.update(new)
        yield from _read(client, new, generation, at_ms)


def summary(
    client: redis.Redis, generation: Generation | None, *, feature_id: str | None = None, at_ms: int | None = None
) -> dict[str, Any]:
    """Return totals over all documents: how many there are, non-zero cells, counts by signal, and what they cover.

    Raises:
        RedisError, LayoutError: as `rows_of`.
    """
    total: Counter[str] = Counter()
    documents = cells = 0
    last = None
    now_ms = at_ms if at_ms is not None else SystemClock().now_ms()
    for row in rows_of(client, generation, feature_id=feature_id, at_ms=now_ms) if generation else ():
        documents += row.feature_id != last
        last = row.feature_id
        cells += 1
        total[row.signal] += row.count
    with redis_errors():
        fresh: Any = client.hgetall(FRESH)
    layout = generation.layout if generation else None
    return {
        "documents": documents,
        "cells": cells,
        "total": dict(total),
        "window_start": (layout.slot(now_ms) - layout.window) * layout.slot_ms if layout else None,
        "generation": generation.name if generation else None,
        "fresh_ms": applied_ms(fresh),
    }


def _next(names: Iterator[bytes]) -> list[bytes]:
    with redis_errors():
        return list(islice(names, SCAN_COUNT))


def _read(client: redis.Redis, keys: list[bytes], generation: Generation, at_ms: int | None) -> Iterator[CountRow]:
    if not keys:
        return
    with redis_errors():
        values: Any = client.mget(keys)
    layout = generation.layout
    # What stands before the document's name is as long in every key.
    start = len(ring_key("", generation.name))
    now_ms = at_ms if at_ms is not None else SystemClock().now_ms()
    for row, signal, slot, count in Rings.of(values, layout).cells(now_ms):
        yield CountRow(keys[row][start:].decode(), signal, slot * layout.slot_ms, count)
