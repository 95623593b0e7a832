"""What several API servers know together, on a real Valkey, and what each does when it is away."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from clickwell.redis_client import client_options
from clickwell.schemas.keys import TAKEN
from clickwell.serving.api import shared as shared_module
from clickwell.serving.api.access import Quota
from clickwell.serving.api.keys import Key
from clickwell.serving.api.shared import DIGEST_BYTES, Shared

pytestmark = pytest.mark.broker


def digests(first: int, last: int) -> list[bytes]:
    return [number.to_bytes(DIGEST_BYTES) for number in range(first, last)]


def with_servers(url: str, body: Callable[..., Awaitable[None]], servers: int = 2) -> None:
    """Run a body with as many servers' view of one Redis."""

    async def run() -> None:
        clients = [
            redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **client_options(0.5))
            for _ in range(servers)
        ]
        try:
            await body(*map(Shared, clients))
        finally:
            for client in clients:
                await client.aclose()

    asyncio.run(run())


def test_what_one_server_tells_all_others_know(fresh_redis):
    """Each digest by itself, in order, and more of them than go into one call."""

    async def body(one: Shared, other: Shared) -> None:
        assert await other.known(digests(0, 1300)) == bytes(1300)
        await one.tell(digests(0, 700))
        assert await other.known(digests(0, 1300)) == b"\1" * 700 + bytes(600)
        assert await other.known([]) == b""

    with_servers(fresh_redis.url, body)


def test_questions_that_go_together_get_their_own_answers(fresh_redis):
    """However many requests ask at once."""

    async def body(one: Shared, other: Shared) -> None:
        await one.tell(digests(0, 1000)[::2])
        answers = await asyncio.gather(*(other.known(digests(at, at + 3)) for at in range(997)))
        assert answers == [bytes((at + n + 1) % 2 for n in range(3)) for at in range(997)]

    with_servers(fresh_redis.url, body)


def test_what_is_held_is_bounded_and_the_latest(fresh_redis, monkeypatch):
    """Two sets, of which the older one is forgotten when the other is full."""
    monkeypatch.setattr(shared_module, "REMEMBERED", 100)

    async def body(one: Shared, other: Shared) -> None:
        for at in range(0, 1000, 50):
            await one.tell(digests(at, at + 50))
        assert await other.known(digests(850, 1000)) == b"\1" * 150
        assert await other.known(digests(0, 700)) == bytes(700)
        client = redis.asyncio.Redis.from_url(fresh_redis.url)
        assert await client.scard(f"{TAKEN}:recent") + await client.scard(f"{TAKEN}:older") <= 300
        assert 0 < await client.ttl(f"{TAKEN}:recent") <= 3600
        await client.aclose()

    with_servers(fresh_redis.url, body)


def test_a_quota_is_one_for_all_servers(fresh_redis):
    """What is refused says when it is there, and then it is."""
    key = Key(id="k", sha256="", scopes=frozenset(), quota=600, created_ms=1)

    async def body(*servers: Shared) -> None:
        quotas = [Quota(key, each) for each in servers]
        granted = [await quotas[at % 2].take(300) == 0 for at in range(5)]
        assert granted == [True] * 4 + [False]  # a bucket holds two seconds: 1,200
        wait = await quotas[1].take(300)
        assert 0 < wait <= 0.5
        await asyncio.sleep(wait)
        assert await quotas[1].take(300) == 0
        assert await Quota(key.model_copy(update={"id": "another"}), servers[0]).take(1200) == 0

    with_servers(fresh_redis.url, body)


def test_what_was_refused_is_not_paid_for(fresh_redis):
    """After the time that a refusal names, the same is granted."""
    key = Key(id="k", sha256="", scopes=frozenset(), quota=600, created_ms=1)

    async def body(*servers: Shared) -> None:
        one, other = (Quota(key, each) for each in servers)
        assert await one.take(300) == 0
        wait = await other.take(1200)
        assert 0 < wait <= 0.5
        await asyncio.sleep(wait)
        assert await other.take(1200) == 0

    with_servers(fresh_redis.url, body)


def test_without_redis_each_server_decides_by_itself(fresh_redis):
    """That is counted; it costs one request the time-out, not each; and ends by itself."""
    key = Key(id="k", sha256="", scopes=frozenset(), quota=600, created_ms=1)

    async def body(one: Shared) -> None:
        alone: Counter[str] = Counter()
        one.unshared = lambda what, number: alone.update({what: number})
        quota = Quota(key, one)
        fresh_redis.pause()
        began = asyncio.get_running_loop().time()
        for at in range(20):
            assert await one.known(digests(at, at + 10)) == bytes(10)
            await one.tell(digests(at, at + 10))
        assert [await quota.take(1000) for _ in range(2)] == [0, pytest.approx(0.8 / 0.6, abs=0.2)]
        assert asyncio.get_running_loop().time() - began < 5
        assert alone == {"events": 400, "quotas": 1}
        fresh_redis.resume()
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                while await one.known(digests(0, 1)) != b"\1":
                    await one.tell(digests(0, 1))
                    await asyncio.sleep(0.05)
        assert await one.known(digests(0, 1)) == b"\1"

    with_servers(fresh_redis.url, body, 1)
