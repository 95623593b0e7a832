"""A request to forget: what to remove, and on whose word."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from clickwell.schemas.interactions import MAX_FEATURE_ID, MAX_ID, MAX_INTERACTION_ID, TimestampMs, to_epoch_ms

MAX_REASON = 1024

Subject = Literal["interaction_id", "user_id", "session_id", "feature_id"]
SUBJECTS: tuple[Subject, ...] = ("interaction_id", "user_id", "session_id", "feature_id")
_ONE_SUBJECT: JsonDict = {
    "oneOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in SUBJECTS],
}

Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]


class Erasure(BaseModel):
    """One request to erase every event of one subject, or those of a time range.

    Unlike events it refuses unknown fields: a misspelt `to` would erase more than was asked for.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
        json_schema_extra=_ONE_SUBJECT,
    )

    erasure_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_INTERACTION_ID)]
    """Names this request: sent twice, it is carried out once."""
    interaction_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_INTERACTION_ID)] | None = None
    """Erase this event."""
    user_id: Id | None = None
    """Erase this person's events."""
    session_id: Id | None = None
    """Erase the events of this visit."""
    feature_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_FEATURE_ID)] | None = None
    """Erase the events of this document."""
    since: Annotated[TimestampMs | None, Field(alias="from")] = None
    """Start of the range of event times, included, in epoch ms (ISO 8601 is accepted); absent means the beginning."""
    until: Annotated[TimestampMs | None, Field(alias="to")] = None
    """End of the range of event times, excluded, in epoch ms (ISO 8601 is accepted); absent means no end."""
    reason: Annotated[str, StringConstraints(max_length=MAX_REASON)] = ""
    """Why, for the receipt."""
    requester: Annotated[str, StringConstraints(max_length=MAX_ID)] = ""
    """Who asked for it, for the receipt."""

    @field_validator("since", "until", mode="before")
    @classmethod
    def _iso8601(cls, value: Any) -> Any:
        return to_epoch_ms(value)

    @model_validator(mode="after")
    def _one_subject_one_range(self) -> Self:
        if sum(getattr(self, name) is not None for name in SUBJECTS) != 1:
            raise PydanticCustomError("subject", "names not exactly one of {names}", {"names": ", ".join(SUBJECTS)})
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise PydanticCustomError("range", "has a range that ends before it begins")
        return self

    @property
    def subject(self) -> tuple[Subject, str]:
        """The field that names whose events go, and its value."""
        return next((name, value) for name in SUBJECTS if (value := getattr(self, name)) is not None)

    def to_bytes(self) -> bytes:
        """Return the request as compact JSON, absent fields left out."""
        return self.model_dump_json(exclude_none=True, exclude_defaults=True, by_alias=True).encode()
