"""One round trip after another: how readers ask Redis, with and without asyncio.

What a reader asks and makes of the answers is a generator that yields commands and is sent their replies, or the error;
it never sees a socket. Both clients run the same generators, so that there is one logic and no exception out of Redis.
"""

import time
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from clickwell.metrics import READ_SECONDS, Histogram
from clickwell.redis_client import async_client_of, client_of, client_options
from clickwell.settings import Settings

T = TypeVar("T")

Command = tuple[str | bytes | int, ...]
Steps = Generator[list[Command], "list[Any] | Exception", T]


def settings_of(source: Settings | str | None) -> Settings:
    """Return settings given as themselves or by an address of Redis; `Settings.load()` when absent."""
    if isinstance(source, Settings):
        return source
    return Settings.load(redis={"url": source}) if source else Settings.load()


class Client:
    """Asks Redis. Nothing is retried; an answer is waited for as long as `settings.boosts.timeout`.

    Args:
        settings: where Redis is.
        options: of the client library; the address may override them.

    Raises:
        SettingsError: the address is malformed. Nothing is connected yet.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.seconds = READ_SECONDS.histogram()
        options = client_options(settings.boosts.timeout) | options
        self._redis = client_of(settings.redis, retry=Retry(NoBackoff(), 0), **options)

    def run(self, steps: Steps[T]) -> T:
        """Run a reader's steps to their end and return what they return."""
        began = time.perf_counter()
        try:
            commands = next(steps)
            while True:
                commands = steps.send(self._ask(commands))
        except StopIteration as end:
            self.seconds.observe(time.perf_counter() - began)
            result: T = end.value
            return result

    def _ask(self, commands: list[Command]) -> list[Any] | Exception:
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
            return pipeline.execute()
        except Exception as error:  # noqa: BLE001  # a search must not fail because of what is read for it
            return error

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._redis.close()


class AsyncClient:
    """The same for asyncio; it belongs to one event loop."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.seconds = READ_SECONDS.histogram()
        options = client_options(settings.boosts.timeout) | options
        self._redis = async_client_of(settings.redis, retry=AsyncRetry(NoBackoff(), 0), **options)

    async def run(self, steps: Steps[T]) -> T:
        """Run a reader's steps to their end and return what they return."""
        began = time.perf_counter()
        try:
            commands = next(steps)
            while True:
                commands = steps.send(await self._ask(commands))
        except StopIteration as end:
            self.seconds.observe(time.perf_counter() - began)
            result: T = end.value
            return result

    async def _ask(self, commands: list[Command]) -> list[Any] | Exception:
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute()
        except Exception as error:  # noqa: BLE001  # a search must not fail because of what is read for it
            return error

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        await self._redis.aclose()


class Closing:
    """A reader that asks through one `Client`, and closes it at the end of a `with`."""

    _client: Client

    @property
    def seconds(self) -> Histogram:
        """Time of each answer, by size."""
        return self._client.seconds

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClosing:
    """The same for asyncio."""

    _client: AsyncClient

    @property
    def seconds(self) -> Histogram:
        """Time of each answer, by size."""
        return self._client.seconds

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
