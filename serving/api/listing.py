"""`GET /v1/retrievers/interactions`: single interactions out of the lake, newest first."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from clickwell.analytics.listing import MAX_PAGE, Filters, Page, interactions
from clickwell.errors import DecodeError
from clickwell.schemas.interactions import (
    MAX_INTERACTION_ID,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    to_epoch_ms,
)
from clickwell.serving.answers import Freshness, InteractionPage, StoredInteraction
from clickwell.serving.api.access import requires
from clickwell.serving.api.asking import FeatureId, Text, Turns
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of
from clickwell.settings import SignalName

# A query reads the files of its days and sorts what passes.
_turns = Turns(4)

router = APIRouter(tags=["interactions"], dependencies=[requires(Scope.READ)])


Time = Annotated[str, Query(max_length=64, description="Epoch milliseconds or ISO 8601.")]


@router.get("/v1/retrievers/interactions")
async def list_interactions(
    request: Request,
    feature_id: FeatureId | None = None,
    user_id: Text | None = None,
    session_id: Text | None = None,
    retriever_id: Text | None = None,
    execution_id: Text | None = None,
    interaction_type: Annotated[SignalName | None, Query()] = None,
    since: Annotated[Time | None, Query(alias="from")] = None,
    until: Annotated[Time | None, Query(alias="to")] = None,
    days: Annotated[float | None, Query(gt=0, le=3650, description="Only the last so many days.")] = None,
    limit: Annotated[int | None, Query(ge=1, le=MAX_PAGE, description="The same as `page_size`.")] = None,
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
    page_size: Annotated[int | None, Query(ge=1, le=MAX_PAGE)] = None,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
) -> InteractionPage:
    """Return interactions, newest first: by pages for people, by cursors for exports."""
    size = page_size or limit or 100
    if cursor is not None and page > 1:
        raise Problem(400, "bad_request", "a cursor and a page exclude each other", members={"field": "page"})
    start = _time("from", since)
    if days is not None:
        recent = datetime.now(UTC) - timedelta(days=days)
        start = max(start, recent) if start else recent
    filters = Filters(
        feature_id=feature_id,
        user_id=user_id,
        session_id=session_id,
        retriever_id=retriever_id,
        execution_id=execution_id,
        interaction_type=interaction_type,
        since=start,
        until=_time("to", until),
    )
    found = await _query(request, filters, size=size, skip=(page - 1) * size, after=cursor)
    return InteractionPage(
        interactions=[StoredInteraction(**row) for row in found.rows],
        page=page,
        page_size=size,
        next_cursor=found.cursor,
        freshness=_freshness(found),
    )


InteractionId = Annotated[str, Field(min_length=1, max_length=MAX_INTERACTION_ID)]


@router.get("/v1/retrievers/interactions/{interaction_id}")
async def get_interaction(request: Request, interaction_id: InteractionId) -> StoredInteraction:
    """Return one interaction; 404 until the lake has it."""
    if "\0" not in interaction_id:
        found = await _query(request, Filters(interaction_id=interaction_id), size=1)
        if found.rows:
            return StoredInteraction(**found.rows[0])
    raise Problem(404, "not_found", "there is no such interaction in the lake")


async def _query(request: Request, filters: Filters, **options: Any) -> Page:
    return await _turns.take(interactions, services_of(request).settings, filters, **options)


def _freshness(page: Page) -> Freshness:
    age = max(0.0, (datetime.now(UTC) - page.written).total_seconds()) if page.written else None
    return Freshness(lake_version=page.version, written_at=page.written, age_seconds=age)


def _time(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        epoch_ms = int(text) if text.isascii() and text.isdigit() else to_epoch_ms(text)
    except Exception:  # noqa: BLE001  # it raises pydantic's own, which is no ValueError everywhere
        epoch_ms = -1
    if not MIN_TIMESTAMP_MS <= epoch_ms <= MAX_TIMESTAMP_MS:
        raise DecodeError("invalid_field", f"{name}: neither epoch milliseconds nor ISO 8601", field=name)
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
