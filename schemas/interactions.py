"""One thing that a person did with one result, and the signals it stands for."""

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError, from_json, to_json

MAX_ID = 256
MAX_FEATURE_ID = 512
MAX_INTERACTION_ID = 128
MAX_TYPES = 16
MAX_QUERY = 1024
MAX_METADATA_BYTES = 8192
MAX_POSITION = 2**31 - 1
MAX_DURATION_MS = 2**53
# Times before this are nearly always seconds sent as milliseconds, or an unset clock: 2000-01-01.
MIN_TIMESTAMP_MS = 946_684_800_000
# The largest time that ISO 8601 can name, so that every accepted time can be printed: 9999-12-31.
MAX_TIMESTAMP_MS = 253_402_300_799_999
# A client's clock may be this far ahead of the broker's; later events would rotate rings into the future.
MAX_AHEAD_MS = 5 * 60_000

TYPE_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
# An even number of backslashes before it: text that merely spells \u0000 is no NUL.
ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Strength(StrEnum):
    """What a signal says about the result it is for."""

    STRONG = "strong"
    MODERATE = "moderate"
    CONVERSION = "conversion"
    EXPLICIT = "explicit"
    EXPOSURE = "exposure"
    NEGATIVE = "negative"
    NEUTRAL = "neutral"


SIGNALS: dict[str, Strength] = {
    "click": Strength.MODERATE,
    "long_view": Strength.STRONG,
    "add_to_cart": Strength.CONVERSION,
    "purchase": Strength.CONVERSION,
    "positive_feedback": Strength.EXPLICIT,
    "negative_feedback": Strength.EXPLICIT,
    "skip": Strength.NEGATIVE,
    "return_to_results": Strength.NEGATIVE,
    "impression": Strength.EXPOSURE,
    "view": Strength.EXPOSURE,
}
"""The built-in signals. Any other name is a custom signal, neutral unless a setting says otherwise."""

RETURN_TO_RESULTS_MS = 10_000


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "holds the NUL character, which no store downstream keeps reliably")
    return text


def to_epoch_ms(value: Any) -> Any:
    """Turn ISO 8601 text into epoch milliseconds; leave anything else to the field's own type.

    Text without a zone is taken as UTC. Fractions below a millisecond are cut.
    """
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("iso8601", "is neither epoch milliseconds nor ISO 8601") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


Id = Annotated[str, StringConstraints(max_length=MAX_ID)]
InteractionType = Annotated[str, StringConstraints(pattern=rf"^{TYPE_PATTERN.pattern}$")]
TimestampMs = Annotated[
    int,
    Field(ge=MIN_TIMESTAMP_MS, le=MAX_TIMESTAMP_MS),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": MIN_TIMESTAMP_MS, "maximum": MAX_TIMESTAMP_MS},
                {"type": "string", "format": "date-time"},
            ]
        },
        mode="validation",
    ),
]
# What check_known_metadata accepts, as JSON Schema.
KNOWN_METADATA: JsonDict = {
    "query": {"type": ["string", "null"], "maxLength": MAX_QUERY},
    "duration_ms": {"type": ["number", "null"], "minimum": 0, "maximum": MAX_DURATION_MS},
    "device": {"type": ["string", "null"], "maxLength": MAX_ID},
}


