"""Puts the API together.

A new router: `APIRouter()` in a module of its own, its routes guarded by `access.requires(Scope.X)`, what it needs
taken from `services_of(request)`, its refusals raised as `problems.Problem`; then one line in `build_app`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

import clickwell
from clickwell.serving.api import (
    beacon,
    boosting,
    dashboard,
    dialects,
    erasing,
    health,
    ingest,
    insights,
    letters,
    listing,
    live,
    people,
)
from clickwell.serving.api.access import Cors
from clickwell.serving.api.describe import describe
from clickwell.serving.api.limits import Bodies
from clickwell.serving.api.observe import Observe
from clickwell.serving.api.problems import add_problems
from clickwell.serving.api.services import Services
from clickwell.settings import Settings
from clickwell.tracing import tracing_of

# `Observe` does it: FastAPI's own spans and logs hold paths and the words of errors, in which ids of people stand.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}


def build_app(settings: Settings) -> FastAPI:
    """Return the app; it opens its connections when it is started.

    Raises:
        SettingsError: an address is malformed, or the secret keys cannot be used.
        UsageError: the settings want a package that is not installed.
    """
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with services.open():
            yield

    app = FastAPI(title="clickwell", version=clickwell.__version__, lifespan=lifespan, telemetry=_NO_TELEMETRY)
    app.state.services = services
    app.state.readying = health.Readying(services)
    app.state.lake_watch = live.LakeWatch()
    app.state.requested = erasing.Requested()
    # Routes are tried in order, and these are asked for most.
    app.router.routes[:0] = [*ingest.routes(), *dialects.routes()]
    for router in (
        listing.router,
        erasing.router,
        boosting.router,
        people.router,
        insights.router,
        letters.router,
        beacon.router,
        dashboard.pages,
        dashboard.data,
        live.router,
        health.router,
    ):
        app.include_router(router)
    add_problems(app)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]  # FastAPI's documented way
    # The last one added is the first to see a request.
    app.add_middleware(Bodies, memory=settings.api.memory_mb << 20)
    app.add_middleware(Cors, access=services.access)
    app.add_middleware(Observe, measures=services.measures, tracing=tracing_of(settings))
    return app
