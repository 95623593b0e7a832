"""What the engine asks of a lane: one way of counting, with offsets of its own beside its effects."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from clickwell.schemas.controls import Retraction
from clickwell.schemas.decode import Batch

Arg = str | bytes | int | float


class Work(Protocol):
    """What some records of one partition mean for every shard, and what of them is not counted."""

    @property
    def shards(self) -> Mapping[int, Any]:
        """The share of each shard that is touched."""
        ...

    @property
    def counted(self) -> int:
        """Events that change a counter."""
        ...

    @property
    def late(self) -> int:
        """Events that were too old for the counters when they were received: for the lake only."""
        ...

    @property
    def duplicates(self) -> int:
        """Events whose id was seen before."""
        ...


W = TypeVar("W", bound=Work)


class Lane(Protocol[W]):
    """Turns decoded records into arguments of its function in Redis. Pure: what counts is a function of the log alone.

    Attributes:
        name: stands in the ledger's fields, so it is there for ever.
        function: what Redis calls with the arguments, see `functions.lua`.
        topics: whose records it reads.
        reach_ms: how far back the log is read to build a generation, before the time in which first copies of repeated
            events may lie.
        shape: settings that its keys depend on, as JSON; a generation with another shape is not written.
    """

    name: str
    function: str
    topics: tuple[str, ...]
    reach_ms: int
    shape: Mapping[str, Any]

    def begin(self, topic: str, partition: int) -> W:
        """Return work without records of a partition."""
        ...

    def add(self, work: W, batch: Batch[Any], done: Sequence[int] | None) -> None:
        """Add rows; the batch is not kept.

        Args:
            work: begun for the topic of the rows; what it holds falls into one dedup bucket.
            batch: rows that follow those which were added before.
            done: next offset of each shard; rows below it are skipped. None when no shard is ahead.
        """
        ...

    def take_back(self, work: W, offset: int, retraction: Retraction, done: Sequence[int] | None) -> None:
        """Subtract what one event of this partition counted, which was erased later.

        Args:
            work: as for `add`.
            offset: of the retraction; shards whose next offset is greater have it.
            retraction: what the event was, without its person.
            done: as for `add`.
        """
        ...

    def finish(self, work: W) -> None:
        """Called once when all rows are added."""
        ...

    def amend(self, work: W, shard: int, known: Sequence[Any]) -> None:
        """Bring a shard's share into line with what its function answered that Redis knows."""
        ...

    def arguments(self, share: Any | None) -> list[Arg]:
        """Return the function's arguments after the offsets and the bucket; None changes the offsets only."""
        ...
