"""`/v1/retrievers/{id}/signals`, `/ctr`, `/queries`, `/documents`: what searches say of a retriever's relevance."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import TypeAdapter

from clickwell.analytics.findings import LOW_CTR
from clickwell.analytics.signals import Signals, get_retriever_signals
from clickwell.schemas.interactions import MAX_ID
from clickwell.serving.api.access import requires
from clickwell.serving.api.asking import Turns
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.services import services_of

# Days that changed are counted before the answer.
_turns = Turns(2)
_plain = TypeAdapter(Signals)

router = APIRouter(prefix="/v1/retrievers/{retriever_id}", tags=["signals"], dependencies=[requires(Scope.READ)])

Limit = Annotated[int, Query(ge=1, le=1000, description="Problems of each kind at most.")]


async def _signals(
    request: Request,
    retriever_id: Annotated[str, Path(max_length=MAX_ID)],
    since: Annotated[date | None, Query(description="First day, UTC.")] = None,
    until: Annotated[date | None, Query(description="Last day, included; today when absent.")] = None,
    days: Annotated[int, Query(ge=1, le=366, description="How many, when `since` is absent.")] = 28,
    limit: Limit = 50,
    low_ctr: Annotated[float, Query(gt=0, lt=1, description="CTR below which a query is listed.")] = LOW_CTR,
    *,
    compare: Annotated[bool, Query(description="Also compare with the period before.")] = True,
) -> Signals:
    return await _turns.take(
        get_retriever_signals,
        retriever_id,
        settings=services_of(request).settings,
        since=since,
        until=until,
        days=days,
        compare=compare,
        limit=limit,
        low_ctr=low_ctr,
    )


Found = Annotated[Signals, Depends(_signals)]


@router.get("/signals")
async def get_signals(found: Found) -> dict[str, Any]:
    """Return everything at once: rates, positions, problems, the comparison, blind spots."""
    return _json(found)


@router.get("/ctr")
async def get_ctr(found: Found) -> dict[str, Any]:
    """Return the rates, and CTR and skip rate by position."""
    return _part(found, "numbers", "ctr_by_position", "comparison")


@router.get("/queries")
async def get_queries(found: Found) -> dict[str, Any]:
    """Return the queries whose results are clicked too rarely, and those that find nothing."""
    return _part(found, "low_ctr_queries", "zero_result_queries")


@router.get("/documents")
async def get_documents(found: Found) -> dict[str, Any]:
    """Return the documents that are ranked high and skipped."""
    return _part(found, "skipped_documents", "blind_spots")


def _json(found: Signals) -> dict[str, Any]:
    plain: dict[str, Any] = _plain.dump_python(found, mode="json")
    return plain


def _part(found: Signals, *names: str) -> dict[str, Any]:
    plain = _json(found)
    period = {name: plain["numbers"][name] for name in ("since", "until", "searches")}
    return {"retriever_id": found.retriever_id, **period, **{name: plain[name] for name in names}}
