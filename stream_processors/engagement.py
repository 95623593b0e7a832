"""The engagement lane: what was shown, clicked, skipped and converted, by position, query and document. Pure.

Here events become facts about searches; the function in Redis merges the facts of a search, whenever and in whatever
order its events come, and counts what they say: see `engagement.lua`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.schemas.controls import Retraction
from clickwell.schemas.decode import Batch, Row
from clickwell.schemas.decode_searches import SearchRow
from clickwell.schemas.interactions import SIGNALS, Strength
from clickwell.schemas.keys import SHARDS
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.settings import EngagementSettings
from clickwell.stream_processors.lane import Arg

# What is known of one result of a search.
SHOWN, IMPRESSION, CLICK, SKIP, CONVERSION = 1, 2, 4, 8, 16
UNKNOWN = -1
_OF_STRENGTH = {Strength.EXPOSURE: IMPRESSION, Strength.CONVERSION: CONVERSION}
BITS = {name: _OF_STRENGTH[strength] for name, strength in SIGNALS.items() if strength in _OF_STRENGTH}
BITS |= {"click": CLICK, "skip": SKIP}

Facts = list[Any]
"""What some events say about one search, as the function takes it: rank (0 of the search's own event, 1 of an
interaction), epoch ms, retriever, query, then position, document and bits of each result. The least of the first four
is what counts, and the OR of the bits."""


@dataclass
class Work:
    """What records mean for every shard: facts by 8-byte id of a search. Repeats add nothing, so none are counted."""

    topic: str
    shards: dict[int, dict[int, Facts]] = field(default_factory=dict)
    counted: int = 0
    late: int = 0
    duplicates: int = 0


def search_id(row: Row | SearchRow, time_ms: int, offset: int) -> int:
    """Return the 64-bit id under which a row's search is known; its shard is the id modulo 64.

    An interaction that names no search is one of its own, known by its interaction_id or, without one, by where it
    stands in the log.
    """
    if row.execution_id is not None:
        return xxh3_64_intdigest(row.execution_id.encode())
    assert isinstance(row, Row)
    if row.interaction_id is not None:
        return xxh3_64_intdigest(row.interaction_id.encode(), 1)
    return xxh3_64_intdigest(f"{row.feature_id}\0{time_ms}\0{offset}".encode(), 2)


def merge(facts: Facts, more: Facts) -> Facts:
    """Return what both say of one search."""
    bits: dict[tuple[int, str], int] = {}
    for each in (facts, more):
        for n in range(4, len(each), 3):
            place = each[n], each[n + 1]
            bits[place] = bits.get(place, 0) | each[n + 2]
    return [*min(facts[:4], more[:4]), *(word for place, each in bits.items() for word in (*place, each))]


class EngagementLane:
    """Turns batches into arguments of the `clickwell1_engagement` function."""

    name = "engagement"
    function = "clickwell1_engagement"
    topics: tuple[str, ...] = (INTERACTIONS.name, SEARCHES.name)

    def __init__(self, settings: EngagementSettings, dedup_ms: int) -> None:
        self.shape: Mapping[str, Any] = settings.model_dump(mode="json")
        self._days = settings.daily_days
        # All of what hourly windows show; of older days Kafka may have a part only, and the lake has all.
        self.reach_ms = (settings.hourly_days + 1) * MS_PER_DAY
        self._bits: dict[tuple[str, ...], int] = {}
        self._pack = msgspec.msgpack.Encoder().encode
        self._shape: list[Arg] = [
            dedup_ms,
            max(1, settings.join_hours * MS_PER_HOUR // dedup_ms),
            settings.hourly_days,
            settings.daily_days,
            settings.table_rows,
            settings.exposure,
            self._pack(settings.exposure_by_retriever),
        ]

    def begin(self, topic: str) -> Work:
        """Return work without records."""
        return Work(topic)

    def add(self, work: Work, batch: Batch[Any], done: Sequence[int] | None) -> None:
        """Add the facts that rows tell."""
        if work.topic == SEARCHES.name:
            self._add_searches(work, batch, done)
        else:
            self._add_interactions(work, batch, done)

    def take_back(self, work: Work, offset: int, retraction: Retraction, done: Sequence[int] | None) -> None:
        """Nothing: facts of several events are one, and name nobody; a rebuild counts them anew."""

    def finish(self, work: Work) -> None:
        """Nothing is left to do."""

    def drop(self, work: Work, shard: int, repeated: Sequence[int]) -> None:
        """Never called: this lane has no ids that could repeat."""
        raise NotImplementedError

    def arguments(self, share: dict[int, Facts] | None) -> list[Arg]:
        """Return the function's arguments after the offsets and the bucket; None changes the offsets only."""
        if not share:
            return [b"", *self._shape]
        ids = b"".join([id_.to_bytes(8, "little") for id_ in share])
        return [b"", *self._shape, ids, *map(self._pack, share.values())]

    def _add_interactions(self, work: Work, batch: Batch[Row], done: Sequence[int] | None) -> None:
        shards, known = work.shards, self._bits
        some_late = min(batch.times) < self._oldest_ms(max(batch.received))
        for i, row in enumerate(batch.rows):
            bits = known.get(row.interaction_type)
            if bits is None:
                bits = self._learn(row.interaction_type)
            if not bits:
                continue
            time_ms = batch.times[i]
            id_ = search_id(row, time_ms, batch.offsets[i])
            shard = id_ % SHARDS
            if done is not None and batch.offsets[i] < done[shard]:
                continue
            if some_late and time_ms < self._oldest_ms(batch.received[i]):
                work.late += 1
                continue
            work.counted += 1
            details = row.metadata
            query = details.query if details is not None else None
            position = UNKNOWN if row.position is None else row.position
            facts = [1, time_ms, row.retriever_id or "", query or "", position, row.feature_id, bits]
            share = shards.get(shard)
            if share is None:
                share = shards[shard] = {}
            before = share.get(id_)
            share[id_] = facts if before is None else merge(before, facts)

    def _add_searches(self, work: Work, batch: Batch[SearchRow], done: Sequence[int] | None) -> None:
        for row, time_ms, received_ms, offset in zip(
            batch.rows, batch.times, batch.received, batch.offsets, strict=True
        ):
            id_ = search_id(row, time_ms, offset)
            shard = id_ % SHARDS
            if done is not None and offset < done[shard]:
                continue
            if time_ms < self._oldest_ms(received_ms):
                work.late += 1
                continue
            work.counted += 1
            facts: Facts = [0, time_ms, row.retriever_id or "", row.query]
            for position, document in enumerate(row.results):
                facts += (position, document, SHOWN)
            share = work.shards.setdefault(shard, {})
            share[id_] = merge(share[id_], facts) if id_ in share else facts

    def _oldest_ms(self, received_ms: int) -> int:
        """Return the start of the first day that counts for events of this receipt."""
        return (received_ms // MS_PER_DAY - self._days) * MS_PER_DAY

    def _learn(self, types: tuple[str, ...]) -> int:
        bits = 0
        for name in types:
            bits |= BITS.get(name, 0)
        # Names are free, so an attacker could fill memory with combinations; forgetting all of them is cheap.
        if len(self._bits) > 10_000:
            self._bits.clear()
        self._bits[types] = bits
        return bits
