"""What the routes work with, opened when the server starts and closed when it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import redis.asyncio
from fastapi import Request
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from clickwell.errors import KafkaError
from clickwell.kafka import KafkaLog
from clickwell.producers.emitter import edge_for
from clickwell.redis_client import async_client_of, client_options
from clickwell.serving.api.access import Access
from clickwell.serving.api.capture import Capture
from clickwell.serving.api.measures import Measures
from clickwell.serving.api.sending import Sender
from clickwell.serving.api.shared import Shared
from clickwell.serving.boosts import AsyncBoostReader
from clickwell.serving.interactions import AsyncInteractionReader
from clickwell.settings import Settings

# After the last request; what the broker has not confirmed by then was answered with 503.
_CLOSE_SECONDS = 5.0
# Longer than it takes; a broker that is away must not keep the server from answering 503.
_RECALL_SECONDS = 5.0
# Requests wait for it. Longer than a busy server may be busy with other requests before it reads an answer.
_SHARED_SECONDS = 0.25

log = logging.getLogger("clickwell.api")


class Services:
    """The parts that one app shares among its routes.

    Args:
        settings: addresses and limits.

    Raises:
        SettingsError: an address is malformed, or the secret keys cannot be used.
        UsageError: the settings want a package that is not installed.
    """

    capture: Capture
    """Takes events and gives verdicts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = _connect(settings, settings.redis.timeout)
        self._hasty = _connect(settings, _SHARED_SECONDS)
        self._shared = Shared(self._hasty)
        self._edge = edge_for(settings)
        self.access = Access(self.redis, self._shared, settings.api.origins)
        self.reader = AsyncBoostReader(settings)
        self.interactions = AsyncInteractionReader(settings)
        self.measures = Measures({"boosts": self.reader, "interactions": self.interactions})

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect to Kafka, keep the keys fresh, and at the end send what is left."""
        sender = Sender(self.settings)
        self.capture = Capture(self.settings, sender, self._shared, self._edge)
        self.measures.watch(self.capture, self._shared)
        await asyncio.gather(self.access.refresh(), self._recall())
        refreshing = asyncio.create_task(self.access.keep_fresh())
        try:
            yield
        finally:
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing
            sender.close(_CLOSE_SECONDS)
            await self.reader.aclose()
            await self.interactions.aclose()
            await self.redis.aclose()
            await self._hasty.aclose()

    async def _recall(self) -> None:
        try:
            await asyncio.wait_for(self.capture.recall(KafkaLog(self.settings.kafka)), _RECALL_SECONDS)
        except (KafkaError, TimeoutError) as error:
            log.warning("repeats of earlier events will not be known: %s", error or "the broker does not answer")


def _connect(settings: Settings, timeout: float) -> redis.asyncio.Redis:
    return async_client_of(settings.redis, retry=Retry(NoBackoff(), 0), **client_options(timeout))


def services_of(request: Request) -> Services:
    """Return the services of the app that got a request."""
    services: Services = request.app.state.services
    return services
