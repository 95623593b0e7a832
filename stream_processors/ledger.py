"""The offsets and effects in Redis: one atomic function call for each shard, a pipeline for each chunk."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import AskError, ResponseError, TryAgainError

from clickwell.failpoints import Failpoints
from clickwell.redis_cluster import AsyncCluster
from clickwell.redis_routing import Address
from clickwell.schemas.keys import SHARDS, ledger_key, shard_prefix
from clickwell.stream_processors.lane import Arg

log = logging.getLogger(__name__)

# As long as a worker keeps up, a chunk's calls go in portions, one at a time: Redis answers readers between two of
# them, and so many bytes of calls take it about 0.4 ms. A worker that catches up has more to send than a chunk of some
# 1,000 events has, and sends it whole: waiting for each portion would cost it half its throughput.
PORTION_BYTES = 2 << 10
CATCHING_UP_BYTES = 32 << 10
# A slot that moves to another node takes no calls meanwhile; they are repeated no more often than this.
MOVING_SECONDS = 0.05

# What the lanes share comes first.
LIBRARY = ("functions.lua", "popularity.lua", "engagement.lua", "history.lua")


def library() -> str:
    """Return the code of all functions, which Redis loads as one library."""
    folder = files("clickwell.stream_processors")
    return "\n".join(folder.joinpath(name).read_text() for name in LIBRARY)


class Outcome(Enum):
    """What became of one shard's call."""

    APPLIED = "applied"
    """The effects and the next offset are stored, by this call or by an earlier try of it."""
    KNOWN = "known"
    """Nothing changed: Redis knows something that the lane did not; call again in the light of it."""
    REWIND = "rewind"
    """Nothing changed: Redis stands elsewhere than this worker believed. Only reloading every offset is safe."""


@dataclass(frozen=True)
class Call:
    """One lane's share of a chunk in one shard.

    Attributes:
        function: the lane's function in Redis.
        field: of the lane and the partition in the shard's ledger.
        expected: offset that Redis must hold for the call to have an effect.
        next: offset stored with the effects.
        bucket: dedup bucket of the records; 0 when only the offset moves.
    """

    function: str
    field: str
    shard: int
    expected: int
    next: int
    bucket: int
    arguments: list[Arg]


@dataclass(frozen=True)
class Reply:
    """Outcome of one call, and what Redis knows, in the terms of the lane's function."""

    outcome: Outcome
    known: Sequence[Any] = ()


