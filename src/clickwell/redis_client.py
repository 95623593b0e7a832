"""How everything that reads connects to Redis, and says so when it cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.maint_notifications import MaintNotificationsConfig

from clickwell.errors import RedisError, SettingsError
from clickwell.redis_cluster import AsyncCluster, Cluster
from clickwell.schemas.keys import ACTIVE
from clickwell.schemas.rings import Generation
from clickwell.settings import RedisSettings, Settings


def client_options(timeout: float) -> dict[str, Any]:
    """Return the options of every client: bytes, one time-out for each wait on the socket, no handshake beyond HELLO.

    The address may override them, for example `?protocol=2`.
    """
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "decode_responses": False,
        # Redis Enterprise's notices of maintenance; asking for them costs every new connection a round trip.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def connect(settings: Settings) -> redis.Redis:
    """Return a client with the workers' time-out, for reads where an error is better than no answer.

    Raises:
        SettingsError: the address is malformed. Nothing is connected yet.
    """
    return client_of(settings.redis, **client_options(settings.redis.timeout))


def client_of(settings: RedisSettings, **options: Any) -> redis.Redis:
    """Return a client of the server, or of all nodes of the cluster, with redis-py's options of a connection.

    Raises:
        SettingsError: the address is malformed. Nothing is connected yet.
    """
    kind = Cluster if settings.cluster else redis.Redis
    try:
        return kind.from_url(settings.url, **options)
    except ValueError as error:
        raise _bad_address(error) from None


def async_client_of(settings: RedisSettings, **options: Any) -> "redis.asyncio.Redis":
    """Return the same for asyncio.

    Raises:
        SettingsError: the address is malformed. Nothing is connected yet.
    """
    kind = AsyncCluster if settings.cluster else redis.asyncio.Redis
    try:
        return kind.from_url(settings.url, **options)
    except ValueError as error:
        raise _bad_address(error) from None


def _bad_address(error: ValueError) -> SettingsError:
    # It is not repeated: it may hold a password.
    return SettingsError(
        f"the address of Redis is malformed: {error}", fix="set CLICKWELL_REDIS__URL to redis://HOST:PORT/0"
    )


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn the client library's errors into clickwell's.

    Raises:
        RedisError: Redis is away, too slow, or refuses a command.
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise RedisError(
            "Redis cannot be read", why=str(error), fix="`clickwell status` shows what runs; `clickwell up` starts it"
        ) from None


def active_generation(client: redis.Redis) -> Generation | None:
    """Return the generation that readers use; None when nothing has been counted yet.

    Raises:
        RedisError: Redis is away, or the pointer is not of this version.
    """
    with redis_errors():
        pointer: Any = client.get(ACTIVE)
    try:
        return None if pointer is None else Generation.model_validate_json(pointer)
    except ValueError as error:
        raise RedisError(f"{ACTIVE} is not of this version", why=str(error).splitlines()[0]) from None
