"""Counting again from the log, on request: begin a new generation and watch the workers complete it."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping

from redis.exceptions import RedisError as RedisClientError

from clickwell.erasures import ErasureLog
from clickwell.errors import DependencyError, RedisError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.schemas.keys import ACTIVE, SHARDS, WORKERS, ledger_key
from clickwell.schemas.rings import Generation
from clickwell.settings import Settings
from clickwell.stream_processors.generations import Generations
from clickwell.stream_processors.lanes import lanes_of
from clickwell.stream_processors.ledger import Ledger
from clickwell.stream_processors.resume import Resume
from clickwell.stream_processors.worker import check_redis, connect

# Workers report every few seconds; one that has been silent for longer is taken for gone.
REPORT_SECONDS = 15.0
POLL_SECONDS = 0.2


class Rebuild:
    """One rebuild: `begin` it, then `wait` for it.

    Readers see the present counts, which stand still meanwhile, until the new ones are complete. A rebuild that is
    already under way is joined.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        timeout = settings.redis.timeout
        self._client = connect(settings.redis, timeout=timeout)
        failpoints = Failpoints()
        lanes = lanes_of(settings)
        ledger = Ledger(self._client, failpoints, timeout=timeout)
        generations = Generations(self._client, settings.popularity, lanes, failpoints)
        kafka, dedup_ms = KafkaLog(settings.kafka), settings.popularity.dedup_ms
        self._resume = Resume(
            self._client, ledger, generations, kafka, lanes, ErasureLog(settings, kafka), dedup_ms=dedup_ms
        )

    async def begin(self) -> Generation:
        """Begin a generation whose targets are the present ends of the log.

        Raises:
            ClickwellError: Kafka or Redis is away or unfit.
        """
        await check_redis(self._client, self._settings.redis)
        return await self._resume.begin()

    async def wait(self, generation: Generation, seconds: float, progress: Callable[[int], None]) -> None:
        """Return when readers see the generation; `progress` hears of newly applied records meanwhile.

        Raises:
            DependencyError: no worker runs, or it took longer than `seconds`.
        """
        until = time.monotonic() + seconds
        alone_since = time.monotonic()
        applied = 0
        try:
            while not await self._seen_by_readers(generation):
                now = await self._applied(generation.name, generation.targets)
                progress(max(0, now - applied))
                applied = max(now, applied)
                if await self._workers():
                    alone_since = time.monotonic()
                elif time.monotonic() - alone_since > REPORT_SECONDS:
                    raise DependencyError("no worker runs, so nothing is counted", fix="start one: `clickwell worker`")
                if time.monotonic() > until:
                    raise DependencyError(
                        f"the rebuild is not complete after {seconds:.0f} s",
                        why="workers have not read the whole window yet; they go on by themselves",
                        fix="`clickwell rebuild` joins it again; `clickwell status` shows the lag",
                    )
                await asyncio.sleep(POLL_SECONDS)
        except (RedisClientError, OSError) as error:
            raise RedisError("Redis went away during the rebuild", why=str(error)) from None

    async def _seen_by_readers(self, generation: Generation) -> bool:
        active = await self._client.get(ACTIVE)
        return active is not None and Generation.model_validate_json(active).name == generation.name

    async def _applied(self, generation: str, fields: Mapping[str, int]) -> int:
        """Return how many records are applied in every shard, not beyond the targets."""
        pipe = self._client.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipe.hmget(ledger_key(shard, generation), list(fields))
        rows = await pipe.execute() if fields else []
        applied = [min(int(value.split()[0]) if value else 0 for value in column) for column in zip(*rows, strict=True)]
        return sum(min(done, target) for done, target in zip(applied, fields.values(), strict=False))

    async def _workers(self) -> list[str]:
        oldest = time.time() * 1000 - REPORT_SECONDS * 1000
        reports = [json.loads(report) for report in await self._client.hvals(WORKERS)]
        return [report["id"] for report in reports if report["at_ms"] >= oldest]