class Ledger:
    """Loads and moves the offsets of all lanes; all calls of a shard are atomic and exclude each other.

    A call that lost its reply may be sent again or forgotten: the comparison with the expected offset admits each
    range of records once, whoever sends it and however often.

    Args:
        client: of a server or a cluster, without a socket timeout of its own: a timer for each of the many replies
            would cost more than reading them.
        timeout: seconds that Redis may be silent.
    """

    def __init__(self, client: "Redis", failpoints: Failpoints, *, timeout: float = 5.0) -> None:
        self._client = client
        self._failpoints = failpoints
        self._timeout = timeout
        self._turns: defaultdict[Redis, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def install(self) -> None:
        """Load the function library; safe to repeat and to do from many workers at once."""
        await self._client.function_load(library(), replace=True)

    async def load(self, generation: str, field: str) -> list[int | None]:
        """Return the next offset of each shard; None where the shard's ledger does not know the field."""
        pipe = self._client.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipe.hget(ledger_key(shard, generation), field)
        async with asyncio.timeout(self._timeout):
            return [int(value.split()[0]) if value else None for value in await pipe.execute()]

    async def open(self, generation: str, field: str, shards: Sequence[int], start: int) -> None:
        """Let the given shards begin at `start`, unless another worker was first."""
        pipe = self._client.pipeline(transaction=False)
        for shard in shards:
            key = ledger_key(shard, generation)
            pipe.hsetnx(key, "generation", generation)
            pipe.hsetnx(key, field, f"{start} 0")
        async with asyncio.timeout(self._timeout):
            await pipe.execute()

    async def apply(self, generation: str, calls: Sequence[Call]) -> list[Reply]:
        """Send all calls in one pipeline and return a reply for each, in order.

        Raises:
            redis.RedisError, OSError: Redis is away or refuses; what was applied is unknown: the caller must rewind.
        """
        await self._failpoints.reach("before_apply")
        if self._failpoints.armed("between_shards"):
            await self._send(generation, calls[: len(calls) // 2])
        await self._failpoints.reach("between_shards")
        replies = await self._send(generation, calls)
        await self._failpoints.reach("after_apply")
        return replies

    async def _exchange(self, server: "Redis", packed: Sequence[bytes]) -> list[Any]:
        """Write packed commands and read their replies; redis-py's own pipeline packs each argument in Python."""
        pool = server.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        results: list[Any] = []
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._timeout) as limit:
                await connection.send_packed_command(b"".join(packed))
                for _ in packed:
                    try:
                        results.append(await connection.read_response())
                    except ResponseError as error:
                        results.append(error)
                    # Long lists of results take a busy server seconds; only silence says that it is gone.
                    limit.reschedule(loop.time() + self._timeout)
        except BaseException:
            # Replies may still be on their way: they must not be taken for those of the next commands.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return results

    async def _send(self, generation: str, calls: Sequence[Call]) -> list[Reply]:
        packed = [
            hiredis.pack_command(
                (  # type: ignore[arg-type]  # hiredis' stub knows only tuples of one element
                    "FCALL",
                    call.function,
                    2,
                    ledger_key(call.shard, generation),
                    shard_prefix(call.shard, generation),
                    call.field,
                    call.expected,
                    call.next,
                    call.bucket,
                    *call.arguments,
                )
            )
            for call in calls
        ]
        if isinstance(self._client, AsyncCluster):
            results = await self._scatter(self._client, [ledger_key(call.shard, generation) for call in calls], packed)
        else:
            results = await self._deliver(self._client, packed)
        for result in results:
            if isinstance(result, ResponseError) and "unction not found" in str(result):
                # A new or restored server without the library: nothing was applied by this call.
                await self.install()
            elif isinstance(result, (AskError, TryAgainError)):
                await asyncio.sleep(MOVING_SECONDS)
            if isinstance(result, Exception):
                raise result
        return [read_reply(call, result) for call, result in zip(calls, results, strict=True)]

    async def _deliver(self, server: "Redis", packed: Sequence[bytes]) -> list[Any]:
        """Bring calls to one server and return its replies, errors among them."""
        if sum(map(len, packed)) > CATCHING_UP_BYTES:
            return await self._exchange(server, packed)
        results = []
        for portion in _portions(packed):
            async with self._turns[server]:
                results += await self._exchange(server, portion)
        return results

    async def _scatter(self, cluster: AsyncCluster, keys: Sequence[str], packed: Sequence[bytes]) -> list[Any]:
        """Bring each call to the node of its key, to all nodes at the same time; redirections are left to the caller.

        A node that does not answer keeps no other one from being read: its own calls have the error for a reply.
        """
        await cluster.find_out()
        shares: dict[Address, list[int]] = {}
        for place, key in enumerate(keys):
            shares.setdefault(cluster.routes.owner(key), []).append(place)
        found = await asyncio.gather(
            *(self._deliver(cluster.node(node), [packed[n] for n in share]) for node, share in shares.items()),
            return_exceptions=True,
        )
        results: list[Any] = [None] * len(packed)
        for (node, share), replies in zip(shares.items(), found, strict=True):
            if isinstance(replies, BaseException):
                cluster.routes.fell_silent(node)
            for n, place in enumerate(share):
                results[place] = replies if isinstance(replies, BaseException) else replies[n]
                cluster.routes.heed(node, results[place])
        return results


def _portions(packed: Sequence[bytes]) -> Iterator[list[bytes]]:
    portion: list[bytes] = []
    size = 0
    for call in packed:
        if portion and size + len(call) > PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(call)
        size += len(call)
    yield portion


def read_reply(call: Call, result: Any) -> Reply:
    """Say what the function's reply means for the caller."""
    if result == b"OK":
        return Reply(Outcome.APPLIED)
    kind = result[0]
    if kind == b"KNOWN":
        return Reply(Outcome.KNOWN, result[1:])
    # The stored offset is this call's own next: an earlier try of it went through and only its reply was lost.
    # Any other value, also one that is further ahead, says that somebody else moved it: records that this worker has
    # already filtered and queued would be counted twice.
    if kind == b"AT" and int(result[1]) == call.next and call.next != call.expected:
        return Reply(Outcome.APPLIED)
    log.info("%s, shard %d: expected %d, Redis has %s", call.field, call.shard, call.expected, result)
    return Reply(Outcome.REWIND)
