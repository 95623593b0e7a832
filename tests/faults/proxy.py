"""A TCP proxy that breaks connections in the ways networks do: cut, closed, silent in one or both directions, slow."""

import asyncio
import contextlib
import threading
from collections.abc import Collection
from types import TracebackType
from typing import Self

CALL = b"clickwell1_popularity"
REQUESTS, REPLIES = "requests", "replies"
_POLL_SECONDS = 0.02


class Proxy(threading.Thread):
    """Passes everything on to a port of this machine, unless told otherwise; every attribute may change at any time.

    Args:
        target: port to forward to.
        every: how many calls of a function of clickwell go by between two lost replies: the connection is cut instead.

    Attributes:
        held: directions in which nothing moves while connections stay open, as when a network forgets them.
        refuses: whether connections are closed as soon as they are made.
        delay: seconds by which each block of bytes is late.
        cuts: how many replies to calls were lost.
    """

    def __init__(self, target: int, every: int = 0) -> None:
        super().__init__(name="proxy", daemon=True)
        self.every, self.cuts, self.port = every, 0, 0
        self.held: Collection[str] = ()
        self.refuses = False
        self.delay = 0.0
        self.target = target
        self._calls = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join(10)

    def cut(self) -> None:
        """Cut every connection; what is under way is lost."""
        self._loop.call_soon_threadsafe(self._cut)

    def heal(self) -> None:
        """Behave again; what was held goes on."""
        self.held, self.refuses, self.delay = (), False, 0.0

    def run(self) -> None:
        """Serve until stopped."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        # Connections that are still open end with their tasks; their sockets are closed one turn of the loop later.
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections, timeout=5)
        await asyncio.sleep(0.1)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        lose = asyncio.Event()
        try:
            if self.refuses:
                raise ConnectionRefusedError
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            to_client.transport.abort()
            return
        self._writers |= {to_client, to_server}
        ways = [
            asyncio.create_task(self._pass(client, to_server, REQUESTS, lose)),
            asyncio.create_task(self._pass(server, to_client, REPLIES, lose)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (to_client, to_server):
                self._writers.discard(writer)
                writer.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: str, lose: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if way == REQUESTS and CALL in data:
                    self._calls += 1
                    if self.every and self._calls % self.every == 0:
                        lose.set()
                if way == REPLIES and lose.is_set():
                    self.cuts += 1
                    return
                if self.delay:
                    await asyncio.sleep(self.delay)
                while way in self.held:  # noqa: ASYNC110  # set by another thread
                    await asyncio.sleep(_POLL_SECONDS)
                target.write(data)
                await target.drain()
