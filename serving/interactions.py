"""Read what a user did: lists, exclusions, preferences; and never an exception because of Redis.

```python
interactions = InteractionReader()
for item in interactions.list(user_id="u17", interaction_type=["purchase"], days=90):
    print(item.feature_id, item.timestamp)
query["filter"] = interactions.exclusion("u17").filter  # {"document_id": {"$nin": [...]}}
results = interactions.deduplicate(results, "u17")
results = interactions.personalize(results, "u17", strength=0.25, explain=True)
```

If anything is wrong with Redis nothing is known of the user: nothing is excluded and the order stays; the answer's
`reason` says why, `interactions.stats` counts it and a warning is logged at most once a minute. Workers that are far
behind are counted and told too, but what is known is used: it is true, it only lacks the newest. Nothing is retried.

One `InteractionReader` serves all threads of a process. An `AsyncInteractionReader` belongs to one event loop.
"""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from clickwell.clock import Clock, SystemClock
from clickwell.serving.clients import AsyncClient, AsyncClosing, Client, Closing, settings_of
from clickwell.serving.exclusion import FIELD, Consumption, Exclusion
from clickwell.serving.people import People
from clickwell.serving.personalize import DEFAULT_STRENGTH, personalized, without
from clickwell.serving.profile import Profile
from clickwell.serving.reports import ReaderStats
from clickwell.serving.rerank import Ranked
from clickwell.serving.results import ids_of
from clickwell.settings import Settings

T = TypeVar("T")

# The newer protocol makes a list of each entry and its time, which takes three times as long to read.
_FLAT = {"protocol": 2}

# Within the readers `list` is a method.
Kept: TypeAlias = list[T]
Reordered: TypeAlias = list[Ranked[T]]


class _Reader:
    """What both readers share.

    Args:
        source: settings, or an address of Redis; `Settings.load()` when absent.
        clock: tells how old things are.

    Raises:
        SettingsError: a setting or the address is malformed.
    """

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        self._settings = settings_of(source)
        self._people = People(self._settings, clock or SystemClock())

    @property
    def stats(self) -> ReaderStats:
        """Counters since the reader was made."""
        return self._people.stats


class InteractionReader(_Reader, Closing):
    """Reads what users did; see the module for what it promises."""

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(source, clock=clock)
        self._client = Client(self._settings, **_FLAT)

    def list(
        self, user_id: str, interaction_type: Sequence[str] | None = None, days: float | None = None
    ) -> Consumption:
        """Return what a user did in the last `days`, newest first: one entry for each document and signal.

        Args:
            user_id: the user.
            interaction_type: signals; all that are kept when absent.
            days: how far back, by default and at most as far as is kept.
        """
        return self._client.run(self._people.consumption(user_id, interaction_type, days))

    def exclusion(
        self,
        user_id: str,
        interaction_type: Sequence[str] | None = None,
        days: float | None = None,
        *,
        negative_feedback: bool = False,
        field: str = FIELD,
    ) -> Exclusion:
        """Return the documents to leave out of a user's results, and filters that do it.

        Args:
            user_id: the user.
            interaction_type: signals that exclude; `settings.history.consumed`, purchases, when absent.
            days: how far back, by default and at most as far as is kept.
            negative_feedback: exclude what the user spoke against, too.
            field: the search engine's field that holds the document's id.
        """
        return Exclusion(
            self._client.run(
                self._people.excluded(user_id, interaction_type, days, negative_feedback=negative_feedback)
            ),
            field,
        )

    def deduplicate(
        self,
        results: Sequence[T],
        user_id: str,
        interaction_type: Sequence[str] | None = None,
        days: float | None = None,
        *,
        negative_feedback: bool = False,
    ) -> Kept[T]:
        """Return the results, in their order, without what `exclusion` excludes.

        Raises:
            InputError: a result has no id.
        """
        ids = ids_of(results)
        return without(
            results, ids, self.exclusion(user_id, interaction_type, days, negative_feedback=negative_feedback)
        )

    def profile(self, user_id: str) -> Profile:
        """Return what a user prefers: decayed weights of documents and of their attributes."""
        profile, _ = self._client.run(self._people.profile(user_id))
        return profile

    def personalize(
        self, results: Sequence[T], user_id: str, strength: float = DEFAULT_STRENGTH, *, explain: bool = False
    ) -> Reordered[T]:
        """Return the results by how good they are for this user; without a history scores and order stay.

        Args:
            results: as for `clickwell.rerank`.
            user_id: the user.
            strength: what a perfect fit adds to a score: 0.25 makes it a quarter more; 0 changes nothing.
            explain: say why.

        Raises:
            InputError: a result has no id.
            UsageError: the strength is negative or not a number.
        """
        ids = ids_of(results)
        profile, catalog = self._client.run(self._people.profile(user_id, ids))
        return personalized(results, ids, profile, catalog, strength, explain=explain)


class AsyncInteractionReader(_Reader, AsyncClosing):
    """The same for asyncio."""

    def __init__(self, source: Settings | str | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(source, clock=clock)
        self._client = AsyncClient(self._settings, **_FLAT)

    async def list(
        self, user_id: str, interaction_type: Sequence[str] | None = None, days: float | None = None
    ) -> Consumption:
        """Return what a user did, as `InteractionReader.list` does."""
        return await self._client.run(self._people.consumption(user_id, interaction_type, days))

    async def exclusion(
        self,
        user_id: str,
        interaction_type: Sequence[str] | None = None,
        days: float | None = None,
        *,
        negative_feedback: bool = False,
        field: str = FIELD,
    ) -> Exclusion:
        """Return the documents to leave out, as `InteractionReader.exclusion` does."""
        steps = self._people.excluded(user_id, interaction_type, days, negative_feedback=negative_feedback)
        return Exclusion(await self._client.run(steps), field)

    async def deduplicate(
        self,
        results: Sequence[T],
        user_id: str,
        interaction_type: Sequence[str] | None = None,
        days: float | None = None,
        *,
        negative_feedback: bool = False,
    ) -> Kept[T]:
        """Return the results without what is excluded, as `InteractionReader.deduplicate` does."""
        ids = ids_of(results)
        excluded = await self.exclusion(user_id, interaction_type, days, negative_feedback=negative_feedback)
        return without(results, ids, excluded)

    async def profile(self, user_id: str) -> Profile:
        """Return what a user prefers."""
        profile, _ = await self._client.run(self._people.profile(user_id))
        return profile

    async def personalize(
        self, results: Sequence[T], user_id: str, strength: float = DEFAULT_STRENGTH, *, explain: bool = False
    ) -> Reordered[T]:
        """Return the results by how good they are for this user, as `InteractionReader.personalize` does."""
        ids = ids_of(results)
        profile, catalog = await self._client.run(self._people.profile(user_id, ids))
        return personalized(results, ids, profile, catalog, strength, explain=explain)
