"""A TCP proxy that loses replies."""

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

CALL = b"clickwell1_popularity"


class CuttingProxy(threading.Thread):
    """Passes every request on to a port; cuts the connection instead of passing on every so-many-th reply to a call.

    Attributes:
        every: how many calls go by between two cuts; 0 for no cuts.
        cuts: how many replies were lost.
    """

    def __init__(self, target: int, every: int) -> None:
        super().__init__(name="proxy", daemon=True)
        self.every, self.cuts, self.port = every, 0, 0
        self._target, self._calls = target, 0
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
        await asyncio.wait(connections, timeout=5)
        await asyncio.sleep(0.1)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        lose = asyncio.Event()
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            to_client.close()
            return
        ways = [
            asyncio.create_task(self._requests(client, to_server, lose)),
            asyncio.create_task(self._replies(server, to_client, lose)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (to_client, to_server):
                writer.transport.abort()

    async def _requests(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, lose: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if CALL in data:
                    self._calls += 1
                    if self.every and self._calls % self.every == 0:
                        lose.set()
                target.write(data)
                await target.drain()

    async def _replies(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, lose: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if lose.is_set():
                    self.cuts += 1
                    return
                target.write(data)
                await target.drain()
