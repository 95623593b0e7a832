"""What was shown: the only source from which exposure, and so position bias, can be known."""

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from clickwell.schemas.interactions import MAX_FEATURE_ID, MAX_ID, MAX_QUERY, Event

MAX_RESULTS = 1000
FeatureId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_FEATURE_ID)]


class Search(Event):
    """One executed search and the results it showed, in shown order."""

    execution_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]
    """Names this execution; interactions refer to it."""
    query: Annotated[str, StringConstraints(max_length=MAX_QUERY)] = ""
    """What the person asked for, as typed."""
    ranker_id: Annotated[str, StringConstraints(max_length=MAX_ID)] | None = None
    """Which ranker or experiment arm ordered the results; position bias shows only where ranks change."""
    results: Annotated[list[FeatureId], Field(max_length=MAX_RESULTS, default_factory=list)]
    """feature_ids in shown order; empty means that nothing was found."""
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """How long the search took."""

    @field_validator("query", "ranker_id", "results", mode="after")
    @classmethod
    def _no_nul(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value and any("\0" in text for text in ([value] if isinstance(value, str) else value)):
            raise PydanticCustomError("nul", "holds the NUL character, which no store downstream keeps reliably")
        return value
