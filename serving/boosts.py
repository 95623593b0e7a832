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

from clickwell.clock import Clock, SystemClock
from clickwell.serving import corrected
from clickwell.serving.clients import AsyncClient, AsyncClosing, Client, Closing, settings_of
from clickwell.serving.corrected import CorrectedBoosts
from clickwell.serving.formula import BoostByCorrectedCtr, BoostByInteractionCount
from clickwell.serving.memory import Memory
from clickwell.serving.reports import ReaderStats
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
        self._settings = settings_of(source)
        self._memory = Memory(self._settings.boosts, clock or SystemClock())

    @property
    def stats(self) -> ReaderStats:
        """Counters since the reader was made."""
        return self._memory.stats


class BoostReader(_Reader, Closing):
    """Reads counts and boosts; see the module for what it promises."""

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(source, clock=clock)
        self._client = Client(self._settings)

    def boosts(self, feature_ids: Sequence[str], stage: BoostByInteractionCount = DEFAULT_STAGE) -> Boosts:
        """Return the boost of each document, relative to the others of the list unless the stage has a fixed cap."""
        return self.read(feature_ids).boosts(stage)

    def counts(self, feature_ids: Sequence[str], signals: Iterable[str], days: float | None = None) -> Counts:
        """Return how often each signal happened to each document in the last `days` (default: the window kept)."""
        return self.read(feature_ids).counts(signals, days)

    def read(self, feature_ids: Sequence[str]) -> Snapshot:
        """Read the documents once; any number of stages can be computed from what is returned."""
        return self._client.run(self._memory.read(feature_ids))

    def corrected(self, feature_ids: Sequence[str], stage: BoostByCorrectedCtr) -> CorrectedBoosts:
        """Return the boost of each document by its corrected CTR."""
        return self._client.run(corrected.read(feature_ids, stage, self._memory.reports))


class AsyncBoostReader(_Reader, AsyncClosing):
    """The same for asyncio."""

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(source, clock=clock)
        self._client = AsyncClient(self._settings)

    async def boosts(self, feature_ids: Sequence[str], stage: BoostByInteractionCount = DEFAULT_STAGE) -> Boosts:
        """Return the boost of each document, relative to the others of the list unless the stage has a fixed cap."""
        return (await self.read(feature_ids)).boosts(stage)

    async def counts(self, feature_ids: Sequence[str], signals: Iterable[str], days: float | None = None) -> Counts:
        """Return how often each signal happened to each document in the last `days` (default: the window kept)."""
        return (await self.read(feature_ids)).counts(signals, days)

    async def read(self, feature_ids: Sequence[str]) -> Snapshot:
        """Read the documents once; any number of stages can be computed from what is returned."""
        return await self._client.run(self._memory.read(feature_ids))

    async def corrected(self, feature_ids: Sequence[str], stage: BoostByCorrectedCtr) -> CorrectedBoosts:
        """Return the boost of each document by its corrected CTR."""
        return await self._client.run(corrected.read(feature_ids, stage, self._memory.reports))
