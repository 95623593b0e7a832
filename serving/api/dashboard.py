"""`/dashboard`, the page for those who mind relevance, and `/v1/dashboard/...`, what it asks for.

The page holds nothing of its own: every number comes from the routes below and from `live.py`, which need a key with
scope `read`. Each part of the page asks for itself, so that one that fails leaves the others standing.
"""

import asyncio
from dataclasses import asdict
from datetime import date, timedelta
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator

from clickwell.analytics.alert_evidence import evidence
from clickwell.analytics.alerting import Book
from clickwell.analytics.details import details
from clickwell.analytics.signals import get_retriever_signals, retrievers
from clickwell.analytics.trend import trend
from clickwell.errors import NoTableError
from clickwell.schemas.interactions import MAX_ID
from clickwell.serving.api.access import requires
from clickwell.serving.api.asking import FeatureId, Turns, no_nul
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of
from clickwell.serving.formula import BoostByInteractionCount
from clickwell.settings import Settings

# Nothing from elsewhere, no inline script or style: a query such as `<img onerror=...>` stays text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
_TYPES = {".js": "text/javascript", ".css": "text/css"}
STATIC = {each.name: each.read_bytes() for each in files("clickwell.serving.dashboard").iterdir() if each.is_file()}
PAGES = ("queries", "query", "skipped", "document", "zero", "blind", "alerts", "alert", "popular", "pipeline")
MOST_DAYS = 366
_DAY = timedelta(days=1)
_ROWS = 50
# Months of a large lake take seconds of both cores.
_turns = Turns(2)

pages = APIRouter(tags=["dashboard"], include_in_schema=False)
data = APIRouter(prefix="/v1/dashboard", tags=["dashboard"], dependencies=[requires(Scope.READ)])


# Empty: of events that name none.
Retriever = Annotated[str, Query(max_length=MAX_ID), AfterValidator(no_nul)]
Words = Annotated[str, Query(max_length=1024)]


@pages.get("/dashboard")
@pages.get("/dashboard/{page}")
async def page(page: str = "") -> Response:
    """Return the page; which part of it is shown, it reads from its own address."""
    if page and page not in PAGES:
        raise Problem(404, "not_found", "the dashboard has no such page")
    return Response(STATIC["index.html"], media_type="text/html", headers=HEADERS)


@pages.get("/dashboard/static/{name}")
async def asset(name: str) -> Response:
    """Return a file that the page needs."""
    kind = _TYPES.get(name[name.rfind(".") :])
    if kind is None or name not in STATIC:
        raise Problem(404, "not_found", "the dashboard has no such file")
    return Response(STATIC[name], media_type=kind, headers={**HEADERS, "Cache-Control": "no-cache"})


@data.get("/signals")
async def signals(request: Request, since: date, until: date, retriever: Retriever | None = None) -> Response:
    """Return which retrievers there are, and the signals of one (of the first, when none is named), by UTC days."""
    _check(since, until)
    settings = services_of(request).settings
    return _json(await _turns.take(_signals, settings, retriever, since, until))


@data.get("/trend")
async def hours(request: Request, since: date, until: date, retriever: Retriever) -> Response:
    """Return a retriever's hours, together with those of the period of the same length before."""
    _check(since, until)
    settings = services_of(request).settings
    return _json(await _turns.take(trend, settings, retriever, since - (until - since) - _DAY, until))


@data.get("/alerts")
async def alerts(request: Request) -> Response:
    """Return the book of alerts: those that are open, and those that closed lately."""
    return _json(await asyncio.to_thread(Book.read, services_of(request).settings))


@data.get("/alert")
async def alert(
    request: Request,
    rule: Annotated[str, Query(max_length=64)],
    retriever: Retriever,
    since_ms: Annotated[int, Query(ge=0, lt=1 << 53)],
) -> Response:
    """Return what one alert of the book rests on."""
    settings = services_of(request).settings
    return _json(await _turns.take(evidence, settings, rule, retriever, since_ms))


@data.get("/details")
async def one(
    request: Request,
    since: date,
    until: date,
    retriever: Retriever,
    query: Words | None = None,
    feature_id: FeatureId | None = None,
) -> Response:
    """Return the numbers of one query, or of one document and what its boost rests on."""
    _check(since, until)
    if (query is None) == (feature_id is None):
        raise Problem(400, "bad_request", "name a query or a feature_id")
    services = services_of(request)
    asked = {"query": query, "feature_id": feature_id}
    found = asdict(await _turns.take(details, services.settings, retriever, since, until, **asked))
    if feature_id is not None:
        stage = BoostByInteractionCount(interaction_types=dict.fromkeys(services.settings.popularity.signals, 1.0))
        found["boost"] = (await services.reader.boosts([feature_id], stage)).why(0)
    return _json(found)


def _signals(settings: Settings, retriever: str | None, since: date, until: date) -> dict[str, Any]:
    found: dict[str, Any] = {
        "lake": True,
        "retrievers": [],
        "retriever": retriever,
        "signals": None,
    }
    try:
        found["retrievers"] = names = retrievers(settings, since, until)
    except NoTableError:
        return found | {"lake": False}
    if retriever is None and names:
        found["retriever"] = retriever = names[0]
    if retriever is not None:
        found["signals"] = get_retriever_signals(retriever, settings=settings, since=since, until=until, limit=_ROWS)
    return found


def _check(since: date, until: date) -> None:
    if not since <= until:
        raise Problem(400, "bad_request", "the first day is after the last")
    if (until - since).days >= MOST_DAYS or since.year < 2000:
        raise Problem(400, "bad_request", f"{MOST_DAYS} days at most, from the year 2000 on")


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json", headers={"Cache-Control": "no-store"})
