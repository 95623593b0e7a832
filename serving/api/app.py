"""Puts the API together.

A new router: `APIRouter()` in a module of its own, its routes guarded by `access.requires(Scope.X)`, what it needs taken
from `services_of(request)`, its refusals raised as `problems.Problem`; then one line in `build_app`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import clickwell
from clickwell.serving.api import ingest, people
from clickwell.serving.api.access import Cors
from clickwell.serving.api.problems import add_problems
from clickwell.serving.api.services import Services
from clickwell.settings import Settings


def build_app(settings: Settings) -> FastAPI:
    """Return the app; it opens its connections when it is started.

    Raises:
        SettingsError: an address is malformed.
    """
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with services.open():
            yield

    app = FastAPI(title="clickwell", version=clickwell.__version__, lifespan=lifespan)
    app.state.services = services
    app.router.routes.extend(ingest.routes())
    app.include_router(people.router)
    add_problems(app)
    app.add_middleware(Cors, access=services.access)
    return app
