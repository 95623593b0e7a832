"""One connection of the API's server, on a real socket with a small buffer."""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from clickwell.serving.api.server import Protocol

ANSWER = bytes(1_000_000)


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]})
    await send({"type": "http.response.body", "body": ANSWER})


def test_a_sender_that_does_not_read_its_answer_is_cut_off():
    """In three times the time of a request; one that reads gets all of it, and stays."""
    kind = type("Hasty", (Protocol,), {"read_seconds": 0.3, "most": 10})
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()

    async def run() -> None:
        listener = socket.socket()
        # Accepted connections have it from here.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: kind(config=config, server_state=state, app_state={}, _loop=loop), sock=listener
        )
        with socket.create_connection(listener.getsockname()) as deaf:
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(ANSWER)) == ANSWER
            assert len(state.connections) == 2
            async with asyncio.timeout(30):
                while len(state.connections) > 1:  # noqa: ASYNC110  # uvicorn tells nobody
                    await asyncio.sleep(0.05)
            writer.close()
        server.close()

    asyncio.run(run())
