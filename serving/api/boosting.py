"""`/v1/boosts`, `/v1/rerank` and `/v1/top`: what rerankers read from Redis, for those who do not read Redis.

While counts are stale or out of reach, every boost is 1.0 and `reason` says why: a search must not fail because of it.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from clickwell.schemas.interactions import MAX_FEATURE_ID
from clickwell.serving.api.access import requires
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.services import services_of
from clickwell.serving.boosts import DEFAULT_STAGE
from clickwell.serving.formula import BoostByCorrectedCtr, BoostByInteractionCount, Weight
from clickwell.serving.rerank import arerank
from clickwell.serving.snapshot import Boosts
from clickwell.serving.trending import top
from clickwell.settings import SignalName

MAX_CANDIDATES = 1000

FeatureId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_FEATURE_ID)]
AnyStage = BoostByInteractionCount | BoostByCorrectedCtr
Reader = requires(Scope.READ)

router = APIRouter(tags=["boosts"], dependencies=[Reader])


class Candidates(BaseModel):
    """A result list whose boosts are asked for."""

    model_config = ConfigDict(extra="forbid")

    feature_ids: Annotated[list[FeatureId], Field(min_length=1, max_length=MAX_CANDIDATES)]
    boost_by_interaction_count: BoostByInteractionCount = DEFAULT_STAGE


class DocumentBoost(BaseModel):
    """One document's boost and the counts behind it."""

    feature_id: str
    boost: float
    count: float
    by_signal: dict[str, int]


class BoostList(BaseModel):
    """The boosts of a list, in its order."""

    boosts: list[DocumentBoost]
    window_days: float
    uncounted: list[str]
    """Signals asked for that nobody counts: their zeros do not mean "never"."""
    fresh_ms: int | None
    """Every event up to this time is in, epoch ms."""
    age_seconds: float | None
    """How far `fresh_ms` lies back."""
    neutral: bool
    """Every boost is 1.0 because the counts cannot be relied on."""
    reason: str | None
    """Why: unavailable, unreadable, absent or stale."""


class Result(BaseModel):
    """One search result; further fields come back as they are."""

    model_config = ConfigDict(extra="allow")

    feature_id: FeatureId
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None


class RerankRequest(BaseModel):
    """A result list and the stages that reorder it."""

    model_config = ConfigDict(extra="forbid")

    results: Annotated[list[Result], Field(max_length=MAX_CANDIDATES)]
    boost_by_interaction_count: AnyStage | Annotated[list[AnyStage], Field(min_length=1, max_length=8)] = DEFAULT_STAGE
    explain: bool = False


class RankedResult(BaseModel):
    """One result in its new place, with the fields it came with."""

    model_config = ConfigDict(extra="allow")

    feature_id: str
    score: float
    boost: float
    why: str | None = None
    rank_before: int | None = None


class RankedList(BaseModel):
    """The results by boosted score, highest first."""

    results: list[RankedResult]


class TrendingDocument(BaseModel):
    """One trending document."""

    rank: int
    feature_id: str
    weight: float


class TrendingList(BaseModel):
    """The trending documents, heaviest first."""

    top: list[TrendingDocument]


@router.get("/v1/boosts")
async def get_boosts(
    request: Request,
    feature_id: Annotated[list[FeatureId], Query(min_length=1, max_length=MAX_CANDIDATES)],
    interaction_types: Annotated[list[SignalName] | None, Query(max_length=16)] = None,
    time_window_days: Annotated[float, Query(gt=0, le=30)] = 7,
    boost_multiplier: Annotated[float, Query(gt=0, allow_inf_nan=False)] = 1.2,
    cap: Annotated[Weight | None, Query()] = None,
) -> BoostList:
    """Return counts and boosts of a candidate list; `feature_id` is repeated."""
    stage = BoostByInteractionCount(
        interaction_types=dict.fromkeys(interaction_types or ("click",), 1.0),
        time_window_days=time_window_days,
        boost_multiplier=boost_multiplier,
        cap=cap,
    )
    return _listed(await services_of(request).reader.boosts(feature_id, stage))


@router.post("/v1/boosts")
async def post_boosts(request: Request, candidates: Candidates) -> BoostList:
    """Return counts and boosts of a candidate list."""
    reader = services_of(request).reader
    return _listed(await reader.boosts(candidates.feature_ids, candidates.boost_by_interaction_count))


@router.post("/v1/rerank", response_model_exclude_none=True)
async def post_rerank(request: Request, asked: RerankRequest) -> RankedList:
    """Return results by score times boost, highest first; without scores their order stands in for them."""
    stages = asked.boost_by_interaction_count
    ranked = await arerank(asked.results, services_of(request).reader, stages, explain=asked.explain)
    return RankedList(
        results=[
            RankedResult.model_validate(
                {
                    **_extra(each.item),
                    "feature_id": each.feature_id,
                    "score": each.score,
                    "boost": each.boost,
                    "why": each.why.sentence if each.why else None,
                    "rank_before": each.why.rank_before if each.why else None,
                }
            )
            for each in ranked
        ]
    )


@router.get("/v1/top")
async def get_top(request: Request, k: Annotated[int, Query(ge=1, le=MAX_CANDIDATES)] = 10) -> TrendingList:
    """Return the documents that are being used most right now."""
    found = await asyncio.to_thread(top, services_of(request).settings, k)
    return TrendingList(top=[TrendingDocument(**each.as_dict()) for each in found])


def _extra(result: Result) -> dict[str, Any]:
    return result.model_extra or {}


def _listed(boosts: Boosts) -> BoostList:
    return BoostList(
        boosts=[
            DocumentBoost(feature_id=each.feature_id, boost=each.boost, count=each.count, by_signal=each.by_signal)
            for each in boosts
        ],
        window_days=boosts.window_days,
        uncounted=list(boosts.uncounted),
        fresh_ms=boosts.fresh_ms,
        age_seconds=boosts.age_seconds,
        neutral=boosts.neutral,
        reason=boosts.reason,
    )
