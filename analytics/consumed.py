"""Histories of users from the lake: what Kafka no longer has when Redis has lost them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import duckdb

from clickwell.analytics import lake
from clickwell.clock import Clock, SystemClock
from clickwell.redis_client import connect, redis_errors
from clickwell.schemas.interactions import RETURN_TO_RESULTS_MS
from clickwell.schemas.keys import history_key
from clickwell.settings import Settings
from clickwell.stream_processors.history import limits_of
from clickwell.stream_processors.ledger import library

# Users whose histories go to Redis with one pipeline.
_BATCH = 1000
_ROWS = 50_000

_NEWEST = f"""
select user_id, signal, feature_id, max(epoch_ms(timestamp)) as at
from (
  select user_id, feature_id, timestamp, unnest({lake.SIGNALS}) as signal
  from interactions where user_id is not null and epoch_ms(timestamp) >= $since_ms
)
where list_contains($signals, signal) group by all order by user_id, signal
"""  # noqa: S608  # a constant


def fill(
    settings: Settings, *, clock: Clock | None = None, advance: Callable[[int], object] = lambda _: None
) -> dict[str, int]:
    """Add what the lake knows to the histories in Redis; workers may run meanwhile, and it may be repeated.

    Args:
        settings: where the lake and Redis are, and what is kept.
        clock: tells since when.
        advance: told of every entry that was looked at.

    Returns:
        How many `histories` (of a user and signal) and `entries` were offered to Redis, which keeps the newest.

    Raises:
        LakeError: there is no lake, or its storage does not answer.
        RedisError: Redis is away.
    """
    now_ms = (clock or SystemClock()).now_ms()
    since = datetime.fromtimestamp(now_ms / 1000, UTC) - timedelta(days=settings.history.days)
    offered = {"histories": 0, "entries": 0}
    with (
        lake.connect(settings, since=since.date()) as connection,
        connect(settings) as client,
        redis_errors(),
    ):
        client.function_load(library(), replace=True)
        found = connection.execute(
            _NEWEST,
            {
                "since_ms": round(since.timestamp() * 1000),
                "long_view_ms": settings.popularity.long_view_ms,
                "return_ms": RETURN_TO_RESULTS_MS,
                "signals": list(settings.history.signals),
            },
        )
        limits = limits_of(settings.history)
        pipeline = client.pipeline(transaction=False)
        for (user, signal), entries in groupby(_rows(found), lambda row: row[:2]):
            words = [word for _, _, document, at in entries for word in (at, document)]
            pipeline.fcall("clickwell1_history_fill", 1, history_key(user, signal), *limits, *words)
            offered["histories"] += 1
            offered["entries"] += len(words) // 2
            advance(len(words) // 2)
            if len(pipeline) >= _BATCH:
                pipeline.execute()
        pipeline.execute()
    return offered


def _rows(found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := found.fetchmany(_ROWS):
        yield from rows
