"""The engagement lane: what was shown, clicked, skipped and converted, by position, query and document.

Events become facts about searches. What Redis knows of a search already decides what more facts count, and it may come
from another partition, which another worker reads. So a call says what it takes for known, and what that makes the
tables gain; the function in Redis compares, and answers with what it knows if that is something else: see
`engagement.lua`. Pure but for the memory of what was sent, which is only a guess at what Redis knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.schemas.controls import Joined, Retraction
from clickwell.schemas.decode import Batch, Row
from clickwell.schemas.decode_searches import SearchRow
from clickwell.schemas.keys import SHARDS
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.settings import EngagementSettings
from clickwell.stream_processors.lane import Arg
from clickwell.stream_processors.outcomes import BITS, SHOWN, UNKNOWN, Facts, Gains, merge, packed, without

# Searches whose facts a worker remembers: some 300 bytes each. Most interactions come within minutes of their search.
MOST_REMEMBERED = 1 << 17


@dataclass
class Share:
    """What records mean for one shard.

    Attributes:
        facts: by 8-byte id of a search.
        retracted: by the same, what is taken back of a search.
        known: what Redis knows of each of them, as far as is known here, as it keeps it: one piece for each bucket.
    """

    facts: dict[int, Facts] = field(default_factory=dict)
    retracted: dict[int, list[Joined]] = field(default_factory=dict)
    known: dict[int, list[bytes]] = field(default_factory=dict)

    @property
    def told(self) -> dict[int, Facts]:
        """The facts of searches of which nothing is taken back."""
        if not self.retracted:
            return self.facts
        return {id_: facts for id_, facts in self.facts.items() if id_ not in self.retracted}


@dataclass
class Work:
    """What records mean for every shard. Repeats add nothing, so none are counted."""

    topic: str
    partition: int
    shards: dict[int, Share] = field(default_factory=dict)
    counted: int = 0
    late: int = 0
    duplicates: int = 0


def search_id(execution_id: str | None, interaction_id: str | None, partition: int, offset: int) -> int:
    """Return the 64-bit id under which an event's search is known; its shard is the id modulo 64.

    An interaction that names no search is one of its own, known by its interaction_id or, without one, by where it
    stands in the log.
    """
    if execution_id is not None:
        return xxh3_64_intdigest(execution_id.encode())
    if interaction_id is not None:
        return xxh3_64_intdigest(interaction_id.encode(), 1)
    return xxh3_64_intdigest(f"{partition}/{offset}".encode(), 2)


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
        self._gains = Gains(settings)
        self._remembered: dict[int, bytes] = {}
        self._pack = msgspec.msgpack.Encoder().encode
        self._unpack = msgspec.msgpack.Decoder(list[Any]).decode
        self._shape: list[Arg] = [
            dedup_ms,
            max(1, settings.join_hours * MS_PER_HOUR // dedup_ms),
            settings.hourly_days,
            settings.daily_days,
            settings.table_rows,
        ]

    def begin(self, topic: str, partition: int) -> Work:
        """Return work without records of a partition."""
        return Work(topic, partition)

    def add(self, work: Work, batch: Batch[Any], done: Sequence[int] | None) -> None:
        """Add the facts that rows tell."""
        if work.topic == SEARCHES.name:
            self._add_searches(work, batch, done)
        else:
            self._add_interactions(work, batch, done)

    def take_back(self, work: Work, offset: int, retraction: Retraction, done: Sequence[int] | None) -> None:
        """Subtract what an event said of its search; one that says nothing of results counted nothing."""
        joined = retraction.joined
        if joined is None or (done is not None and offset < done[joined.search % SHARDS]):
            return
        share = work.shards.setdefault(joined.search % SHARDS, Share())
        share.retracted.setdefault(joined.search, []).append(joined)

    def finish(self, work: Work) -> None:
        """Nothing is left to do."""

    def amend(self, work: Work, shard: int, known: Sequence[Any]) -> None:
        """Take what Redis knows of some searches for what is known: pairs of a search's index and pieces of facts."""
        share = work.shards[shard]
        ids = [*share.told, *share.retracted]
        share.known |= {ids[index]: pieces for index, *pieces in known}

    def arguments(self, share: Share | None) -> list[Arg]:
        """Return the function's arguments after the offsets and the bucket; None changes the offsets only."""
        if share is None:
            return [b"", *self._shape]
        retractions = self._take_back(share)
        expected, searches = self._count(share)
        args = [b"", *self._shape, len(share.retracted), *retractions]
        args += (len(expected) // 2, *expected, len(searches) // 2, *searches)
        for hour, tables in self._gains.take().items():
            for by, rows in tables.items():
                args += (by, hour, len(rows), packed(by, rows.values()), *rows)
        return args

    def _count(self, share: Share) -> tuple[list[Arg], list[Arg]]:
        """Count a share; return what is taken for known, and what is to be known of each search."""
        remembered, gains, pack = self._remembered, self._gains, self._pack
        if len(remembered) > MOST_REMEMBERED:
            remembered.clear()
        expected: list[Arg] = []
        searches: list[Arg] = []
        for index, (id_, facts) in enumerate(share.told.items()):
            known = share.known.get(id_)
            if known is None:
                # Kept for the next try: what is remembered from here on is this one's outcome.
                guess = remembered.get(id_)
                known = share.known[id_] = [] if guess is None else [guess]
            if known:
                expected += (index, b"".join(known))
                before, *others = map(self._unpack, known)
                whole = merge(before, facts)
                for other in others:
                    gains.take_back(other)
                    whole = merge(whole, other)
                gains.change(before, whole)
                stored = pack(whole)
            else:
                gains.add(facts)
                stored = pack(facts)
            remembered[id_] = stored
            searches += (id_.to_bytes(8, "little"), stored)
        return expected, searches

    def _take_back(self, share: Share) -> list[Arg]:
        """Count searches without what is taken back; return what the function has to know of each."""
        gains = self._gains
        args: list[Arg] = []
        dedup_ms, ratio = int(self._shape[0]), int(self._shape[1])
        for id_, several in share.retracted.items():
            pieces = share.known.get(id_, [])
            # What came with the retractions is added first.
            whole = share.facts.get(id_, [])
            for piece in map(self._unpack, pieces):
                gains.take_back(piece)
                whole = merge(piece, whole) if whole else piece
            if whole:
                for joined in several:
                    whole = without(whole, joined.own, joined.left)
                if whole:
                    gains.add(whole)
            else:
                # Nobody remembers the search: what it counted is what the lake says that it was told.
                for joined in several:
                    if joined.told:
                        gains.take_back(joined.told)
                        if joined.left:
                            gains.add(joined.left)
            self._remembered.pop(id_, None)
            first = min(joined.first_ms for joined in several) // dedup_ms // ratio - 1
            last = max(joined.last_ms for joined in several) // dedup_ms // ratio + 1
            args += (id_.to_bytes(8, "little"), first, last, int(id_ in share.facts), b"".join(pieces))
            args.append(self._pack(whole) if whole else b"")
        return args

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
            id_ = search_id(row.execution_id, row.interaction_id, work.partition, batch.offsets[i])
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
                share = shards[shard] = Share()
            before = share.facts.get(id_)
            share.facts[id_] = facts if before is None else merge(before, facts)

    def _add_searches(self, work: Work, batch: Batch[SearchRow], done: Sequence[int] | None) -> None:
        for row, time_ms, received_ms, offset in zip(
            batch.rows, batch.times, batch.received, batch.offsets, strict=True
        ):
            id_ = search_id(row.execution_id, None, work.partition, offset)
            shard = id_ % SHARDS
            if done is not None and offset < done[shard]:
                continue
            if time_ms < self._oldest_ms(received_ms):
                work.late += 1
                continue
            work.counted += 1
            facts: Facts = [0, time_ms, row.retriever_id or "", row.query, *[SHOWN] * (3 * len(row.results))]
            facts[4::3] = range(len(row.results))
            facts[5::3] = row.results
            told = work.shards.setdefault(shard, Share()).facts
            told[id_] = merge(told[id_], facts) if id_ in told else facts

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
