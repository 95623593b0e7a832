"""Read popularity boosts: one round trip for a list of documents, and never an exception because of Redis.

```python
reader = BoostReader()
for boost in reader.boosts(["trail-pro", "road-runner-3"], BoostByInteractionCount(boost_multiplier=1.2)):
    print(boost.feature_id, boost.boost, boost.by_signal)
```

If anything is wrong with Redis, or if the workers have made no progress for `settings.boosts.max_age_seconds`, every
boost is 1.0 and `reason` says why; `reader.stats` counts it and a warning is logged at most once a minute. Nothing is
retried: a search waits `settings.boosts.timeout` at most for each wait on the socket, which is one, plus one when
connecting and one after a rebuild.

One reader serves all threads of a process. It may be made before a fork: children open connections of their own. An
`AsyncBoostReader` belongs to one event loop.
"""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from clickwell.clock import Clock, SystemClock
from clickwell.redis_client import bad_address, client_options
from clickwell.serving.formula import BoostByInteractionCount
from clickwell.serving.memory import Command, Memory, ReaderStats
from clickwell.serving.snapshot import Boosts, Counts, Snapshot
from clickwell.settings import Settings

DEFAULT_STAGE = BoostByInteractionCount()


class _Reader:
    """What both readers share.

    Args:
        source: settings, or an address of Redis; `Settings.load()` when absent.
        clock: tells where the window ends.

    Raises:
        SettingsError: a setting or the address is malformed.
    """

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        if isinstance(source, Settings):
            self._settings = source
        else:
            self._settings = Settings.load(redis={"url": source}) if source else Settings.load()
        self._memory = Memory(self._settings.boosts, clock or SystemClock())

    def _client(self, kind: Any, retry: Any) -> Any:
        try:
            options = client_options(self._settings.boosts.timeout)
            return kind.from_url(self._settings.redis.url, retry=retry, **options)
        except ValueError as error:
            raise bad_address(error) from None

    @property
    def stats(self) -> ReaderStats:
        """Counters since the reader was made."""
        return self._memory.stats


class BoostReader(_Reader):
    """Reads counts and boosts; see the module for what it promises."""

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(source, clock=clock)
        self._redis: redis.Redis = self._client(redis.Redis, Retry(NoBackoff(), 0))

    def boosts(self, feature_ids: Sequence[str], stage: BoostByInteractionCount = DEFAULT_STAGE) -> Boosts:
        """Return the boost of each document, relative to the others of the list unless the stage has a fixed cap."""
        return self.read(feature_ids).boosts(stage)

    def counts(self, feature_ids: Sequence[str], signals: Iterable[str], days: float | None = None) -> Counts:
        """Return how often each signal happened to each document in the last `days` (default: the window kept)."""
        return self.read(feature_ids).counts(signals, days)

    def read(self, feature_ids: Sequence[str]) -> Snapshot:
        """Read the documents once; any number of stages can be computed from what is returned."""
        steps = self._memory.read(feature_ids)
        try:
            commands = next(steps)
            while True:
                commands = steps.send(self._ask(commands))
        except StopIteration as end:
            return cast("Snapshot", end.value)

    def _ask(self, commands: list[Command]) -> list[Any] | Exception:
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
            return pipeline.execute()
        except Exception as error:  # noqa: BLE001  # a search must not fail because of its boosts
            return error

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncBoostReader(_Reader):
    """The same for asyncio."""

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(source, clock=clock)
        self._redis: redis.asyncio.Redis = self._client(redis.asyncio.Redis, AsyncRetry(NoBackoff(), 0))

    async def boosts(self, feature_ids: Sequence[str], stage: BoostByInteractionCount = DEFAULT_STAGE) -> Boosts:
        """Return the boost of each document, relative to the others of the list unless the stage has a fixed cap."""
        return (await self.read(feature_ids)).boosts(stage)

    async def counts(self, feature_ids: Sequence[str], signals: Iterable[str], days: float | None = None) -> Counts:
        """Return how often each signal happened to each document in the last `days` (default: the window kept)."""
        return (await self.read(feature_ids)).counts(signals, days)

    async def read(self, feature_ids: Sequence[str]) -> Snapshot:
        """Read the documents once; any number of stages can be computed from what is returned."""
        steps = self._memory.read(feature_ids)
        try:
            commands = next(steps)
            while True:
                commands = steps.send(await self._ask(commands))
        except StopIteration as end:
            return cast("Snapshot", end.value)

    async def _ask(self, commands: list[Command]) -> list[Any] | Exception:
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute()
        except Exception as error:  # noqa: BLE001  # a search must not fail because of its boosts
            return error

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
