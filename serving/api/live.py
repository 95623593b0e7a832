"""`/v1/dashboard/live`: what changes by the second. Asked by every open page, so an answer costs a few milliseconds."""

import asyncio
import hashlib
import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from clickwell.analytics.alerting import Book
from clickwell.clock import SystemClock
from clickwell.errors import LakeError
from clickwell.redis_client import connect, redis_errors
from clickwell.schemas.keys import FRESH
from clickwell.serving.api.access import requires
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.services import Services, services_of
from clickwell.serving.freshness import LakeStanding, judge
from clickwell.serving.memory import applied_ms
from clickwell.serving.trending import top
from clickwell.serving.workers import WorkerReport, worker_reports
from clickwell.settings import Settings
from clickwell.sinks import standing
from clickwell.sinks.table import SEARCH_TABLE

POPULAR = 10
# The lane whose duplicates and late events are shown; the others differ by what they look at.
_LANE = "popularity"
_COUNTED = ("applied", "counted", "late", "duplicates", "dead_letters", "rewinds", "lost")
# A look at the lake asks its storage and the broker; nobody notices that it is some seconds old.
_LAKE_SECONDS = 10.0

router = APIRouter(prefix="/v1/dashboard", tags=["dashboard"], dependencies=[requires(Scope.READ)])


class LakeWatch:
    """How the lake stands, looked at in the background, so that no answer waits for its storage."""

    def __init__(self) -> None:
        self._seen: LakeStanding | None = None
        self._at = -_LAKE_SECONDS
        self._looking: asyncio.Task[None] | None = None

    def standing(self, settings: Settings) -> LakeStanding | None:
        """Return what was last seen, and look again if that is old."""
        if (self._looking is None or self._looking.done()) and time.monotonic() - self._at > _LAKE_SECONDS:
            self._at = time.monotonic()
            self._looking = asyncio.create_task(self._look(settings))
        return self._seen

    async def _look(self, settings: Settings) -> None:
        try:
            seen = await asyncio.to_thread(_look, settings)
            self._seen = seen.after(self._seen, SystemClock().now_ms())
        except LakeError:
            self._seen = None


@router.get("/live")
async def live(request: Request) -> Response:
    """Return workers, lag, freshness, what is popular, how many alerts are open. With an ETag."""
    services = services_of(request)
    watch: LakeWatch = request.app.state.lake_watch
    found = await asyncio.to_thread(_live, services.settings, watch.standing(services.settings))
    await _count_clicks(services, found["popular"])
    # Without the clock, so that nothing new is told as nothing new.
    tag = '"' + hashlib.blake2b(msgspec.json.encode({**found, "at_ms": 0}), digest_size=12).hexdigest() + '"'
    headers = {"ETag": tag, "Cache-Control": "no-store"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(msgspec.json.encode(found), media_type="application/json", headers=headers)


def _live(settings: Settings, lake: LakeStanding | None) -> dict[str, Any]:
    now_ms = SystemClock().now_ms()
    reports = worker_reports(settings)
    lag: dict[str, int] = {}
    for report in reports:
        for lane, records in report.lag_by_lane().items():
            lag[lane] = lag.get(lane, 0) + records
    return {
        "at_ms": now_ms,
        "freshness": judge(now_ms, len(reports), _applied(settings), lag, lake),
        "workers": len(reports),
        "lag": lag,
        "lake_lag": lake.lag if lake else None,
        "since_start": _totals(reports),
        "popular": [each.as_dict() for each in top(settings, POPULAR)],
        "alerts_open": len(Book.read(settings).open),
    }


def _applied(settings: Settings) -> dict[str, int]:
    """Return up to when each lane has counted everything."""
    with connect(settings) as client, redis_errors():
        fields: Any = client.hgetall(FRESH)
    lanes = {name.split(b"/")[0] for name in fields}
    found = {lane.decode(): applied_ms(fields, lane + b"/") for lane in lanes}
    return {lane: at_ms for lane, at_ms in found.items() if at_ms is not None}


def _totals(reports: list[WorkerReport]) -> dict[str, int]:
    totals = dict.fromkeys(_COUNTED, 0)
    for report in reports:
        for name in totals:
            told: Any = (report.model_extra or {}).get(name, 0)
            # What differs by lane is told by lane.
            totals[name] += int(told.get(_LANE, 0) if isinstance(told, dict) else told)
    return totals


async def _count_clicks(services: Services, popular: list[dict[str, Any]]) -> None:
    """Add to each document its clicks of the last 24 hours; None where the counters cannot be relied on."""
    counts = await services.reader.counts([each["feature_id"] for each in popular], ("click",), days=1)
    for row, each in enumerate(popular):
        each["clicks"] = None if counts.reason else int(counts.by_signal[row, 0])


def _look(settings: Settings) -> LakeStanding:
    seen = standing.look(settings, SEARCH_TABLE)
    return LakeStanding(seen.lag, seen.written_ms)
