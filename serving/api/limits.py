"""What a request may bring and how often: bodies bounded in size, time and memory; a token bucket for each key."""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import zstandard
from starlette.requests import ClientDisconnect, Request

from clickwell.serving.api.problems import RETRY_SECONDS, Problem

MAX_BODY = 2_000_000
MAX_EVENTS = 1000
# Frames may ask for more memory than they have content; 8 MiB is what the format's specification wants supported.
_ZSTD_WINDOW = 8 << 20
_GZIP = 16 + zlib.MAX_WBITS


class Bodies:
    """Reads bodies, all of which together take a bounded amount of memory.

    Args:
        memory: bytes held at once, over all requests.
        seconds: time in which a body must have arrived.
    """

    def __init__(self, memory: int, seconds: float) -> None:
        self._free = memory
        self._seconds = seconds

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes bytes of the memory; they are given back at the end.

        Raises:
            Problem: 503, by the function, when too much is held.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if size > self._free:
                raise Problem(503, "busy", "too many requests at once", retry_after=RETRY_SECONDS)
            self._free -= size
            held += size

        try:
            yield take
        finally:
            self._free += held

    async def read(self, request: Request, take: Callable[[int], None]) -> bytes:
        """Return the body, decompressed.

        Raises:
            Problem: it is too large, too slow, of an unknown encoding, or not what its encoding says.
        """
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > MAX_BODY:
            raise _too_large()
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "", "gzip", "zstd"}:
            raise Problem(
                415, "unknown_encoding", "bodies may be gzip or zstd", headers={"Accept-Encoding": "gzip, zstd"}
            )
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > MAX_BODY:
                        raise _too_large()
                    take(len(part))
                    parts.append(part)
        except TimeoutError:
            # What is still to come would be taken for the next request.
            raise Problem(408, "too_slow", "the body did not arrive in time", headers={"Connection": "close"}) from None
        except ClientDisconnect:
            raise Problem(400, "disconnected", "the sender has gone") from None
        body = b"".join(parts)
        if encoding in {"identity", ""}:
            return body
        body = _gunzip(body) if encoding == "gzip" else _unzstd(body)
        take(len(body))
        return body


def _gunzip(data: bytes) -> bytes:
    """Return what one or several gzip members hold, never growing beyond the limit."""
    parts: list[bytes] = []
    size = 0
    try:
        while data:
            member = zlib.decompressobj(_GZIP)
            parts.append(member.decompress(data, MAX_BODY + 1 - size))
            size += len(parts[-1])
            if size > MAX_BODY:
                raise _too_large()
            if not member.eof:
                raise Problem(400, "bad_encoding", "the gzip data ends early")
            data = member.unused_data
    except zlib.error:
        raise Problem(400, "bad_encoding", "the body is not gzip") from None
    return b"".join(parts)


def _unzstd(data: bytes) -> bytes:
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(data, read_across_frames=True)
        body = reader.read(MAX_BODY + 1)
    except zstandard.ZstdError:
        raise Problem(400, "bad_encoding", "the body is not zstd") from None
    if len(body) > MAX_BODY:
        raise _too_large()
    return body


def _too_large() -> Problem:
    return Problem(413, "too_large", f"a body has at most {MAX_BODY:,} bytes, decompressed or not")


class Bucket:
    """A token bucket: `rate` tokens a second, up to a reserve of two seconds or one full batch.

    Args:
        rate: tokens a second.
        now: a clock in seconds.
    """

    def __init__(self, rate: float, now: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        # A batch must be possible whatever the rate is.
        self._most = max(2 * rate, MAX_EVENTS)
        self._tokens = self._most
        self._now = now
        self._at = now()

    def take(self, tokens: int) -> float:
        """Take tokens and return 0, or take none and return the seconds after which they are there."""
        now = self._now()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if tokens > self._tokens:
            return (tokens - self._tokens) / self._rate
        self._tokens -= tokens
        return 0.0
