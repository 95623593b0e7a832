"""Runs the app: uvicorn with httptools, hardened against senders that are slow, endless or unclear.

httptools refuses what could be read in two ways, such as a request with both Content-Length and Transfer-Encoding.
"""

import asyncio
import gc
import logging
import socket
import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clickwell.errors import UsageError
from clickwell.serving.api.app import build_app
from clickwell.serving.api.problems import Problem
from clickwell.settings import Settings

# Beside the chunk that is being read; browsers and proxies stay below 16 KiB.
MAX_HEAD = 64 << 10
# Requests that wait on one connection for the answer to another. Few clients send any; a sender may put thousands
# into one packet.
MAX_PIPELINED = 32
# An idle connection is closed; longer than most proxies' pause between two requests.
KEEP_ALIVE_SECONDS = 65
_STOP_SECONDS = 12
_BACKLOG = 2048


class _TooManyError(Exception):
    """Makes the parser leave what it has not read."""


class Protocol(HttpToolsProtocol):
    """One connection. What it refuses before there is a request is a problem, too."""

    read_seconds: float
    most: int

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head = 0
        self._deadline: TimerHandle | None = None
        self._taken: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._end(Problem(503, "busy", "too many connections", retry_after=2))
        else:
            self._await_message()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._message_is_there()
        self._answer_is_taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse a head that does not end."""
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self._end(Problem(431, "head_too_large", f"a request's head has at most {MAX_HEAD:,} bytes"))

    def on_message_begin(self) -> None:
        """Give the whole request its time, body included."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self._end(Problem(503, "busy", "too many requests at once on one connection", retry_after=2))
            raise _TooManyError
        super().on_message_begin()
        self._await_message()

    def on_headers_complete(self) -> None:
        """Begin the request."""
        # Only heads are counted: a body's size is the app's to judge.
        self._head = -sys.maxsize
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._head = 0
        self._message_is_there()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for a sender that does not read its answer, three times as long as for a request."""
        super().pause_writing()
        self._taken = self.loop.call_later(3 * self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._answer_is_taken()
        super().resume_writing()

    def send_400_response(self, _msg: str) -> None:
        """Refuse what is not HTTP."""
        self._end(Problem(400, "bad_http", "this is not a valid HTTP/1.1 request"))

    def _await_message(self) -> None:
        self._message_is_there()
        self._deadline = self.loop.call_later(self.read_seconds, self._late)

    def _message_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _answer_is_taken(self) -> None:
        if self._taken is not None:
            self._taken.cancel()
            self._taken = None

    def _late(self) -> None:
        self._end(Problem(408, "too_slow", "the request did not arrive in time"))

    def _end(self, problem: Problem) -> None:
        """Say why, unless an answer has begun, and close."""
        self._message_is_there()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            response = problem.response()
            response.headers["connection"] = "close"
            head = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
            self.transport.write(b"HTTP/1.1 %d \r\n%b\r\n%b" % (problem.status_code, head, problem.body()))
        self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def serve(settings: Settings, ready: Callable[[str, int | None], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish what has begun.

    Args:
        settings: where to listen; the limits.
        ready: told the address, and how many keys there are (None: unknown, Redis is away), once requests are served.

    Raises:
        UsageError: the address is taken or not of this machine, or the settings want a package that is not installed.
        SettingsError: an address in the settings is malformed, or the secret keys cannot be used.
    """
    app = build_app(settings)
    listener = _bind(settings.api.host, settings.api.port)
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    kind = type("_Protocol", (Protocol,), {"read_seconds": settings.api.read_seconds, "most": settings.api.connections})
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=cast("type[asyncio.Protocol]", kind),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level=logging.ERROR,
        # The address of a proxy's client is nothing that anyone could not claim.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    ring = app.state.services.access.ring
    # What is there by now stays; what comes is short-lived, and looking for cycles every 700 objects costs a tenth.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # Each delivery report asks for the interpreter anew; by default it would wait 5 ms for it behind a busy request.
    sys.setswitchinterval(0.001)
    with listener:
        _Server(config, lambda: ready(address, len(ring) if ring.known else None)).run([listener])


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound but does not listen: nobody is to connect before requests are served."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        # Connections of a stopped server linger for a minute.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", fix="choose another `--host` or `--port`"
        ) from None
    return bound