class Event(BaseModel):
    """What interactions and searches share: strict types, times in epoch milliseconds, nothing dropped.

    Unknown top-level fields move under `metadata`; one that would overwrite a metadata key is kept as `event.<name>`.
    """

    # A JSON number beyond the range of a double is kept as text: refusing it here would need a look at every number.
    # To a sender the event is open: unknown fields are moved before "forbid" could see them.
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        ser_json_inf_nan="strings",
        json_schema_extra={"additionalProperties": True},
    )

    user_id: Id | None = None
    """Who; a pseudonym is enough."""
    session_id: Id | None = None
    """One visit."""
    retriever_id: Id | None = None
    """Which search box or stage."""
    execution_id: Id | None = None
    """The search that showed the result."""
    timestamp: TimestampMs | None = None
    """Event time in epoch ms (ISO 8601 is accepted); absent means the time of receipt."""
    sent_at: TimestampMs | None = None
    """The client's clock when it sent the event, for skew."""
    metadata: dict[str, JsonValue] = {}
    """Free keys, at most 8 KiB as compact JSON."""

    @model_validator(mode="before")
    @classmethod
    def _keep_unknown_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        unknown = [name for name in data if name not in fields]
        if not unknown:
            return data
        metadata = data.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            return data
        metadata = dict(metadata or {})
        for name in unknown:
            kept_as = name
            while kept_as in metadata:
                kept_as = f"event.{kept_as}"
            metadata[kept_as] = data[name]
        return {name: value for name, value in data.items() if name not in unknown} | {"metadata": metadata}

    @field_validator("timestamp", "sent_at", mode="before")
    @classmethod
    def _iso8601(cls, value: Any) -> Any:
        return to_epoch_ms(value)

    @field_validator("user_id", "session_id", "retriever_id", "execution_id", mode="after")
    @classmethod
    def _empty_is_absent(cls, value: str | None) -> str | None:
        return _no_nul(value) or None if value is not None else None

    @field_validator("metadata", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("metadata", mode="after")
    @classmethod
    def _bounded(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            encoded = to_json(value)
            # What is accepted can be read back; within an event, metadata lies one level deep.
            from_json(b"[%b]" % encoded)
        except ValueError:  # a lone surrogate, a number of thousands of digits, or about 200 levels
            raise PydanticCustomError("not_json", "cannot be written as JSON that others can read") from None
        if len(encoded) > MAX_METADATA_BYTES:
            raise PydanticCustomError("too_large", "is larger than 8 KiB as JSON")
        if b"\\u0000" in encoded and ESCAPED_NUL.search(encoded):
            raise PydanticCustomError("nul", "holds the NUL character, which no store downstream keeps reliably")
        return value

    def to_bytes(self) -> bytes:
        """Return the event as compact JSON, absent fields left out."""
        return self.model_dump_json(exclude_none=True, exclude_defaults=True).encode()


class Interaction(Event):
    """One thing that a person did with one result."""

    interaction_id: Annotated[str, StringConstraints(max_length=MAX_INTERACTION_ID)] | None = None
    """Makes retries safe: an id seen again within the dedup window counts once."""
    feature_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_FEATURE_ID)]
    """The document."""
    interaction_type: Annotated[list[InteractionType], Field(min_length=1, max_length=MAX_TYPES)]
    """What happened, as a set of signal names."""
    position: Annotated[int, Field(ge=0, le=MAX_POSITION)] | None = None
    """0-based place in the result list; null means unknown."""
    metadata: Annotated[dict[str, JsonValue], Field(json_schema_extra={"properties": KNOWN_METADATA})] = {}
    """`query`, `duration_ms`, `device` and free keys, at most 8 KiB as compact JSON."""

    @field_validator("feature_id", "interaction_id", mode="after")
    @classmethod
    def _ids(cls, value: str | None) -> str | None:
        return _no_nul(value) or None if value is not None else None

    @field_validator("metadata", mode="after")
    @classmethod
    def _known_metadata(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        check_known_metadata(value)
        return value

    @property
    def query(self) -> str | None:
        """The query that led here."""
        return self.metadata.get("query")  # type: ignore[return-value]  # check_known_metadata

    @property
    def duration_ms(self) -> int | None:
        """How long the person stayed."""
        return self.metadata.get("duration_ms")  # type: ignore[return-value]  # check_known_metadata


def check_known_metadata(metadata: dict[str, JsonValue]) -> None:
    """Check `query`, `duration_ms` and `device`, the metadata keys with a meaning of their own.

    A fractional `duration_ms`, as browsers measure it, is rounded down in place; null removes the key.
    """
    for name in ("query", "duration_ms", "device"):
        if name in metadata and metadata[name] is None:
            del metadata[name]
    query, device, duration = metadata.get("query"), metadata.get("device"), metadata.get("duration_ms")
    if query is not None and (not isinstance(query, str) or len(query) > MAX_QUERY):
        raise PydanticCustomError("query", "query is not text of at most 1,024 characters")
    if device is not None and (not isinstance(device, str) or len(device) > MAX_ID):
        raise PydanticCustomError("device", "device is not text of at most 256 characters")
    if duration is None:
        return
    if isinstance(duration, bool) or not isinstance(duration, (int, float)) or not 0 <= duration <= MAX_DURATION_MS:
        raise PydanticCustomError("duration_ms", "duration_ms is not a number of milliseconds >= 0")
    metadata["duration_ms"] = int(duration)


def signals_of(types: Iterable[str], duration_ms: int | None, *, long_view_ms: int) -> Collection[str]:
    """Return the set of signals that one interaction stands for.

    A click with a duration of at least `long_view_ms` is a long_view too, one that ended below 10,000 ms a
    return_to_results. Each signal counts once an interaction, however often it was named.
    """
    signals = set(types)
    if duration_ms is not None and "click" in signals:
        if duration_ms >= long_view_ms:
            signals.add("long_view")
        elif duration_ms < RETURN_TO_RESULTS_MS:
            signals.add("return_to_results")
    return signals
