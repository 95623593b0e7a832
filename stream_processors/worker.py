"""A worker process: Faust with one agent for each topic, the engine behind it, and what keeps both honest."""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError as RedisClientError

from clickwell import exposition
from clickwell.clock import MS_PER_DAY
from clickwell.dead_letters import DeadLetters
from clickwell.erasures import ErasureLog
from clickwell.errors import ClickwellError, KafkaError, RedisError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.redis_client import async_client_of
from clickwell.redis_cluster import AsyncCluster
from clickwell.schemas.keys import FRESH, WORKERS
from clickwell.schemas.rings import Generation
from clickwell.sealing import opener_of
from clickwell.settings import RedisSettings, Settings
from clickwell.stream_processors.chunks import Chunk, ChunkApp, PassThrough, build_app
from clickwell.stream_processors.engagement import EngagementLane
from clickwell.stream_processors.engine import Engine
from clickwell.stream_processors.folding import fold
from clickwell.stream_processors.generations import Generations
from clickwell.stream_processors.lanes import lanes_of
from clickwell.stream_processors.ledger import Ledger
from clickwell.stream_processors.measures import Measures
from clickwell.stream_processors.part import NOWHERE, TP, Part
from clickwell.stream_processors.resume import Resume
from clickwell.stream_processors.watchdog import Pulse, Watchdog, exit_after
from clickwell.tracing import tracing_of

log = logging.getLogger(__name__)

# Until the first report of a working worker somebody may be waiting for it.
STARTING_SECONDS = 0.1


