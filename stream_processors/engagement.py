"""The engagement lane: what was shown, clicked, skipped and converted, by position, query and document.

Events become facts about searches. What Redis knows of a search already decides what more facts count, and it may come
from another partition, which another worker reads. So a call says what it takes for known, and what that makes the
tables gain; the function in Redis compares, and answers with what it knows if that is something else: see
`engagement.lua`. Pure but for the memory of what was sent, which is only a guess at what Redis knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
from xxhash import xxh3_64_digest

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.schemas.controls import Retraction
from clickwell.schemas.decode import Batch, Row
from clickwell.schemas.decode_searches import SearchRow
from clickwell.schemas.keys import SHARDS
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.settings import EngagementSettings
from clickwell.stream_processors.gains import Gains
from clickwell.stream_processors.lane import Arg
from clickwell.stream_processors.outcomes import BITS, SHOWN, SINGLE, UNKNOWN, UNSEEN, Facts, Outcomes, merge

# Searches whose facts a worker remembers: some 300 bytes each. Most interactions come within minutes of their search.
MOST_REMEMBERED = 1 << 17


@dataclass
class Share:
    """What records mean for one shard.

    Attributes:
        facts: by 8-byte id of a search.
        known: what Redis said that it knows of some of them, as it keeps it: one piece for each bucket.
        arguments: what the function is called with, once they are counted.
    """

    facts: dict[bytes, Facts] = field(default_factory=dict)
    known: dict[bytes, list[bytes]] = field(default_factory=dict)
    arguments: list[Arg] = field(default_factory=list)


@dataclass
class Work:
    """What records mean for every shard. Repeats add nothing, so none are counted."""

    topic: str
    shards: dict[int, Share] = field(default_factory=dict)
    counted: int = 0
    late: int = 0
    duplicates: int = 0


def search_id(row: Row | SearchRow, time_ms: int, offset: int) -> bytes:
    """Return the 8-byte id under which a row's search is known.

    An interaction that names no search is one of its own, known by its interaction_id or, without one, by where it
    stands in the log.
    """
    if row.execution_id is not None:
        return xxh3_64_digest(row.execution_id.encode())
    assert isinstance(row, Row)
    if row.interaction_id is not None:
        return xxh3_64_digest(row.interaction_id.encode(), 1)
    return xxh3_64_digest(f"{row.feature_id}\0{time_ms}\0{offset}".encode(), 2)


def shard_of(id_: bytes) -> int:
    """Return the shard of a search: its id modulo 64."""
    return id_[7] % SHARDS


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
        self._outcomes = Outcomes(settings)
        self._remembered: dict[bytes, bytes] = {}
        self._pack = msgspec.msgpack.Encoder().encode
        self._unpack = msgspec.msgpack.Decoder(list[Any]).decode
        self._shape: list[Arg] = [
            dedup_ms,
            max(1, settings.join_hours * MS_PER_HOUR // dedup_ms),
            settings.hourly_days,
            settings.daily_days,
            settings.table_rows,
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
        """Count all shards at once."""
        self._count(work.shards)

    def amend(self, work: Work, shard: int, known: Sequence[Any]) -> None:
        """Count again in the light of what Redis knows: pairs of a search's index and pieces of facts."""
        share = work.shards[shard]
        ids = list(share.facts)
        share.known |= {ids[index]: pieces for index, *pieces in known}
        self._count({shard: share})

    def arguments(self, share: Share | None) -> list[Arg]:
        """Return the function's arguments after the offsets and the bucket; None changes the offsets only."""
        return [b"", *self._shape, *(share.arguments if share else ())]

    def _count(self, shares: Mapping[int, Share]) -> None:
        """Set the arguments of some shares."""
        gains, remembered = Gains(), self._remembered
        for shard, share in shares.items():
            known = {id_: [remembered[id_]] for id_ in remembered.keys() & share.facts.keys()} | share.known
            stored = dict(zip(share.facts, map(self._pack, share.facts.values()), strict=True))
            expected = self._merge_known(gains, shard, share, known, stored) if known else []
            fresh = (
                [facts for id_, facts in share.facts.items() if not known.get(id_)] if known else share.facts.values()
            )
            singles = [facts for facts in fresh if len(facts) == SINGLE]
            if singles:
                gains.add_singles(shard, singles, self._outcomes.of_singles(singles))
            if len(singles) < len(fresh):
                for facts in fresh:
                    if len(facts) != SINGLE:
                        gains.add(shard, facts, self._outcomes.of(facts))
            if len(remembered) > MOST_REMEMBERED:
                remembered.clear()
            remembered.update(stored)
            searches = chain.from_iterable(stored.items())
            share.arguments = [len(expected) // 2, *expected, len(stored), *searches]
        for shard, tables in gains.tables().items():
            shares[shard].arguments += tables

    def _merge_known(
        self, gains: Gains, shard: int, share: Share, known: Mapping[bytes, list[bytes]], stored: dict[bytes, bytes]
    ) -> list[Arg]:
        """Count those searches of which something is known; set what is to be stored, return what is expected."""
        of, expected = self._outcomes.of, list[Arg]()
        for index, (id_, facts) in enumerate(share.facts.items()):
            if not (pieces := known.get(id_)):
                continue
            expected += (index, b"".join(pieces))
            before, *others = map(self._unpack, pieces)
            whole = merge(before, facts)
            for other in others:
                whole = merge(whole, other)
                gains.add(shard, other, [UNSEEN] * (len(other) // 3 - 1), of(other))
            if before[:4] == whole[:4]:
                # Mostly few results differ.
                gains.add(shard, whole, of(whole), of(before))
            else:
                gains.add(shard, before, [UNSEEN] * (len(before) // 3 - 1), of(before))
                gains.add(shard, whole, of(whole))
            stored[id_] = self._pack(whole)
        return expected

    def _add_interactions(self, work: Work, batch: Batch[Row], done: Sequence[int] | None) -> None:
        shards, known, digest = work.shards, self._bits, xxh3_64_digest
        some_late = min(batch.times) < self._oldest_ms(max(batch.received))
        counted = 0
        for row, time_ms, received_ms, offset in zip(
            batch.rows, batch.times, batch.received, batch.offsets, strict=True
        ):
            bits = known.get(row.interaction_type)
            if bits is None:
                bits = self._learn(row.interaction_type)
            if not bits:
                continue
            search = row.execution_id
            id_ = search_id(row, time_ms, offset) if search is None else digest(search.encode())
            shard = id_[7] % SHARDS
            if done is not None and offset < done[shard]:
                continue
            if some_late and time_ms < self._oldest_ms(received_ms):
                work.late += 1
                continue
            counted += 1
            details, position = row.metadata, row.position
            query = details.query if details is not None else None
            place = UNKNOWN if position is None else position
            facts = [1, time_ms, row.retriever_id or "", query or "", place, row.feature_id, bits]
            share = shards.get(shard)
            if share is None:
                share = shards[shard] = Share()
            before = share.facts.get(id_)
            share.facts[id_] = facts if before is None else merge(before, facts)
        work.counted += counted

    def _add_searches(self, work: Work, batch: Batch[SearchRow], done: Sequence[int] | None) -> None:
        for row, time_ms, received_ms, offset in zip(
            batch.rows, batch.times, batch.received, batch.offsets, strict=True
        ):
            id_ = search_id(row, time_ms, offset)
            shard = shard_of(id_)
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
