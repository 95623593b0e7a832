"""What the servers of one deployment know together, in Redis: which events were taken, and what keys have spent.

Questions of all requests that come while one call is on its way go into the next one. If Redis does not answer, each
server decides by itself, and that is counted: repeats count once nevertheless, and quotas are those of one server.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clickwell.schemas.keys import QUOTA, TAKEN

# Two sets of so many are held, of 16 bytes each: 50 MB when both are full.
REMEMBERED = 500_000
# Longer than anyone repeats a request; an idle deployment forgets.
_LIFE_SECONDS = 3600
# Digests in one call at most: Redis is asked for boosts meanwhile, and must not be held up for half a millisecond.
_DIGESTS = 500
DIGEST_BYTES = 16
# How long a Redis that did not answer is left alone.
_PAUSE_SECONDS = 1.0
_SCRIPT = Path(__file__).with_name("shared.lua").read_text()

log = logging.getLogger("clickwell.api")


@dataclass
class _Call:
    """One call, while it is put together, and its answer: None if there is none."""

    answer: asyncio.Future[tuple[bytes, list[int]] | None]
    asked: list[bytes] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)
    spent: list[tuple[str, float, float, int]] = field(default_factory=list)


class Shared:
    """Asks and tells the other servers. Belongs to one event loop; no method raises because of Redis.

    Args:
        client: should give up soon, as requests wait for it.

    Attributes:
        unshared: told how many `events` or `quotas` this server had to decide by itself.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._calls: deque[_Call] = deque()
        self._calling: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self.unshared: Callable[[str, int], None] = lambda _what, _number: None

    async def known(self, digests: Sequence[bytes]) -> bytes:
        """Return a byte for each digest: 1 if any server has taken the event lately, else 0."""
        parts: list[tuple[_Call, int, int]] = []
        for at in range(0, len(digests), _DIGESTS):
            piece = digests[at : at + _DIGESTS]
            call = self._next(len(piece))
            parts.append((call, len(call.asked), len(piece)))
            call.asked += piece
        answers = [(await call.answer, at, size) for call, at, size in parts]
        return b"".join(answer[0][at : at + size] if answer else bytes(size) for answer, at, size in answers)

    async def tell(self, digests: Sequence[bytes]) -> None:
        """Tell that the log has these events; once this returns, every server knows."""
        calls = []
        for at in range(0, len(digests), _DIGESTS):
            piece = digests[at : at + _DIGESTS]
            call = self._next(len(piece))
            call.taken += piece
            calls.append(call)
        for call in calls:
            await call.answer

    async def spend(self, key_id: str, rate: float, most: float, tokens: int) -> float:
        """Take tokens out of a key's bucket and return 0, or take none and return the seconds until they are there."""
        call = self._next(0)
        call.spent.append((key_id, rate, most, tokens))
        at = len(call.spent) - 1
        answer = await call.answer
        return answer[1][at] / 1000 if answer else 0.0

    def _next(self, digests: int) -> _Call:
        """Return the call that goes next and has room for so many digests."""
        if not self._calls or len(self._calls[-1].asked) + len(self._calls[-1].taken) + digests > _DIGESTS:
            self._calls.append(_Call(asyncio.get_running_loop().create_future()))
        if self._calling is None:
            self._calling = asyncio.create_task(self._run())
        return self._calls[-1]

    async def _run(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            answer = await self._call(call)
            if answer is None:
                self.unshared("events", len(call.asked) + len(call.taken))
                self.unshared("quotas", len(call.spent))
            # A server that stops cancels requests, and with them what they wait for.
            if not call.answer.done():
                call.answer.set_result(answer)
        self._calling = None

    async def _call(self, call: _Call) -> tuple[bytes, list[int]] | None:
        now = asyncio.get_running_loop().time()
        if now < self._away_until:
            return None
        keys = [f"{TAKEN}:recent", f"{TAKEN}:older", *(f"{QUOTA}:{key_id}" for key_id, *_ in call.spent)]
        numbers = [number for _, *numbers in call.spent for number in numbers]
        try:
            # Its whole text each time: it is short, and then no node of a cluster can lack it.
            known, waits = await self._client.eval(
                _SCRIPT,
                len(keys),
                *keys,
                REMEMBERED,
                _LIFE_SECONDS,
                b"".join(call.asked),
                b"".join(call.taken),
                *numbers,
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, requests wait for an answer
            log.warning("what other servers took is not known, this one decides by itself: %s", type(error).__name__)
            self._away_until = now + _PAUSE_SECONDS
            return None
        return known, waits
