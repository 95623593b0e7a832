"""`/healthz`, `/readyz` and `/metrics`, for everyone: they say nothing about people."""

import asyncio
import time

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from clickwell.kafka import librdkafka_config
from clickwell.schemas.topics import INTERACTIONS
from clickwell.serving.api.services import Services, services_of

# Orchestrators ask every few seconds, from several places.
_FRESH_SECONDS = 1.0
_KAFKA_SECONDS = 2.0

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """The process serves."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether events can be taken, and what of it all answers."""

    ready: bool
    kafka: bool
    """The broker answers and has the topics."""
    redis: bool
    """Boosts can be read."""
    keys: bool
    """It is known which keys there are."""


class Readying:
    """Looks at what the API depends on, at most once a second."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._admin = AdminClient({**librdkafka_config(services.settings.kafka), "log_level": 0})
        self._at = 0.0
        self._last: Readiness | None = None
        self._lock = asyncio.Lock()

    async def look(self) -> Readiness:
        """Return what answers."""
        async with self._lock:
            if self._last is None or time.monotonic() - self._at > _FRESH_SECONDS:
                kafka, redis_up = await asyncio.gather(asyncio.to_thread(self._kafka), self._redis())
                keys = self._services.access.ring.known
                kafka = kafka and not self._services.capture.stuck
                self._last = Readiness(ready=kafka and keys, kafka=kafka, redis=redis_up, keys=keys)
                self._at = time.monotonic()
            return self._last

    def _kafka(self) -> bool:
        try:
            topic = self._admin.list_topics(INTERACTIONS.name, timeout=_KAFKA_SECONDS).topics[INTERACTIONS.name]
        except KafkaException:
            return False
        return topic.error is None

    async def _redis(self) -> bool:
        try:
            return bool(await self._services.redis.ping())
        except (redis.RedisError, OSError):
            return False


@router.get("/healthz")
async def healthz() -> Health:
    """Tell that the process serves."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Events cannot be taken now"}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Tell whether events can be taken."""
    readying: Readying = request.app.state.readying
    readiness = await readying.look()
    response.status_code = 200 if readiness.ready else 503
    return readiness


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    # The open alerts are read from a file.
    page = await asyncio.to_thread(generate_latest, services_of(request).measures.registry)
    return Response(page, media_type=CONTENT_TYPE_LATEST)
