"""What the routes work with, opened when the server starts and closed when it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import Request
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from clickwell.errors import KafkaError
from clickwell.kafka import KafkaLog
from clickwell.producers.emitter import Emitter
from clickwell.redis_client import async_client_of, client_options
from clickwell.serving.api.access import Access
from clickwell.serving.api.capture import Capture
from clickwell.serving.api.measures import Measures
from clickwell.serving.boosts import AsyncBoostReader
from clickwell.serving.interactions import AsyncInteractionReader
from clickwell.settings import Settings

# After the last request; what the broker has not confirmed by then was answered with 503.
_CLOSE_SECONDS = 5.0
# Longer than it takes; a broker that is away must not keep the server from answering 503.
_RECALL_SECONDS = 5.0

log = logging.getLogger("clickwell.api")


class Services:
    """The parts that one app shares among its routes.

    Args:
        settings: addresses and limits.

    Raises:
        SettingsError: an address is malformed.
    """

    emitter: Emitter
    """Sends what was captured."""
    capture: Capture
    """Takes events and gives verdicts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        options = client_options(settings.redis.timeout)
        self.redis = async_client_of(settings.redis, retry=Retry(NoBackoff(), 0), **options)
        self.access = Access(self.redis, settings.api.origins)
        self.reader = AsyncBoostReader(settings)
        self.interactions = AsyncInteractionReader(settings)
        self.measures = Measures({"boosts": self.reader, "interactions": self.interactions})

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect to Kafka, keep the keys fresh, and at the end send what is left."""
        # A spool would make the broker's word, which a 202 stands for, a promise of this machine's disk.
        buffers = self.settings.emitter.model_copy(update={"spool": None})
        self.emitter = Emitter(self.settings.model_copy(update={"emitter": buffers}), source="api")
        self.capture = Capture(self.settings, self.emitter)
        self.measures.watch(self.capture)
        await asyncio.gather(self.access.refresh(), self._recall())
        refreshing = asyncio.create_task(self.access.keep_fresh())
        try:
            yield
        finally:
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing
            await asyncio.to_thread(self.emitter.close, _CLOSE_SECONDS)
            await self.reader.aclose()
            await self.interactions.aclose()
            await self.redis.aclose()

    async def _recall(self) -> None:
        try:
            await asyncio.wait_for(self.capture.recall(KafkaLog(self.settings.kafka)), _RECALL_SECONDS)
        except (KafkaError, TimeoutError) as error:
            log.warning("repeats of earlier events will not be known: %s", error or "the broker does not answer")


def services_of(request: Request) -> Services:
    """Return the services of the app that got a request."""
    services: Services = request.app.state.services
    return services
