"""Records of the searches topic to validated rows, as `clickwell.schemas.decode` does it for interactions."""

from typing import Annotated

import msgspec
from msgspec import Meta

from clickwell.schemas.decode import EventDecoder, Id, Time
from clickwell.schemas.interactions import MAX_FEATURE_ID, MAX_ID, MAX_QUERY
from clickwell.schemas.searches import MAX_RESULTS, Search

FeatureId = Annotated[str, Meta(min_length=1, max_length=MAX_FEATURE_ID)]


class Anything(msgspec.Struct, gc=False):
    """A JSON object whose keys have no meaning here."""


class SearchRow(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One valid search; only the model moves unknown fields under metadata."""

    execution_id: Id
    query: Annotated[str, Meta(max_length=MAX_QUERY)] = ""
    ranker_id: Annotated[str, Meta(max_length=MAX_ID)] | None = None
    results: Annotated[tuple[FeatureId, ...], Meta(max_length=MAX_RESULTS)] = ()
    latency_ms: Annotated[float, Meta(ge=0)] | None = None
    metadata: Anything | None = None
    user_id: Id | None = None
    session_id: Id | None = None
    retriever_id: Id | None = None
    timestamp: Time | None = None
    sent_at: Time | None = None


class SearchDecoder(EventDecoder[SearchRow]):
    """Decodes records of the searches topic."""

    def __init__(self) -> None:
        super().__init__(SearchRow, Search)

    def row_of(self, event: Search) -> SearchRow:
        """Return the row of a search."""
        return SearchRow(
            execution_id=event.execution_id,
            query=event.query,
            ranker_id=event.ranker_id,
            results=tuple(event.results),
            latency_ms=event.latency_ms,
            metadata=Anything(),
            user_id=event.user_id,
            session_id=event.session_id,
            retriever_id=event.retriever_id,
            timestamp=event.timestamp,
            sent_at=event.sent_at,
        )
