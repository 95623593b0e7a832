"""The boost: how a count of interactions changes a score."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from clickwell.errors import SettingsError
from clickwell.settings import SignalName

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
    try:
        return BoostByInteractionCount.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["boost_by_interaction_count", *map(str, first["loc"])])
        raise SettingsError(f"{field}: {first['msg']}") from None