class Worker:
    """Wires one process; `run` lives until a signal or a fatal error.

    Guarantees: every record of the lanes' topics is applied exactly once to the counters, whatever happens to workers,
    broker and Redis, as long as the log still holds it.
    """

    def __init__(self, settings: Settings, report: Callable[[ClickwellError], None]) -> None:
        self.settings = settings
        self.id = settings.worker.instance_id or f"{socket.gethostname()}-{os.getpid()}"
        self._report = report
        self._signal = 0
        self._reported = False
        self._folded = ("", 0)
        self._ends: dict[TP, int] = {}
        self._client = connect(settings.redis, timeout=settings.redis.timeout)
        failpoints = Failpoints(settings.worker.failpoint)
        lanes = lanes_of(settings)
        self._topics = sorted({topic for lane in lanes for topic in lane.topics})
        dedup_ms, timeout = settings.popularity.dedup_ms, settings.redis.timeout
        self.ledger = Ledger(connect(settings.redis, timeout=None), failpoints, timeout=timeout)
        self.generations = Generations(self._client, settings.popularity, lanes, failpoints)
        self.kafka = KafkaLog(settings.kafka)
        self._dead_letters = DeadLetters(settings.kafka, self.kafka, failpoints)
        erasures = ErasureLog(settings, self.kafka)
        self.resume = Resume(
            self._client, self.ledger, self.generations, self.kafka, lanes, erasures, dedup_ms=dedup_ms
        )
        self.app: ChunkApp = build_app(settings)
        self.engine = Engine(
            lanes,
            self.ledger,
            self.resume,
            self._dead_letters,
            self.app.seek,
            self._fatal,
            dedup_ms=dedup_ms,
            idle_seconds=settings.worker.idle_seconds,
            open_rows=opener_of(settings),
            # A letter has one writer: what the sink dead-letters is left to it.
            dead_letter_topics={*self._topics} - {*settings.sink.dead_letter_topics},
            tracing=tracing_of(settings),
        )
        self._failpoints = failpoints
        # The agent never raises; what Faust calls its crash, with a traceback, is the cancellation of every rebalance.
        logging.getLogger("faust.agents.actor").setLevel(logging.CRITICAL)
        self._attach()

    async def run(self) -> int:
        """Work until told to stop and return the exit code: 143 or 130 after a signal, 1 after a crash of the consumer.

        Raises:
            ClickwellError: Redis or Kafka is away or unfit at the start.
        """
        await check_redis(self._client, self.settings.redis)
        try:
            await self.ledger.install()
        except (RedisClientError, OSError) as error:
            raise RedisError(
                "Redis does not take the workers' functions",
                why=str(error),
                fix="look at its memory, and at what its user may do; docs/contracts/redis.md says what is needed",
            ) from None
        for topic in self._topics:
            await asyncio.to_thread(self.kafka.describe, topic)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        watchdog = Watchdog(self._pulse, self.settings.worker.stall_seconds)
        watchdog.start()
        measures = Measures(self.engine, self.generations, self.resume, self._end_of, settings=self.settings)
        exposition.serve(self.settings.metrics, "worker", measures.samples)
        self.app.finalize()
        # Chunks die young and hold no cycles: looking through all that was imported, chunk after chunk, finds nothing.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        await self.app.start()
        running = [asyncio.create_task(self._tick_for_ever()), asyncio.create_task(self._watch_topics())]
        await self.app.wait_until_stopped()
        watchdog.stop()
        for task in running:
            task.cancel()
        if self._signal:
            await self.engine.settle()
            # Whoever looks at the report sees its age; a stop must not fail because Redis is away.
            with suppress(RedisClientError, OSError):
                await self._client.hdel(WORKERS, self.id)
            return 128 + self._signal
        log.error("the consumer crashed: %r", self.app.crash_reason)
        return 1

    def _attach(self) -> None:
        self.app.assign = self._assign
        self.app.applied_offset = self._applied_offset
        self.app.on_partitions_revoked.connect(self._give_up)
        for name in self._topics:
            self.app.agent(self.app.topic(name, schema=PassThrough()), name=name)(self._take_all)

    async def _take_all(self, stream: Any) -> None:
        async for chunk in stream:
            await self._take(chunk)

    async def _take(self, chunk: Chunk) -> None:
        tp = (chunk.topic, chunk.partition)
        try:
            await self._failpoints.reach("agent")
            await self.engine.feed(tp, chunk.records)
        except Exception as error:  # noqa: BLE001  # an exception would stop the agent for seconds and lose the chunk
            self.engine.fail(tp, error)

    async def _assign(self, tps: Any) -> dict[tuple[str, int], int]:
        self._dead_letters.forget()
        return await self.engine.assign(tps)

    async def _give_up(self, _app: Any, _tps: Any, **_: Any) -> None:
        """Take no more of any partition: a letter of what is still queued would only fence the next owner's."""
        await self.engine.assign(())

    def _applied_offset(self, tp: tuple[str, int]) -> int | None:
        part = self.engine.parts.get(tp)
        return None if part is None or part.least == NOWHERE else part.least

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.worker.idle_seconds if self._reported else STARTING_SECONDS)
            try:
                await self.engine.tick(self.app.end_of)
                await self._publish(fresh=not await self._follow_generation())
            except (RedisClientError, OSError) as error:
                log.warning("Redis does not answer: %s", error)
            except ClickwellError as error:
                self._fatal(error)
            except Exception:
                # Without ticks nothing would look for a lost Redis or a missing chunk any more.
                log.exception("the timer goes on")

    async def _watch_topics(self) -> None:
        """Notice what the consumer cannot: a topic that was deleted and created again, and records it does not get.

        It would take the new topic's records for old ones, whose offsets they have, and drop them without a word. And
        if the brokers that it last heard of are all gone it asks no others: it would wait for ever, knowing of no lag.
        """
        while True:
            await asyncio.sleep(self.settings.worker.metadata_max_age)
            with suppress(KafkaError):
                ids = {name: (await asyncio.to_thread(self.kafka.describe, name))[0] for name in self._topics}
                if any(part.topic_id not in {ids[part.topic], ""} for part in self.engine.parts.values()):
                    self.engine.rewind_all("a topic has another id")
                self._ends = await asyncio.to_thread(self._ask_ends, list(self.engine.parts))

    def _ask_ends(self, tps: Sequence[TP]) -> dict[TP, int]:
        ends: dict[TP, int] = {}
        for topic in {topic for topic, _ in tps}:
            found = self.kafka.latest(topic, [partition for name, partition in tps if name == topic])
            ends |= {(topic, partition): end for partition, end in found.items()}
        return ends

    def _end_of(self, tp: TP) -> int:
        """Return the log's end of a partition, as far as the consumer or the broker itself has told it."""
        return max(self.app.end_of(tp), self._ends.get(tp, 0))

    async def _follow_generation(self) -> bool:
        """Switch to a generation that somebody began, complete the one being built; say whether one still is."""
        generation, building = await self.generations.target()
        parts = self.engine.parts.values()
        if generation is None or any(part.generation not in {generation.name, ""} for part in parts):
            self.engine.rewind_all("another generation is to be written")
        elif building and await self.generations.reached(generation):
            building = False
            await self.generations.finish(generation)
        # One worker is enough; it need not be the one that moved the pointer, which may have died since.
        if any(part.partition == 0 for part in parts):
            await self.generations.discard_old()
            await self._fold(generation)
        return building or generation is None

    async def _fold(self, generation: Generation | None) -> None:
        """Once a day put the hourly windows of past days together."""
        now_ms = time.time_ns() // 1_000_000
        shape = generation.lanes.get(EngagementLane.name) if generation else None
        if generation and shape and self._folded != (generation.name, now_ms // MS_PER_DAY):
            await fold(self._client, generation.name, shape, now_ms)
            self._folded = generation.name, now_ms // MS_PER_DAY

    async def _publish(self, *, fresh: bool) -> None:
        """Leave a report for `clickwell status` and the freshness stamps that readers look at.

        Args:
            fresh: readers see the generation that is written; otherwise theirs stands still, and so do its stamps.
        """
        now_ms = time.time_ns() // 1_000_000
        parts = [part for part in self.engine.parts.values() if part.position != NOWHERE]
        report = {
            "id": self.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "at_ms": now_ms,
            "generation": parts[0].generation if parts else "",
            "lag": {part.field_of(lane): self._lag(part, done) for part in parts for lane, done in part.done.items()},
            **vars(self.engine.stats),
            "lost": self.resume.lost,
        }
        self._reported = self._reported or bool(parts)
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(WORKERS, self.id, json.dumps(report))
        for part in parts if fresh else ():
            for lane, done in part.done.items():
                if stamp := part.received_ms if self._lag(part, done) else now_ms:
                    pipe.hset(FRESH, part.field_of(lane), str(stamp))
        await pipe.execute()

    def _lag(self, part: Part, done: list[int]) -> int:
        return part.lag(done, self._end_of(part.tp))

    def _pulse(self) -> Pulse:
        parts = list(self.engine.parts.values())
        return Pulse(
            behind=any(part.position == NOWHERE or self._end_of(part.tp) > part.position for part in parts),
            progress_at=max((part.progress_at for part in parts), default=time.monotonic()),
            redis_answered_at=self.engine.redis_answered_at,
        )

    def _on_signal(self, number: int) -> None:
        if self._signal:
            os._exit(128 + number)
        self._signal = number
        log.info("stopping, counts are safe")
        # Faust reports the cancelling of its own tasks as crashes, with tracebacks.
        logging.getLogger("faust").setLevel(logging.CRITICAL + 1)
        # Half a second for the kernel to take the process down on a busy machine.
        exit_after(self.settings.worker.stop_seconds - 0.5, 128 + number)
        self._stopping = asyncio.get_running_loop().create_task(self.app.stop())

    def _fatal(self, error: ClickwellError) -> None:
        """End the process at once: going on would count wrongly, and a clean stop could hang."""
        self._report(error)
        logging.shutdown()
        os._exit(error.exit_code)


def connect(settings: RedisSettings, *, timeout: float | None) -> "Redis":
    """Return a client that waits `timeout` seconds for each reply. The engine retries, so the client does not."""
    return async_client_of(
        settings,
        socket_timeout=timeout,
        socket_connect_timeout=settings.timeout,
        retry=None,
        health_check_interval=0,
    )


async def check_redis(client: "Redis", settings: RedisSettings) -> None:
    """Refuse a Redis that is away or that would forget counters by itself.

    Raises:
        RedisError: no answer, or `maxmemory-policy` evicts keys.
    """
    # Neither password nor user of the address may show up in a log.
    address = settings.url.rsplit("@", 1)[-1].removeprefix("redis://").removeprefix("rediss://")
    try:
        servers = await client.primaries() if isinstance(client, AsyncCluster) else [client]
        about = [await server.info() for server in servers]
    except (RedisClientError, OSError) as error:
        raise RedisError(
            f"Redis at {address} does not answer",
            why=str(error),
            fix="`clickwell up` starts a local one; or set CLICKWELL_REDIS__URL",
        ) from None
    if about[0].get("cluster_enabled") and not settings.cluster:
        raise RedisError(
            f"Redis at {address} is a node of a cluster",
            why="its keys are on several nodes, and this worker was told of one",
            fix="set CLICKWELL_REDIS__CLUSTER=true for everything that reads or counts",
        )
    policies = {memory.get("maxmemory_policy", "noeviction") for memory in about}
    if policy := min(policies - {"noeviction"}, default=None):
        raise RedisError(
            f"Redis at {address} evicts keys (maxmemory-policy {policy})",
            why="an evicted counter is a wrong count, silently",
            fix="`redis-cli CONFIG SET maxmemory-policy noeviction`",
        )


def run_worker(settings: Settings, report: Callable[[ClickwellError], None]) -> int:
    """Run one worker until it is told to stop; return the process's exit code.

    Args:
        report: shows a fatal error to the operator, right before the process ends.

    Raises:
        ClickwellError: a dependency is away or unfit at the start.
    """

    async def main() -> int:
        return await Worker(settings, report).run()

    return asyncio.run(main())
