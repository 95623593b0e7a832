"""A Redis Cluster behind the interface of one server, with and without asyncio.

All keys of a shard, and all keys that are no shard's, have one slot each (`clickwell.schemas.keys`), so whatever has
to be atomic happens on one node. What asks for several shards goes to their nodes at once: one round trip to each.

redis-py's own cluster client is not used: it asks the server which argument of FCALL is a key, at each call and of one
node, without which nothing works; and it repeats calls by itself, where a worker has to know that one failed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from clickwell.redis_routing import (
    DISCOVERY,
    Address,
    Answers,
    Asked,
    Request,
    Routes,
    Steps,
    key_of,
    raise_first,
    slot_of,
)

T = TypeVar("T")

# A node that is alive tells its slots within milliseconds; the next one is asked after this time.
_PATIENCE_SECONDS = 1.0
_ASKING = ("ASKING",)
# A key that moves while it is looked for may be seen nowhere; then everything is looked through again.
_SCANS = 5


class Cluster(redis.Redis):
    """All nodes of a cluster; made by `from_url` with the address of any of them.

    Commands and pipelines are those of redis-py as far as clickwell uses them: each names its key first. MGET may name
    keys of any slots. A transaction is one for each slot.

    Raises:
        ValueError: the address is not one of a network.
        redis.RedisError, OSError: from every command, as from one server's client.
    """

    def __init__(self, *, connection_pool: redis.ConnectionPool, **options: Any) -> None:
        super().__init__(connection_pool=connection_pool, **options)
        self._seed = connection_pool
        self._clients: dict[Address, redis.Redis] = {}
        self._routes = Routes(_address(connection_pool))

    def primaries(self) -> list[redis.Redis]:
        """Return the client of each node that owns a slot."""
        self._drive(self._routes.find_out())
        return [self._node(address) for address in self._routes.primaries]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to the node of its key, or PING, INFO and FUNCTION LOAD to every primary."""
        replies = self.run([Request(args, options)])
        raise_first(replies)
        return replies[0]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ClusterPipeline":
        """Return a pipeline over all nodes."""
        return ClusterPipeline(self, transaction, shard_hint)

    def scan_iter(self, *args: Any, **options: Any) -> Iterator[Any]:
        """Yield the keys of one primary after the other, each at least once.

        Raises:
            redis.RedisError: slots moved to other nodes all the time, so that keys may have been missed.
        """
        for _ in range(_SCANS):
            before = self._placement()
            for node in self.primaries():
                yield from node.scan_iter(*args, **options)
            if before is not None and self._placement() == before:
                return
        raise redis.RedisError("slots are moving from node to node, so keys may be missed")

    def run(self, requests: Sequence[Request]) -> list[Any]:
        """Send commands to their nodes and return a reply or an error for each."""
        return self._drive(self._routes.run(requests))

    def transact(self, commands: Sequence[tuple[Any, Any]]) -> list[Any]:
        """Run commands of one slot as a transaction on their node."""
        self._drive(self._routes.find_out())
        address = self._routes.owner(key_of(commands[0][0]))
        pipeline = self._node(address).pipeline(transaction=True)
        pipeline.command_stack = list(commands)
        try:
            return pipeline.execute()
        except ResponseError as error:
            self._routes.heed(address, error)
            raise
        except (redis.RedisError, OSError):
            self._routes.fell_silent(address)
            raise

    def close(self) -> None:
        """Close the connections to all nodes; a later command opens new ones."""
        # A constructor that failed is closed too.
        for client in list(getattr(self, "_clients", {}).values()):
            client.connection_pool.disconnect()
        super().close()

    def _node(self, address: Address) -> redis.Redis:
        client = self._clients.get(address)
        if client is None:
            client = redis.Redis(connection_pool=redis.ConnectionPool(**_node_options(self._seed, address)))
            self._clients[address] = client
        return client

    def _placement(self) -> set[tuple[Address, bytes]] | None:
        """Return which slots each primary has; None while keys move."""
        self._routes.stale = True
        self._drive(self._routes.find_out())
        found: set[tuple[Address, bytes]] = set()
        for address in self._routes.primaries:
            nodes: Any = self._node(address).execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
            own = next(line for line in bytes(nodes).splitlines() if b"myself" in line)
            # Id, address, flags, primary, two times, epoch and state come first; slots that move are in brackets.
            slots = own.split()[8:]
            if any(each.startswith(b"[") for each in slots):
                return None
            found |= {(address, each) for each in slots}
        return found

    def _drive(self, steps: Steps[T]) -> T:
        try:
            asked = next(steps)
            while True:
                asked = steps.send(self._ask(asked))
        except StopIteration as end:
            result: T = end.value
            return result

    def _ask(self, asked: Asked) -> Answers:
        """Write to all nodes before reading from the first, so that they work at the same time."""
        answers: Answers = {}
        waiting: list[tuple[Address, Any, Any]] = []
        try:
            for address, requests in asked.items():
                node = self._node(address)
                try:
                    connection = node.connection_pool.get_connection()
                    waiting.append((address, node, connection))
                    _send(connection, requests)
                except (redis.RedisError, OSError) as error:
                    answers[address] = error
            for address, node, connection in waiting:
                if address not in answers:
                    answers[address] = _read(node, connection, asked[address])
        finally:
            for address, node, connection in waiting:
                if not isinstance(answers.get(address), list):
                    # Replies may still be on their way: they must not be taken for those of the next commands.
                    connection.disconnect()
                node.connection_pool.release(connection)
        return answers


