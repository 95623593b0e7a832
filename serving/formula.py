"""The boost: how a count of interactions, or a corrected CTR, changes a score."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from clickwell.errors import SettingsError
from clickwell.schemas.interactions import MAX_ID, MAX_QUERY
from clickwell.settings import SignalName

S = TypeVar("S", bound=BaseModel)
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BoostByInteractionCount(BaseModel):
    """One boost stage, as written in a pipeline's JSON; `interaction_types` may also be a plain list of names.

    A document with the weighted count `n` gets the boost `1 + (multiplier - 1) * log1p(n) / log1p(cap)`: none gives 1,
    `cap` gives the whole multiplier. The logarithm makes the tenth click worth more than the thousandth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    interaction_types: Annotated[dict[SignalName, Weight], Field(min_length=1)] = {"click": 1.0}
    """Signals to count, each with its weight; a plain list gives each the weight 1."""
    time_window_days: float = Field(default=7, gt=0, le=30)
    """How far back to count, rounded to whole slots; at most the window that the workers keep."""
    boost_multiplier: float = Field(default=1.2, gt=0, allow_inf_nan=False)
    """The largest boost. Below 1 it demotes, for signals that speak against a document."""
    cap: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Count that earns the whole multiplier, larger ones are clipped; absent means the largest count of the list."""

    @field_validator("interaction_types", mode="before")
    @classmethod
    def _list_means_equal_weights(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1.0) if isinstance(value, (list, tuple, set, frozenset)) else value


class BoostByCorrectedCtr(BaseModel):
    """One boost stage: `1 + (multiplier - 1) * value / cap`, where value is the corrected CTR of the document."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    signal: Literal["corrected_ctr"]
    """Says that this is not a stage that counts."""
    retriever_id: Annotated[str, Field(max_length=MAX_ID)]
    """Whose searches the numbers come from."""
    query: Annotated[str, Field(max_length=MAX_QUERY)] | None = None
    """Only of this query; absent means over all queries."""
    bound: Literal["low", "estimate"] = "low"
    """Which number counts: the lower end of the 90 % interval, or the middle."""
    boost_multiplier: float = Field(default=1.2, gt=0, allow_inf_nan=False)
    """The largest boost."""
    cap: float | None = Field(default=None, gt=0, le=1)
    """Corrected CTR that earns the whole multiplier; absent means the largest of the list."""


def boosts_of(counts: NDArray[np.float64], stage: BoostByInteractionCount) -> NDArray[np.float64]:
    """Return the boost of each document of one list; all are 1 when nothing was counted or the cap is 0."""
    cap = float(counts.max(initial=0.0)) if stage.cap is None else stage.cap
    if cap <= 0:
        return np.ones(len(counts))
    share: NDArray[np.float64] = np.log1p(np.minimum(counts, cap)) / np.log1p(cap)
    return 1 + (stage.boost_multiplier - 1) * share


def stage_of(value: Any) -> BoostByInteractionCount:
    """Return a stage given as itself or as the mapping that a pipeline's JSON holds.

    Raises:
        SettingsError: a field is missing, unknown or out of its range.
    """
    return _validated(BoostByInteractionCount, value)


def any_stage_of(value: Any) -> BoostByInteractionCount | BoostByCorrectedCtr:
    """Return a stage of any kind: with a `signal` it is by corrected CTR, otherwise by counts.

    Raises:
        SettingsError: a field is missing, unknown or out of its range.
    """
    by_ctr = isinstance(value, BoostByCorrectedCtr) or (isinstance(value, Mapping) and "signal" in value)
    return _validated(BoostByCorrectedCtr, value) if by_ctr else stage_of(value)


def _validated(kind: type[S], value: Any) -> S:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["boost_by_interaction_count", *map(str, first["loc"])])
        raise SettingsError(f"{field}: {first['msg']}") from None
