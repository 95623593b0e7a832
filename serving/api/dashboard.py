"""`/dashboard`, the page for those who mind relevance, and `/v1/dashboard/...`, what it asks for.

The page holds nothing of its own: every number comes from the routes below, which need a key with scope `read`.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator

from clickwell.analytics.alerting import Book
from clickwell.analytics.details import details
from clickwell.analytics.signals import get_retriever_signals, retrievers
from clickwell.analytics.trend import trend
from clickwell.errors import LakeError
from clickwell.schemas.interactions import MAX_FEATURE_ID, MAX_ID
from clickwell.serving.api.access import requires
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of
from clickwell.serving.trending import top
from clickwell.serving.workers import worker_reports
from clickwell.settings import Settings

STATIC = files("clickwell.serving.dashboard")
# Nothing from elsewhere, no inline script or style: a query such as `<img onerror=...>` stays text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
ASSETS = {
    "dashboard.js": "text/javascript",
    "charts.js": "text/javascript",
    "uplot.js": "text/javascript",
    "dashboard.css": "text/css",
    "uplot.css": "text/css",
}
PAGES = ("queries", "query", "skipped", "document", "zero", "blind", "alerts", "pipeline")
MOST_DAYS = 366
POPULAR = 10
# The lane whose duplicates and late events are shown; the others differ by what they look at.
_LANE = "popularity"
_ROWS = 50
# Months of a large lake take seconds of both cores; more at once would only wait for each other.
_turns = asyncio.Semaphore(2)

pages = APIRouter(tags=["dashboard"], include_in_schema=False)
data = APIRouter(prefix="/v1/dashboard", tags=["dashboard"], dependencies=[requires(Scope.READ)])


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds the NUL character")
    return text


Retriever = Annotated[str, Query(max_length=MAX_ID), AfterValidator(_no_nul)]
Text = Annotated[str | None, Query(max_length=1024)]
Document = Annotated[str | None, Query(min_length=1, max_length=MAX_FEATURE_ID)]


@pages.get("/dashboard")
@pages.get("/dashboard/{page}")
async def page(page: str = "") -> Response:
    """Return the page; which part of it is shown, it reads from its own address."""
    if page and page not in PAGES:
        raise Problem(404, "not_found", "the dashboard has no such page")
    return Response(STATIC.joinpath("index.html").read_bytes(), media_type="text/html", headers=HEADERS)


@pages.get("/dashboard/static/{name}")
async def asset(name: str) -> Response:
    """Return a file that the page needs."""
    if name not in ASSETS:
        raise Problem(404, "not_found", "the dashboard has no such file")
    headers = {**HEADERS, "Cache-Control": "no-cache"}
    return Response(STATIC.joinpath(name).read_bytes(), media_type=ASSETS[name], headers=headers)


@data.get("/live")
async def live(request: Request) -> Response:
    """Return what changes by the second: workers, lag, what is popular, how many alerts are open. With an ETag."""
    services = services_of(request)
    found = await asyncio.to_thread(_live, services.settings)
    # Without the clock, so that nothing new is told as nothing new.
    tag = '"' + hashlib.blake2b(msgspec.json.encode({**found, "at_ms": 0}), digest_size=12).hexdigest() + '"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return _json(found, ETag=tag)


@data.get("/period")
async def period(request: Request, since: date, until: date, retriever: Retriever | None = None) -> Response:
    """Return signals, trend and alerts of a retriever (of the first, when none is named) over some days, UTC."""
    _check(since, until)
    settings = services_of(request).settings
    return _json(await _in_turn(lambda: _period(settings, retriever, since, until)))


@data.get("/details")
async def one(
    request: Request, since: date, until: date, retriever: Retriever, query: Text = None, feature_id: Document = None
) -> Response:
    """Return the numbers of one query or of one document."""
    _check(since, until)
    if (query is None) == (feature_id is None):
        raise Problem(400, "bad_request", "name a query or a feature_id")
    settings = services_of(request).settings
    find = lambda: details(settings, retriever, since, until, query=query, feature_id=feature_id)  # noqa: E731
    return _json(asdict(await _in_turn(find)))


def _live(settings: Settings) -> dict[str, Any]:
    reports = worker_reports(settings)
    lag: dict[str, int] = {}
    totals = dict.fromkeys(("applied", "counted", "late", "duplicates", "dead_letters", "rewinds", "lost"), 0)
    for report in reports:
        for lane, records in report.lag_by_lane().items():
            lag[lane] = lag.get(lane, 0) + records
        for name in totals:
            told: Any = (report.model_extra or {}).get(name, 0)
            # What differs by lane is told by lane.
            totals[name] += int(told.get(_LANE, 0) if isinstance(told, dict) else told)
    return {
        "at_ms": _now_ms(),
        "workers": [
            {"id": report.id, "host": report.host, "at_ms": report.at_ms // 10_000 * 10_000} for report in reports
        ],
        "lag": lag,
        "since_start": totals,
        "popular": [each.as_dict() for each in top(settings, POPULAR)],
        "alerts_open": len(Book.read(settings).open),
    }


def _period(settings: Settings, retriever: str | None, since: date, until: date) -> dict[str, Any]:
    book = Book.read(settings)
    found: dict[str, Any] = {"at_ms": _now_ms(), "alerts": asdict(book), "retrievers": [], "retriever": retriever}
    try:
        found["retrievers"] = retrievers(settings, since, until)
    except LakeError:
        return found  # there is no lake yet, which the page says
    if retriever is None and found["retrievers"]:
        found["retriever"] = retriever = found["retrievers"][0]
    if retriever is not None:
        signals = get_retriever_signals(retriever, settings=settings, since=since, until=until, limit=_ROWS)
        found["signals"] = asdict(signals)
        found["trend"] = asdict(trend(settings, retriever, since, until))
        length = until - since + timedelta(days=1)
        found["trend_before"] = asdict(trend(settings, retriever, since - length, since - timedelta(days=1)))
    return found


async def _in_turn(find: Callable[[], Any]) -> Any:
    async with _turns:
        return await asyncio.to_thread(find)


def _check(since: date, until: date) -> None:
    if not since <= until:
        raise Problem(400, "bad_request", "the first day is after the last")
    if (until - since).days >= MOST_DAYS or since.year < 2000:
        raise Problem(400, "bad_request", f"{MOST_DAYS} days at most, from the year 2000 on")


def _json(content: Any, **headers: str) -> Response:
    return Response(
        msgspec.json.encode(content), media_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
