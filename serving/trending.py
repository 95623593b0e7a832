"""The documents that are being used most right now, recent use weighing more.

Workers add `weight * 2 ** (hours since the era began / half_life)` for each interaction, so that nothing has to be
aged: a reader divides what it finds by what an interaction of weight 1 would add now.
"""

from dataclasses import asdict, dataclass
from heapq import nlargest
from typing import Any

from clickwell.clock import MS_PER_HOUR, Clock, SystemClock
from clickwell.redis_client import active_generation, connect, redis_errors
from clickwell.schemas.keys import SHARDS, trending_key
from clickwell.settings import Settings


@dataclass(frozen=True, slots=True)
class Trending:
    """One trending document: its place from 1, and the weight that its interactions have now."""

    rank: int
    feature_id: str
    weight: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def top(settings: Settings, k: int = 10, *, clock: Clock | None = None) -> list[Trending]:
    """Return the `k` trending documents, heaviest first; fewer when fewer were used, none before the first event.

    Raises:
        RedisError: Redis is away or not readable.
    """
    if k < 1:
        return []
    now_hour = (clock or SystemClock()).now_ms() // MS_PER_HOUR
    with connect(settings) as client:
        generation = active_generation(client)
        if generation is None:
            return []
        era = generation.era(now_hour)
        pipeline = client.pipeline(transaction=False)
        for shard in range(SHARDS):
            for each in (era, era - 1):
                pipeline.zrevrange(trending_key(shard, generation.name, each), 0, k - 1, withscores=True)
        with redis_errors():
            replies = pipeline.execute()
    found: list[tuple[float, str]] = []
    for this, before in zip(replies[::2], replies[1::2], strict=True):
        # The first write of a new era carries the shard's old one over, so a shard has one or the other to say.
        growth = generation.growth(era if this else era - 1, now_hour)
        found += [(score / growth, member.decode(errors="replace")) for member, score in this or before]
    best = nlargest(k, found, key=lambda item: (item[0], item[1]))
    return [Trending(rank, feature_id, weight) for rank, (weight, feature_id) in enumerate(best, 1)]
