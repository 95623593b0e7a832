"""`/v1/users/{id}/exclusions` and `/v1/sessions/{id}`: what one user consumed, and one visit as a story."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from clickwell.analytics.sessions import story
from clickwell.schemas.interactions import MAX_TYPES, InteractionType
from clickwell.serving.api.access import requires
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of
from clickwell.serving.exclusion import FIELD

router = APIRouter(tags=["people"])

Signals = Annotated[list[InteractionType] | None, Query(max_length=MAX_TYPES)]
Days = Annotated[float | None, Query(ge=0, le=3650)]
# What may stand unquoted in a query: it becomes part of a SQL condition.
Field = Annotated[str, Query(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,127}$")]


@router.get("/v1/users/{user_id:path}/exclusions", dependencies=[requires(Scope.READ)])
async def exclusions(
    request: Request,
    user_id: str,
    interaction_type: Signals = None,
    days: Days = None,
    negative_feedback: bool = False,
    field: Field = FIELD,
) -> dict[str, Any]:
    """Return what to leave out of a user's results, as filters for search engines.

    If the counters do not answer nothing is excluded, and `reason` says why: results must not fail because of it.
    """
    found = await services_of(request).interactions.exclusion(
        user_id, interaction_type, days, negative_feedback=negative_feedback, field=field
    )
    return found.as_dict()


@router.get("/v1/sessions/{session_id:path}", dependencies=[requires(Scope.READ)])
def session(request: Request, session_id: str) -> dict[str, Any]:
    """Return the searches and interactions of one session in order, split into visits by half an hour of silence."""
    found = story(services_of(request).settings, session_id)
    if not found["events"]:
        raise Problem(404, "unknown_session", "the lake holds no event of this session; the newest take some seconds")
    return found
