"""What a worker knows of one partition that it was assigned."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from clickwell.schemas.erased import Erased
from clickwell.schemas.keys import ledger_field
from clickwell.schemas.marks import Keys

TP = tuple[str, int]

# Larger than any offset: a partition at this position accepts nothing.
NOWHERE = 1 << 62
# A seek that brings no chunk within this time, or lag without progress, is tried again: the chunk that would have shown
# the gap may be the last one of the log.
IMPATIENCE = 5.0


@dataclass
class Part:
    """One assigned partition.

    Attributes:
        generation: name of the counters that are written.
        topic_id: id of the topic whose records are counted; empty before the first reload.
        done: for each lane the next offset of each shard, as far as this worker knows.
        position: next offset to accept.
        epoch: counts rewinds; work begun in an earlier epoch is thrown away.
        seeking_since: when the last seek was asked for, until the first chunk after it arrives.
        applying: the one call in flight.
        all_at: when all shards were last moved, also those that the records did not touch.
        gap: the last (position, first offset) that did not fit; seen again after a seek, the log may have a hole.
        progress_at: when records were applied last, on the monotonic clock; at first when it was assigned.
        oldest_ms, received_ms: broker's times of the first and the last record of the last chunk.
        patience: seconds after which a chunk that does not come is asked for again.
        erased: whose events are left out here.
    """

    topic: str
    partition: int
    generation: str = ""
    topic_id: str = ""
    done: dict[str, list[int]] = field(default_factory=dict)
    position: int = NOWHERE
    epoch: int = 0
    seeking_since: float = 0.0
    applying: asyncio.Task[None] | None = None
    all_at: float = 0.0
    gap: tuple[int, int] | None = None
    progress_at: float = 0.0
    oldest_ms: int = 0
    received_ms: int = 0
    patience: float = IMPATIENCE
    erased: Erased = field(default_factory=lambda: Erased(lambda: Keys({})))

    @property
    def tp(self) -> TP:
        """Topic and partition."""
        return self.topic, self.partition

    @property
    def least(self) -> int:
        """Offset below which every shard of every lane has applied every record; `NOWHERE` before the first reload."""
        return min(map(min, self.done.values()), default=NOWHERE)

    def field_of(self, lane: str) -> str:
        """Return the partition's field in a lane's ledgers."""
        return ledger_field(lane, self.topic_id, self.partition)

    @staticmethod
    def lag(done: Sequence[int], end: int) -> int:
        """Return how many records a lane with these next offsets is behind the log's end."""
        return max(0, end - min(done))

    @property
    def idle(self) -> bool:
        """Nothing in flight and not on the way to another offset."""
        return self.position != NOWHERE and (self.applying is None or self.applying.done())
