"""Records of the searches topic to validated rows, as `clickwell.schemas.decode` does it for interactions."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from pydantic_core import to_json

from clickwell.schemas.decode import EventDecoder, Id, Time
from clickwell.schemas.interactions import MAX_FEATURE_ID, MAX_ID, MAX_QUERY
from clickwell.schemas.searches import MAX_RESULTS, Search

# What stands for metadata that an event does not have.
ABSENT = msgspec.Raw(b"null")

FeatureId = Annotated[str, Meta(min_length=1, max_length=MAX_FEATURE_ID)]


class _Object(msgspec.Struct, gc=False):
    """A JSON object whose keys have no meaning here."""


class SearchRow(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One valid search; `metadata` is JSON. Only the model moves unknown fields under it."""

    execution_id: Id
    query: Annotated[str, Meta(max_length=MAX_QUERY)] = ""
    ranker_id: Annotated[str, Meta(max_length=MAX_ID)] | None = None
    results: Annotated[tuple[FeatureId, ...], Meta(max_length=MAX_RESULTS)] = ()
    latency_ms: Annotated[float, Meta(ge=0)] | None = None
    metadata: msgspec.Raw = ABSENT
    user_id: Id | None = None
    session_id: Id | None = None
    retriever_id: Id | None = None
    timestamp: Time | None = None
    sent_at: Time | None = None


class SearchDecoder(EventDecoder[SearchRow]):
    """Decodes records of the searches topic."""

    def __init__(self) -> None:
        super().__init__(SearchRow, Search)
        self._objects = msgspec.json.Decoder(_Object | None)

    def details(self, rows: Sequence[SearchRow]) -> list[Any]:
        """Check that each metadata is an object."""
        return self._objects.decode_lines(b"\n".join([row.metadata for row in rows]))

    def row_of(self, event: Search) -> SearchRow:
        """Return the row of a search."""
        return SearchRow(
            execution_id=event.execution_id,
            query=event.query,
            ranker_id=event.ranker_id,
            results=tuple(event.results),
            latency_ms=event.latency_ms,
            metadata=msgspec.Raw(to_json(event.metadata, inf_nan_mode="strings")),
            user_id=event.user_id,
            session_id=event.session_id,
            retriever_id=event.retriever_id,
            timestamp=event.timestamp,
            sent_at=event.sent_at,
        )
