"""What tests of a system around clickwell need: a clock, events, records, cut logs, a ledger that lives in memory."""

import asyncio
import hashlib
import json
import selectors
import struct
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clickwell.failpoints import Failpoints
from clickwell.schemas.keys import SHARDS
from clickwell.stream_processors.lane import Arg
from clickwell.stream_processors.ledger import Call, Ledger, Reply, read_reply
from clickwell.stream_processors.popularity import PopularityLane


@dataclass
class FakeClock:
    """A clock that moves only when it is told to; starts in November 2025."""

    at_ms: int = 1_762_000_000_000

    def now_ms(self) -> int:
        """Return the time that was set, in epoch milliseconds."""
        return self.at_ms

    def advance(self, ms: int) -> int:
        """Move on by `ms` and return the new time."""
        self.at_ms += ms
        return self.at_ms


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: its clock jumps to the next timer, so that hours pass in an instant.

    Only for code without sockets and threads: nothing else would have the time to answer. Code that asks
    `time.monotonic()` has to be given `loop.time` instead; both begin alike.
    """

    def __init__(self) -> None:
        self._now = time.monotonic()
        super().__init__(_Jump(self))

    def time(self) -> float:
        """Return the virtual monotonic time in seconds."""
        return self._now

    def jump(self, seconds: float | None) -> None:
        """Let time pass; None means that nothing will ever happen."""
        if seconds is None:
            raise RuntimeError("everything waits for something that cannot happen")
        self._now += max(seconds, 0.0)


class _Jump(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.jump(timeout)
        return []


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """What the workers read of a Kafka record: its offset, the broker's time in epoch ms, its bytes."""

    offset: int
    timestamp: int
    value: bytes | None


def event(feature_id: str = "doc", *types: str, **fields: Any) -> bytes:
    """Return an interaction as a service would send it; a click unless types are named, `fields` as they are given."""
    return json.dumps({"feature_id": feature_id, "interaction_type": types or ("click",), **fields}).encode()


@dataclass
class LedgerState:
    """Everything that a `MemoryLedger` keeps.

    Attributes:
        offsets: (generation, shard, field) -> next offset.
        buckets: (generation, shard, field) -> newest dedup bucket.
        counts: (generation, lane, document, bit of the signal, slot) -> count.
        ids: (generation, shard, lane, dedup bucket, hash of an id).
    """

    offsets: dict[tuple[str, int, str], int] = field(default_factory=dict)
    buckets: dict[tuple[str, int, str], int] = field(default_factory=dict)
    counts: Counter[tuple[str, str, str, int, int]] = field(default_factory=Counter)
    ids: set[tuple[str, int, str, int, bytes]] = field(default_factory=set)

    def copy(self) -> "LedgerState":
        """Return a snapshot, as a server's disk holds one."""
        return LedgerState(dict(self.offsets), dict(self.buckets), Counter(self.counts), set(self.ids))


class MemoryLedger(Ledger):
    """A `Ledger` without Redis: the same comparisons and answers, the effects in dictionaries.

    Of effects it knows those of popularity; other lanes only move their offsets. Counts are kept for ever. Replace
    `state` to lose data as a server would.
    """

    def __init__(self) -> None:
        self.state = LedgerState()
        self._failpoints = Failpoints()

    async def install(self) -> None:
        """Do nothing: there is no function to load."""

    async def load(self, generation: str, field: str) -> list[int | None]:
        """Return the next offset of each shard; None where it is unknown."""
        return [self.state.offsets.get((generation, shard, field)) for shard in range(SHARDS)]

    async def open(self, generation: str, field: str, shards: Sequence[int], start: int) -> None:
        """Let the given shards begin at `start`, unless another worker was first."""
        for shard in shards:
            self.state.offsets.setdefault((generation, shard, field), start)

    async def _send(self, generation: str, calls: Sequence[Call]) -> list[Reply]:
        return [self.answer(generation, call) for call in calls]

    def answer(self, generation: str, call: Call) -> Reply:
        """Apply one call as the function in Redis does: all of it or nothing."""
        state, key = self.state, (generation, call.shard, call.field)
        stored = state.offsets.get(key)
        if stored is None:
            return read_reply(call, [b"LOST"])
        if stored != call.expected or call.next < stored:
            return read_reply(call, [b"AT", str(stored).encode()])
        packed_ids, *effects = call.arguments
        lane, ids = call.field.split("/")[0], [id_ for (id_,) in struct.iter_unpack("8s", _bytes(packed_ids))]
        place, near = (generation, call.shard, lane), range(call.bucket - 1, call.bucket + 2)
        seen = [n for n, id_ in enumerate(ids) if any((*place, bucket, id_) in state.ids for bucket in near)]
        if seen:
            return read_reply(call, [b"KNOWN", *seen])
        state.ids.update((*place, call.bucket, id_) for id_ in ids)
        if call.function == PopularityLane.function:
            self._count(generation, lane, effects)
        state.offsets[key] = call.next
        if call.bucket > state.buckets.get(key, 0):
            state.buckets[key] = call.bucket
            self._forget(generation, call.shard, lane)
        return read_reply(call, b"OK")

    def _count(self, generation: str, lane: str, effects: Sequence[Arg]) -> None:
        signals = int(effects[3])
        groups = iter(effects[4 + signals :])
        for slot in groups:
            _era, factor, documents, packed = (next(groups) for _ in range(4))
            sign = -1 if str(factor).startswith("-") else 1
            for gains in struct.iter_unpack(f"<{signals}H", _bytes(packed)):
                document = str(next(groups))
                for bit, gain in enumerate(gains):
                    if gain:
                        self.state.counts[generation, lane, document, bit, int(slot)] += sign * gain
            assert len(_bytes(packed)) == int(documents) * 2 * signals

    def _forget(self, generation: str, shard: int, lane: str) -> None:
        of_lane = [
            bucket
            for (there, at, name), bucket in self.state.buckets.items()
            if (there, at, name.split("/")[0]) == (generation, shard, lane)
        ]
        passed = min(of_lane) - 1
        self.state.ids = {id_ for id_ in self.state.ids if id_[:3] != (generation, shard, lane) or id_[3] >= passed}


def _bytes(argument: Arg) -> bytes:
    assert isinstance(argument, bytes)
    return argument


def taken_out(name: str, share: float) -> bool:
    """Tell whether a query or document is of the share that training must never see; always the same ones."""
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8], 16) / 2**32 < share


def without(search: Mapping[str, Any], documents: Collection[str]) -> dict[str, Any]:
    """Return a line of a session log as it would have been had some documents not been shown."""
    places = {name: place for place, name in enumerate(name for name in search["docs"] if name not in documents)}
    clicks = [{**click, "pos": places[click["doc"]]} for click in search["clicks"] if click["doc"] in places]
    return {**search, "docs": list(places), "clicks": clicks}
