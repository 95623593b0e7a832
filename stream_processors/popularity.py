"""The popularity lane: one batch of interactions to what each shard's counters must gain. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from clickwell.clock import MS_PER_HOUR
from clickwell.schemas.controls import Retraction
from clickwell.schemas.decode import Batch, Row
from clickwell.schemas.interactions import signals_of
from clickwell.schemas.keys import SHARDS, HashMap
from clickwell.schemas.rings import ERA_HALF_LIVES, Layout
from clickwell.schemas.topics import INTERACTIONS
from clickwell.settings import PopularitySettings
from clickwell.stream_processors.lane import Arg
from clickwell.stream_processors.meanings import Meanings


@dataclass
class ShardWork:
    """What one shard must gain from a batch.

    Attributes:
        ids: 8-byte hashes of (interaction_id, document) behind the counts, in log order. The document is part of it so
            that a service which reuses one id for several documents loses none of them.
        origins: hour, document and packed counts of the event behind each id.
        counts: event hour -> document -> signal counts packed 16 bits each.
        retracted: the same for events that are taken back.
    """

    ids: list[bytes] = field(default_factory=list)
    origins: list[tuple[int, str, int]] = field(default_factory=list)
    counts: dict[int, dict[str, int]] = field(default_factory=dict)
    retracted: dict[int, dict[str, int]] = field(default_factory=dict)


@dataclass
class Work:
    """What batches mean for every shard, and what of them is not counted.

    Attributes:
        shards: work of the shards that are touched.
        late: events older than the window at the time of receipt: for the lake only.
        duplicates: events whose id was seen before.
        counted: events that change a counter.
    """

    shards: dict[int, ShardWork] = field(default_factory=dict)
    late: int = 0
    duplicates: int = 0
    counted: int = 0


class PopularityLane:
    """Turns batches into arguments of the `clickwell1_popularity` function.

    Which rows count is a function of the log alone: slots come from event times, lateness from the broker's times,
    and of two rows with one interaction_id within the dedup window the first in the log counts.
    """

    name = "popularity"
    function = "clickwell1_popularity"
    topics: tuple[str, ...] = (INTERACTIONS.name,)
    # Readers need the layout, so it stands in the generation itself.
    shape: Mapping[str, Any] = {}

    def __init__(self, settings: PopularitySettings) -> None:
        self._settings = settings
        self.layout = Layout.of(settings)
        self.reach_ms = (self.layout.window + 1) * self.layout.slot_ms
        self._era_hours = ERA_HALF_LIVES * settings.trending_half_life_hours
        self._packed_bytes = 2 * len(settings.signals)
        self._hashes = HashMap()
        self._gains = Meanings(self._pack, settings.long_view_ms)
        weights = [settings.trending_weights.get(signal, 0.0) for signal in settings.signals]
        self._shape: list[Arg] = [
            self.layout.cells,
            self.layout.slot_ms,
            self.layout.window + 1,
            len(settings.signals),
            *map(repr, weights),
        ]

    def begin(self, topic: str, partition: int) -> Work:  # noqa: ARG002  # it reads one topic only, and knows events by their ids
        """Return work without records."""
        return Work()

    def finish(self, work: Work) -> None:
        """Of events with one id keep the first."""
        for shard, share in work.shards.items():
            if len(set(share.ids)) < len(share.ids):
                self.amend(work, shard, _repeats(share.ids))

    def add(self, work: Work, batch: Batch[Row], done: Sequence[int] | None) -> None:
        """Group rows by shard."""
        documents = [row.feature_id for row in batch.rows]
        hashes = self._hashes.of({*documents})
        shares, digest, counted = work.shards, xxhash.xxh3_64_digest, 0
        # The oldest time that still counts follows the time of receipt; a look at the extremes spares it for each row.
        some_late = min(batch.times) < self._oldest_ms(max(batch.received))
        columns = batch.rows, documents, self._gains.of(batch.rows), batch.times, batch.received, batch.offsets
        for row, document, packed, time_ms, received_ms, offset in zip(*columns, strict=True):
            if not packed:
                continue
            hashed = hashes[document]
            shard = hashed % SHARDS
            if done is not None and offset < done[shard]:
                continue
            if some_late and time_ms < self._oldest_ms(received_ms):
                work.late += 1
                continue
            share = shares.get(shard)
            if share is None:
                share = shares[shard] = ShardWork()
            hour = time_ms // MS_PER_HOUR
            if row.interaction_id is not None:
                share.ids.append(digest(row.interaction_id.encode(), hashed))
                share.origins.append((hour, document, packed))
            counts = share.counts.get(hour)
            if counts is None:
                counts = share.counts[hour] = {}
            counts[document] = counts.get(document, 0) + packed
            counted += 1
        work.counted += counted

    def take_back(self, work: Work, offset: int, retraction: Retraction, done: Sequence[int] | None) -> None:
        """Subtract what an event counted; one that was late, or has no counter, counted nothing."""
        document = retraction.feature_id
        shard = self._hashes.of([document])[document] % SHARDS
        types, long_view_ms = retraction.interaction_type, self._settings.long_view_ms
        packed = self._pack(signals_of(types, retraction.duration_ms, long_view_ms=long_view_ms))
        late = retraction.timestamp < self._oldest_ms(retraction.received_ms)
        if not packed or late or (done is not None and offset < done[shard]):
            return
        counts = work.shards.setdefault(shard, ShardWork()).retracted.setdefault(
            retraction.timestamp // MS_PER_HOUR, {}
        )
        counts[document] = counts.get(document, 0) + packed

    def amend(self, work: Work, shard: int, known: Sequence[int]) -> None:
        """Take the events behind the ids at these indices out of a shard's share: they were counted before."""
        share = work.shards[shard]
        for index in known:
            hour, document, packed = share.origins[index]
            counts = share.counts[hour]
            counts[document] -= packed
            if not counts[document]:
                del counts[document]
            if not counts:
                del share.counts[hour]
        gone = set(known)
        share.ids = [id_ for index, id_ in enumerate(share.ids) if index not in gone]
        share.origins = [origin for index, origin in enumerate(share.origins) if index not in gone]
        work.duplicates += len(gone)
        work.counted -= len(gone)

    def arguments(self, share: ShardWork | None) -> list[Arg]:
        """Return the function's arguments after the offsets and the bucket; None changes the offsets only."""
        if share is None:
            return [b"", *self._shape]
        args: list[Arg] = [b"".join(share.ids), *self._shape]
        size = self._packed_bytes
        # A negative factor makes the function subtract; what a chunk adds and takes back is added first.
        groups = [(1, *group) for group in share.counts.items()] + [(-1, *group) for group in share.retracted.items()]
        for sign, hour, counts in groups:
            era, within = divmod(hour, self._era_hours)
            factor = sign * 2.0 ** (within / self._settings.trending_half_life_hours)
            packed = b"".join([count.to_bytes(size, "little") for count in counts.values()])
            args += (hour * MS_PER_HOUR // self.layout.slot_ms, era, repr(factor), len(counts), packed, *counts)
        return args

    def _oldest_ms(self, received_ms: int) -> int:
        return (self.layout.slot(received_ms) - self.layout.window) * self.layout.slot_ms

    def _pack(self, signals: Collection[str]) -> int:
        """Return what these signals count: one u16 for each that has a ring, packed into one integer."""
        return sum(1 << 16 * bit for bit, signal in enumerate(self._settings.signals) if signal in signals)


def _repeats(ids: Sequence[bytes]) -> list[int]:
    seen: set[bytes] = set()
    repeats = []
    for index, id_ in enumerate(ids):
        if id_ in seen:
            repeats.append(index)
        seen.add(id_)
    return repeats
