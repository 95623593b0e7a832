"""Moves the windows of past hours into those of their days, so that they take a tenth of the memory."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from clickwell.clock import MS_PER_DAY
from clickwell.schemas.keys import SHARDS, shard_prefix

# Tables moved at once; Redis answers readers between two calls.
_AT_ONCE = 4


async def fold(client: "Redis", generation: str, shape: Mapping[str, Any], now_ms: int) -> int:
    """Move all hours that readers no longer ask for, in every shard; return how many tables were moved. Safe to repeat.

    Each table moves in one atomic step between two tables that readers sum, so counts stay the same at any moment, and
    hours that come later are moved the next time.

    Args:
        client: of a server with the function library.
        generation: its name.
        shape: of the engagement lane in the generation.
        now_ms: epoch ms.
    """
    recent = now_ms // MS_PER_DAY - shape["hourly_days"]
    arguments = recent, shape["daily_days"], shape["table_rows"], _AT_ONCE
    moved = 0
    for shard in range(SHARDS):
        while found := await client.fcall("clickwell1_fold", 1, shard_prefix(shard, generation), *arguments):
            moved += found
    return moved
