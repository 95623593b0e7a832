"""The client for code that waits."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Client:
    """Sends and reads interactions over HTTP, and runs analytics and training on the lake.

    A call that the API cannot answer for the moment is repeated: with the same ids, so an event counts once however
    often it was sent. Thread-safe.

    Args:
        api_key: a key with the scopes for what is called; None works on the API's own machine while there is no key.
        base_url: address of the API; `CLICKWELL_API__HOST` and `__PORT` when None.
        timeout: seconds for one attempt.
        attempts: how often a call is tried at most.
        settings: for the lake and the default address; read from the environment when None.

    Raises:
        UsageError: the extra `client` is not installed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = TIMEOUT,
        attempts: int = ATTEMPTS,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings.load()
        self._http = http()
        self._session = self._http.Client(**options(api_key, base_url, settings, timeout))
        self._attempts = attempts
        self.interactions = Interactions(self)
        self.analytics = Analytics(settings)
        self.training = Training(settings)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, call: Call[T]) -> T:
        """Send a call, again and again if need be, and return its result.

        Raises:
            DecodeError: the event was rejected.
            UsageError: the API refuses the call.
            DependencyError: the API, or something it needs, is away.
        """
        for attempt in range(1, self._attempts + 1):
            said = None
            try:
                response = self._session.request(call.method, call.path, params=call.params, json=call.body)
                if attempt == self._attempts or not is_worth_another(response):
                    return read(call, response, attempt)
                said = response.headers.get("retry-after")
            except self._http.TransportError as error:
                if attempt == self._attempts:
                    raise unreachable(error, self._session.base_url, attempt) from None
            time.sleep(calls.wait(attempt, said))
        raise AssertionError("the last attempt returns or raises")


class Interactions:
    """What people did with results. Errors are those of `Client.send`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, feature_id: str, interaction_type: Sequence[str], **fields: Unpack[InteractionFields]) -> Created:
        """Send one interaction and return what it can be used for, once the log has it."""
        return self._client.send(calls.create(feature_id, interaction_type, fields))

    def create_many(self, events: Iterable[Mapping[str, Any]]) -> list[Created]:
        """Send up to 1,000 interactions and return the verdict on each, in order; a bad one raises nothing."""
        return self._client.send(calls.create_many(events))

    def list(self, **filters: Unpack[Filters]) -> InteractionPage:
        """Return one page of interactions, newest first, as the lake has them."""
        return self._client.send(calls.list_(filters))

    def iterate(self, **filters: Unpack[Filters]) -> Iterator[StoredInteraction]:
        """Yield all interactions that meet the filters, of one moment, page by page."""
        while True:
            page = self.list(**filters)
            yield from page.interactions
            if page.next_cursor is None:
                return
            filters["cursor"] = page.next_cursor

    def get(self, interaction_id: str) -> StoredInteraction | None:
        """Return one interaction, None until the lake has it."""
        return self._client.send(calls.get(interaction_id))

    def delete(self, interaction_id: str | None = None, *, user_id: str | None = None, reason: str = "") -> Receipt:
        """Have one interaction, or all of a user, erased everywhere; return the receipt of the request."""
        return self._client.send(calls.delete(interaction_id, user_id, reason))
