"""What a request may bring and how often: bodies bounded in size, time and memory; a token bucket for each key."""

import zlib
from collections.abc import Callable
from time import monotonic
from typing import Any

import zstandard
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clickwell.serving.api.problems import RETRY_SECONDS, Problem

MAX_BODY = 2_000_000
MAX_EVENTS = 1000
# Frames may ask for more memory than they have content; 8 MiB is what the format's specification wants supported.
_ZSTD_WINDOW = 8 << 20
# What is unpacked at once: 256 bytes of gzip make 264 KB at most, of zstd, with 4 bytes for a block of 128 KiB, 8 MiB.
_PIECE = 256
_GZIP = 16 + zlib.MAX_WBITS


class Bodies:
    """Middleware that bounds what requests bring: each body, and the memory that all take together until answered.

    Time is bounded by the server, which sees the connection.

    Args:
        app: the app below.
        memory: bytes held at once, over all requests.
    """

    def __init__(self, app: ASGIApp, memory: int) -> None:
        self._app = app
        self._free = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if size > self._free:
                raise Problem(503, "busy", "too many requests at once", retry_after=RETRY_SECONDS)
            self._free -= size
            held += size

        async def counted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                hold(len(message.get("body", b"")))
                if held > MAX_BODY:
                    raise _too_large()
            return message

        scope.setdefault("state", {})["hold"] = hold
        try:
            length = Headers(scope=scope).get("content-length", "")
            too_large = length.isdigit() and int(length) > MAX_BODY
            await (_too_large().response() if too_large else self._app)(scope, counted, send)
        finally:
            self._free += held


async def read_body(request: Request) -> bytes:
    """Return a request's body, decompressed.

    Raises:
        Problem: it is too large, of an unknown encoding, or not what its encoding says.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "zstd"}:
        raise Problem(415, "unknown_encoding", "bodies may be gzip or zstd", headers={"Accept-Encoding": "gzip, zstd"})
    try:
        body = await request.body()
    except ClientDisconnect:
        raise Problem(400, "disconnected", "the sender has gone") from None
    if encoding in {"", "identity"}:
        return body
    body = _gunzip(body) if encoding == "gzip" else _unzstd(body)
    request.state.hold(len(body))
    return body


def _gunzip(data: bytes) -> bytes:
    return _unpack(data, lambda: zlib.decompressobj(_GZIP), "gzip")


def _unzstd(data: bytes) -> bytes:
    return _unpack(data, zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj, "zstd")


def _unpack(data: bytes, begin: Callable[[], Any], kind: str) -> bytes:
    """Return what one or several members hold; given up when it has grown beyond the limit by what a piece makes.

    Args:
        data: the members, one after another.
        begin: makes what unpacks one member.
        kind: their format's name.

    Raises:
        Problem: it is too large, or not of that format.
    """
    parts: list[bytes] = []
    size = at = members = 0
    member = None
    try:
        while at < len(data):
            if member is None or member.eof:
                members += 1
                # Each costs a few microseconds even if it is empty, and holds up everybody else.
                if members > MAX_EVENTS:
                    raise Problem(400, "bad_encoding", f"the body has more than {MAX_EVENTS:,} {kind} members")
                member = begin()
            piece = data[at : at + _PIECE]
            parts.append(member.decompress(piece))
            at += len(piece) - len(member.unused_data)
            size += len(parts[-1])
            if size > MAX_BODY:
                raise _too_large()
    except (zlib.error, zstandard.ZstdError):
        raise Problem(400, "bad_encoding", f"the body is not {kind}") from None
    if member is None or not member.eof:
        raise Problem(400, "bad_encoding", f"the {kind} data ends early")
    return b"".join(parts)


def _too_large() -> Problem:
    return Problem(413, "too_large", f"a body has at most {MAX_BODY:,} bytes, decompressed or not")


class Bucket:
    """A token bucket: `rate` tokens a second, up to a reserve of two seconds or one full batch.

    Args:
        rate: tokens a second.
        now: a clock in seconds.

    Attributes:
        rate: tokens a second.
        most: tokens that it holds when it is full.
    """

    def __init__(self, rate: float, now: Callable[[], float] = monotonic) -> None:
        self.rate = rate
        # A batch must be possible whatever the rate is.
        self.most = max(2 * rate, MAX_EVENTS)
        self._tokens = self.most
        self._now = now
        self._at = now()

    def take(self, tokens: int) -> float:
        """Take tokens and return 0, or take none and return the seconds after which they are there."""
        now = self._now()
        self._tokens = min(self.most, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if tokens > self._tokens:
            return (tokens - self._tokens) / self.rate
        self._tokens -= tokens
        return 0.0

    def put_back(self, tokens: int) -> None:
        """Take back that tokens were taken: they bought nothing."""
        self._tokens += tokens
