"""What the API answers, as the client hands it out. Fields that a newer server adds are kept, not refused."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue


class _Result(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class Lack(_Result):
    """Why an event is of no use for something."""

    use: str
    """`boost`, `ctr`, `training` or `personalization`."""
    field: str
    """The field that is missing."""
    reason: str
    """A sentence."""


class Created(_Result):
    """What became of one event."""

    verdict: Literal["accepted", "duplicate", "rejected"]
    """`duplicate`: it was there already, as after a retry; it counts once."""
    interaction_id: str | None = None
    """Its name; None if it was rejected before it got one."""
    code: str = ""
    """Why it was rejected, for programs."""
    field: str = ""
    """The first offending field, if one is."""
    reason: str = ""
    """Why it was rejected, for people."""
    uses: tuple[str, ...] = ()
    """What it can be used for."""
    not_used_for: tuple[Lack, ...] = ()
    """What it cannot be used for, and why."""


class StoredInteraction(_Result):
    """One interaction out of the lake."""

    interaction_id: str | None
    feature_id: str
    interaction_type: list[str]
    position: int | None
    user_id: str | None
    session_id: str | None
    retriever_id: str | None
    execution_id: str | None
    timestamp: datetime
    metadata: dict[str, JsonValue]


class Freshness(_Result):
    """How current an answer is; None before the lake was first written."""

    written_at: datetime | None
    age_seconds: float | None


class InteractionPage(_Result):
    """Interactions, newest first."""

    interactions: list[StoredInteraction]
    next_cursor: str | None
    """Gives the next page, None after the last."""
    freshness: Freshness


class Receipt(_Result):
    """A request to forget, as it stands in the log."""

    receipt_id: str
    subject: str
    status: str
    requested_at: datetime
