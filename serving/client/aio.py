"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from clickwell.serving.client import calls
from clickwell.serving.client.calls import Call, Filters, InteractionFields
from clickwell.serving.client.connection import (
    ATTEMPTS,
    TIMEOUT,
    http,
    is_worth_another,
    options,
    read,
    unreachable,
)
from clickwell.serving.client.local import Analytics, Training
from clickwell.serving.client.results import Created, InteractionPage, Receipt, StoredInteraction
from clickwell.settings import Settings

T = TypeVar("T")


class AsyncClient:
    """Like `clickwell.serving.client.Client`; analytics and training run in a thread.

    Args and errors are those of `Client`.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = TIMEOUT,  # of one attempt, by the HTTP library
        attempts: int = ATTEMPTS,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings.load()
        self._http = http()
        self._session = self._http.AsyncClient(**options(api_key, base_url, settings, timeout))
        self._attempts = attempts
        self.interactions = AsyncInteractions(self)
        self.analytics = AsyncAnalytics(Analytics(settings))
        self.training = AsyncTraining(Training(settings))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def send(self, call: Call[T]) -> T:
        """Send a call, again and again if need be, and return its result; errors are those of `Client.send`."""
        for attempt in range(1, self._attempts + 1):
            said = None
            try:
                response = await self._session.request(call.method, call.path, params=call.params, json=call.body)
                if attempt == self._attempts or not is_worth_another(response):
                    return read(call, response, attempt)
                said = response.headers.get("retry-after")
            except self._http.TransportError as error:
                if attempt == self._attempts:
                    raise unreachable(error, self._session.base_url, attempt) from None
            await asyncio.sleep(calls.wait(attempt, said))
        raise AssertionError("the last attempt returns or raises")


class AsyncInteractions:
    """Like `Interactions`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(
        self, feature_id: str, interaction_type: Sequence[str], **fields: Unpack[InteractionFields]
    ) -> Created:
        """Send one interaction and return what it can be used for, once the log has it."""
        return await self._client.send(calls.create(feature_id, interaction_type, fields))

    async def create_many(self, events: Iterable[Mapping[str, Any]]) -> list[Created]:
        """Send up to 1,000 interactions and return the verdict on each, in order; a bad one raises nothing."""
        return await self._client.send(calls.create_many(events))

    async def list(self, **filters: Unpack[Filters]) -> InteractionPage:
        """Return one page of interactions, newest first, as the lake has them."""
        return await self._client.send(calls.list_(filters))

    async def iterate(self, **filters: Unpack[Filters]) -> AsyncIterator[StoredInteraction]:
        """Yield all interactions that meet the filters, of one moment, page by page."""
        while True:
            page = await self.list(**filters)
            for one in page.interactions:
                yield one
            if page.next_cursor is None:
                return
            filters["cursor"] = page.next_cursor

    async def get(self, interaction_id: str) -> StoredInteraction | None:
        """Return one interaction, None until the lake has it."""
        return await self._client.send(calls.get(interaction_id))

    async def delete(
        self, interaction_id: str | None = None, *, user_id: str | None = None, reason: str = ""
    ) -> Receipt:
        """Have one interaction, or all of a user, erased everywhere; return the receipt of the request."""
        return await self._client.send(calls.delete(interaction_id, user_id, reason))


class AsyncAnalytics:
    """Like `Analytics`, in a thread."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics

    async def get_retriever_signals(self, retriever_id: str, **options: Any) -> Any:
        """See `Analytics.get_retriever_signals`."""
        return await asyncio.to_thread(self._analytics.get_retriever_signals, retriever_id, **options)

    async def get_query_document_pairs(self, **options: Any) -> Any:
        """See `Analytics.get_query_document_pairs`."""
        return await asyncio.to_thread(self._analytics.get_query_document_pairs, **options)


class AsyncTraining:
    """Like `Training`, in a thread."""

    def __init__(self, training: Training) -> None:
        self._training = training

    async def fine_tune(self, base_model: Any, training_data: Any, **options: Any) -> Any:
        """See `Training.fine_tune`."""
        return await asyncio.to_thread(self._training.fine_tune, base_model, training_data, **options)

    async def evaluate(self, model: Any, **options: Any) -> Any:
        """See `Training.evaluate`."""
        return await asyncio.to_thread(self._training.evaluate, model, **options)
