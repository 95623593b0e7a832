"""What the API answers, as the client hands it out. Fields that a newer server adds are kept, not refused."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from clickwell.serving import answers


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


class StoredInteraction(_Result, answers.StoredInteraction):
    """One interaction out of the lake."""


class Freshness(_Result, answers.Freshness):
    """How current an answer is; None before the lake was first written."""


class InteractionPage(_Result, answers.InteractionPage):
    """Interactions, newest first; `next_cursor` gives the next page, None after the last."""

    interactions: list[StoredInteraction]  # type: ignore[assignment]  # of the kind that keeps new fields
    freshness: Freshness


class Receipt(_Result, answers.Receipt):
    """A request to forget, as it stands in the log."""