class ClusterPipeline(redis.client.Pipeline):
    """Commands for any nodes; with `transaction`, those of each slot are one transaction."""

    def __init__(self, cluster: Cluster, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, shard_hint)
        self._cluster, self._atomic = cluster, transaction

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send all commands and return their replies in order."""
        stack, self.command_stack = self.command_stack, []
        if not self._atomic:
            replies = self._cluster.run([Request(args, options) for args, options in stack])
            if raise_on_error:
                raise_first(replies)
            return replies
        replies = [None] * len(stack)
        slots: dict[int, list[int]] = {}
        for place, (args, _) in enumerate(stack):
            slots.setdefault(slot_of(key_of(args)), []).append(place)
        for places in slots.values():
            for place, reply in zip(places, self._cluster.transact([stack[n] for n in places]), strict=True):
                replies[place] = reply
        return replies


class AsyncCluster(redis.asyncio.Redis):
    """The same for asyncio; it belongs to one event loop."""

    def __init__(self, *, connection_pool: redis.asyncio.ConnectionPool, **options: Any) -> None:
        super().__init__(connection_pool=connection_pool, **options)
        self._seed = connection_pool
        self._clients: dict[Address, redis.asyncio.Redis] = {}
        self.routes = Routes(_address(connection_pool))

    def node(self, address: Address) -> "redis.asyncio.Redis":
        """Return the client of one node."""
        client = self._clients.get(address)
        if client is None:
            pool = redis.asyncio.ConnectionPool(**_node_options(self._seed, address))
            client = self._clients[address] = redis.asyncio.Redis(connection_pool=pool)
        return client

    async def primaries(self) -> "list[redis.asyncio.Redis]":
        """Return the client of each node that owns a slot."""
        await self.find_out()
        return [self.node(address) for address in self.routes.primaries]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to the node of its key, or PING, INFO and FUNCTION LOAD to every primary."""
        replies = await self.run([Request(args, options)])
        raise_first(replies)
        return replies[0]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "AsyncClusterPipeline":
        """Return a pipeline over all nodes; there are no transactions."""
        return AsyncClusterPipeline(self, transaction, shard_hint)

    async def scan_iter(self, *args: Any, **options: Any) -> AsyncIterator[Any]:  # type: ignore[override]  # redis-py's mixin is typed without asyncio
        """Yield the keys of one primary after the other; one that moves meanwhile may be missed."""
        for node in await self.primaries():
            async for key in node.scan_iter(*args, **options):
                yield key

    async def run(self, requests: Sequence[Request]) -> list[Any]:
        """Send commands to their nodes and return a reply or an error for each."""
        return await self._drive(self.routes.run(requests))

    async def find_out(self) -> None:
        """Ask who owns which slot, if that is not known or may have changed.

        Raises:
            redis.RedisError, OSError: no node answers.
        """
        await self._drive(self.routes.find_out())

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections to all nodes; a later command opens new ones."""
        for client in list(self._clients.values()):
            await client.connection_pool.disconnect()
        await super().aclose(close_connection_pool)

    async def _drive(self, steps: Steps[T]) -> T:
        try:
            asked = next(steps)
            while True:
                found = await asyncio.gather(*(self._ask(address, asked[address]) for address in asked))
                asked = steps.send(dict(zip(asked, found, strict=True)))
        except StopIteration as end:
            result: T = end.value
            return result
        except asyncio.CancelledError:
            # Whoever gave up waiting may have waited for a node that is gone.
            self.routes.stale = True
            raise

    async def _ask(self, address: Address, requests: Sequence[Request]) -> list[Any] | Exception:
        pipeline = self.node(address).pipeline(transaction=False)
        pipeline.command_stack = [
            pair
            for request in requests
            for pair in (*([(_ASKING, {})] if request.asking else []), (request.args, request.options))
        ]
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS if requests[0].args == DISCOVERY else None):
                replies = iter(await pipeline.execute(raise_on_error=False))
        except (redis.RedisError, OSError) as error:
            return error
        return [(next(replies), next(replies))[1] if request.asking else next(replies) for request in requests]


class AsyncClusterPipeline(redis.asyncio.client.Pipeline):
    """Commands for any nodes."""

    def __init__(self, cluster: AsyncCluster, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, shard_hint)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send all commands and return their replies in order."""
        assert not self.is_transaction
        stack, self.command_stack = self.command_stack, []
        replies = await self._cluster.run([Request(args, options) for args, options in stack])
        if raise_on_error:
            raise_first(replies)
        return replies


def _address(pool: Any) -> Address:
    options = pool.connection_kwargs
    if "path" in options:
        raise ValueError("a cluster has no unix:// address")
    return options.get("host", "localhost"), int(options.get("port", 6379))


def _node_options(seed: Any, address: Address) -> dict[str, Any]:
    """Return the options of a pool for another node: it is reached and logged in to like the first one."""
    own = {"connection_class": seed.connection_class, "host": address[0], "port": address[1]}
    return {**seed.connection_kwargs, **own}


def _send(connection: Any, requests: Sequence[Request]) -> None:
    words = [w for request in requests for w in (*([_ASKING] if request.asking else []), request.args)]
    connection.send_packed_command(connection.pack_commands(words))


def _read(node: Any, connection: Any, requests: Sequence[Request]) -> list[Any] | Exception:
    replies: list[Any] = []
    try:
        for request in requests:
            if request.asking:
                connection.read_response()
            try:
                replies.append(node.parse_response(connection, request.args[0], **request.options))
            except ResponseError as error:
                replies.append(error)
    except (redis.RedisError, OSError) as error:
        return error
    return replies
