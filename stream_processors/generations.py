"""Which set of counters is written and which is read, and how a new set takes over from an old one.

Readers follow `{cw1}:active`. When Redis holds nothing, or on request, a new generation is built from the log beside
whatever readers see, and the pointer moves once it has caught up: readers get the old counts or the new, never a half.
While a generation is being built the one before it stands still.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from clickwell.errors import LayoutError
from clickwell.failpoints import Failpoints
from clickwell.schemas.keys import ACTIVE, BUILDING, DISCARD, SHARDS, ledger_key
from clickwell.schemas.rings import Generation, Layout
from clickwell.settings import PopularitySettings
from clickwell.stream_processors.lane import Lane

log = logging.getLogger(__name__)


def new_generation(
    settings: PopularitySettings, lanes: Mapping[str, Mapping[str, Any]], targets: Mapping[str, int], erasures: int = 0
) -> Generation:
    """Return a generation that begins now and is complete when every ledger field has reached its target offset.

    Args:
        settings: what shapes it.
        lanes: name -> shape.
        targets: ledger field -> offset.
        erasures: end of the erasures topic's steps, all of which are known to those who will count.
    """
    now_ms = time.time_ns() // 1_000_000
    return Generation(
        # Seconds in base 36: short, because it stands in every key, and never used before.
        name=_base36(now_ms // 1000),
        layout=Layout.of(settings),
        half_life_hours=settings.trending_half_life_hours,
        weights=settings.trending_weights,
        lanes={name: dict(shape) for name, shape in lanes.items()},
        started_ms=now_ms,
        targets=dict(targets),
        erasures=erasures,
    )


def log_start_ms(generation: Generation, lane: Lane[Any], dedup_ms: int) -> int:
    """Return the broker's time from which a lane must read the log to build a generation.

    That is its reach, and before it the time in which a first copy of a repeated event may lie.
    """
    return generation.started_ms - lane.reach_ms - 2 * dedup_ms


class Generations:
    """Reads and moves the pointers.

    Args:
        client: of the counters' server.
        settings: what a new generation is shaped by.
        lanes: those of this process.
        failpoints: for fault tests.

    Attributes:
        finished: generations that this process has shown to readers.
    """

    def __init__(
        self, client: "Redis", settings: PopularitySettings, lanes: Sequence[Lane[Any]], failpoints: Failpoints
    ) -> None:
        self._client = client
        self._settings = settings
        self._shapes = {lane.name: dict(lane.shape) for lane in lanes}
        self._failpoints = failpoints
        self.finished = 0

    async def target(self) -> tuple[Generation | None, bool]:
        """Return the generation that workers write, and whether it is still being built.

        None when there is none, or none that has every lane of this process: then one has to be begun.

        Raises:
            LayoutError: its counters have another shape than the settings ask for.
        """
        building, active = await self._client.mget(BUILDING, ACTIVE)
        pointer = building or active
        if pointer is None:
            return None, False
        generation = Generation.model_validate_json(pointer)
        if self._shapes.keys() - generation.lanes.keys():
            return None, False
        self._check("popularity", *map(_popularity, (generation, new_generation(self._settings, {}, {}))))
        for lane, shape in self._shapes.items():
            self._check(lane, generation.lanes[lane], shape)
        return generation, bool(building)

    @staticmethod
    def _check(lane: str, there: object, here: object) -> None:
        if there != here:
            raise LayoutError(
                f"the counters in Redis were built with other {lane} settings than this worker's",
                why=f"there: {there}; here: {here}",
                fix="set the old values again, or run `clickwell rebuild` with the new ones and restart all workers",
            )

    async def begin(self, targets: Mapping[str, int], erasures: int = 0) -> Generation:
        """Begin a new generation, or join the one that another worker has begun meanwhile.

        One that is being built without a lane of this process is given up for the new one.
        """
        active = await self._client.get(ACTIVE)
        # Lanes that other workers run stay listed, or workers with different lanes would replace each other's for ever.
        others = Generation.model_validate_json(active).lanes if active else {}
        fresh = new_generation(self._settings, {**others, **self._shapes}, targets, erasures)
        if await self._client.fcall("clickwell1_begin", 2, BUILDING, DISCARD, fresh.model_dump_json(), *self._shapes):
            log.warning("building generation %s of the counters from the log", fresh.name)
        generation, _ = await self.target()
        return generation or fresh

    async def finish(self, generation: Generation) -> bool:
        """Let readers see a generation that has reached its targets; False when another worker was first."""
        await self._failpoints.reach("before_flip")
        complete = generation.model_copy(update={"targets": {}})
        won = await self._client.fcall(
            "clickwell1_flip", 3, BUILDING, ACTIVE, DISCARD, generation.name, complete.model_dump_json()
        )
        if won:
            self.finished += 1
            log.warning("generation %s is complete; readers see it now", generation.name)
        return bool(won)

    async def discard_old(self) -> int:
        """Remove the keys of generations that were replaced; return how many keys went."""
        removed = 0
        for raw in await self._client.smembers(DISCARD):
            name = raw.decode() if isinstance(raw, bytes) else raw
            # The ledgers go first: without them no late call of a worker that was away can bring anything back.
            keys: list[str | bytes] = [ledger_key(shard, name) for shard in range(SHARDS)]
            removed += await self._unlink(keys)
            async for key in self._client.scan_iter(match=f"cw1:{{s???}}:{name}:*", count=1000):
                keys.append(key)
                if len(keys) >= 1000:
                    removed += await self._unlink(keys)
            removed += await self._unlink(keys)
            await self._client.srem(DISCARD, name)
        return removed

    async def reached(self, generation: Generation) -> bool:
        """Say whether every shard has applied the log up to the generation's targets."""
        pipe = self._client.pipeline(transaction=False)
        fields = list(generation.targets)
        if not fields:
            return True
        for shard in range(SHARDS):
            pipe.hmget(ledger_key(shard, generation.name), fields)
        for values in await pipe.execute():
            for field, value in zip(fields, values, strict=True):
                if value is None or int(value.split()[0]) < generation.targets[field]:
                    return False
        return True

    async def _unlink(self, keys: list[str | bytes]) -> int:
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.unlink(key)
        keys.clear()
        return sum(await pipe.execute())


def _popularity(generation: Generation) -> str:
    return f"{generation.layout}, half-life {generation.half_life_hours} h"


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits
