"""Session logs: one line is a search, what it showed and what was clicked; it becomes one Search and its Interactions.

A line is a JSON object: `search_id`, a time (`ts` ISO 8601, or `t_ms` in ms since any start, or none), `docs` in shown
order, `clicks` of {`doc`, `pos`, `dt_ms` after the search, `duration_ms`, `purchase`}, and where known `user_id`,
`session_id`, `query_id`, `query`, `ranker`. Further fields of a line go into the search's metadata.
"""

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import to_json

from clickwell.errors import DecodeError
from clickwell.producers.records import Record, search_record
from clickwell.schemas.interactions import (
    MAX_AHEAD_MS,
    MAX_DURATION_MS,
    MAX_FEATURE_ID,
    MAX_ID,
    MAX_INTERACTION_ID,
    MAX_POSITION,
    MAX_QUERY,
    MIN_TIMESTAMP_MS,
    to_epoch_ms,
)
from clickwell.schemas.searches import MAX_RESULTS, Search
from clickwell.schemas.wire import parse_object

MAX_CLICKS = 1000
# A line without a time happened a second after the line before it, a click without one a millisecond after the other.
LINE_MS = 1000
CLICK_MS = 1

_NO_NUL = r"^[^\x00]*$"
_Doc = Annotated[str, StringConstraints(min_length=1, max_length=MAX_FEATURE_ID, pattern=_NO_NUL)]
_Name = Annotated[str, StringConstraints(max_length=MAX_ID, pattern=_NO_NUL)]
_SHARED = {"execution_id", "retriever_id", "user_id", "session_id"}


class _Line(BaseModel):
    # Logs write ids as numbers as often as as text.
    model_config = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)


class Click(_Line):
    """One click of a session line."""

    doc: _Doc
    pos: Annotated[int, Field(ge=0, le=MAX_POSITION)] | None = None
    dt_ms: Annotated[int, Field(ge=0, le=MAX_DURATION_MS)] | None = None
    duration_ms: Annotated[float, Field(ge=0, le=MAX_DURATION_MS)] | None = None
    purchase: bool = False


class SessionLine(_Line):
    """One line of a session log."""

    model_config = ConfigDict(extra="allow")

    search_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID, pattern=_NO_NUL)]
    ts: int | None = None
    t_ms: int | None = None
    user_id: _Name | None = None
    session_id: _Name | None = None
    query_id: _Name | None = None
    query: Annotated[str, StringConstraints(max_length=MAX_QUERY, pattern=_NO_NUL)] | None = None
    ranker: _Name | None = None
    docs: Annotated[list[_Doc], Field(max_length=MAX_RESULTS)] = []
    clicks: Annotated[list[Click], Field(max_length=MAX_CLICKS)] = []

    @field_validator("ts", mode="before")
    @classmethod
    def _iso8601(cls, value: Any) -> Any:
        return to_epoch_ms(value)

    @property
    def has_date(self) -> bool:
        """Whether its time is one of the calendar; else it only tells how far apart the lines are."""
        return self.ts is not None or (self.t_ms is not None and self.t_ms >= MIN_TIMESTAMP_MS)

    def time_ms(self, index: int) -> int:
        """Return when the search was: its own time or, without one, `index` seconds after the start of the file."""
        if self.ts is not None:
            return self.ts
        return self.t_ms if self.t_ms is not None else index * LINE_MS


def parse_line(data: bytes) -> SessionLine:
    """Parse one line.

    Raises:
        DecodeError: `bad_json`, `missing_field` or `invalid_field`.
    """
    try:
        return SessionLine.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = {"json_invalid": "bad_json", "missing": "missing_field"}.get(first["type"], "invalid_field")
        raise DecodeError(reason, f"{where or 'line'}: {first['msg']}", field=where) from None


def click_times(line: SessionLine, searched_ms: int) -> list[int]:
    """Return when each click was, in epoch ms."""
    return [
        searched_ms + (CLICK_MS * (k + 1) if click.dt_ms is None else click.dt_ms)
        for k, click in enumerate(line.clicks)
    ]


def records(line: SessionLine, searched_ms: int, *, retriever: str, long_view_ms: int, now_ms: int) -> list[Record]:
    """Return the line's search, one interaction for each click, then one for each result that was skipped.

    A result is skipped when it was shown above the search's deepest click and not clicked itself; an abandoned search
    skips nothing. Ids are made from the line, so that events of a file that is published twice count once.

    Args:
        line: a parsed line.
        searched_ms: when the search was, in epoch ms.
        retriever: the retriever_id of all events.
        long_view_ms: a click that lasted this long is a long_view too.
        now_ms: the present, in epoch ms.

    Raises:
        DecodeError: an event is not valid, for example because its time lies in the future.
    """
    query = line.query or line.query_id or ""
    search = parse_object(
        Search,
        {
            "execution_id": line.search_id,
            "retriever_id": retriever,
            "user_id": line.user_id,
            "session_id": line.session_id,
            "timestamp": searched_ms,
            "query": query,
            "ranker_id": line.ranker,
            "results": line.docs,
            "metadata": _search_metadata(line),
        },
        received_ms=now_ms,
    )
    found = [search_record(search, now_ms)]
    times = click_times(line, searched_ms)
    if times and max(times) > now_ms + MAX_AHEAD_MS:
        raise DecodeError("future_timestamp", "a click lies more than 5 minutes in the future", field="clicks.dt_ms")

    # The line's own types and the search above have checked all that an Interaction checks; doing it again for each
    # click and skip is most of the cost of a large file.
    common = search.model_dump(include=_SHARED, exclude_none=True)
    said = {"query": query} if query else {}

    def add(
        name: str, doc: str, types: list[str], position: int | None, time_ms: int, metadata: dict[str, Any]
    ) -> None:
        event = common | {
            "interaction_id": _event_id(f"{retriever}:{line.search_id}:{name}"),
            "feature_id": doc,
            "interaction_type": types,
            "timestamp": time_ms,
        }
        if position is not None:
            event["position"] = position
        if metadata:
            event["metadata"] = metadata
        found.append(Record("interaction", event["interaction_id"], doc.encode(), to_json(event)))

    deepest = 0
    for k, (click, time_ms) in enumerate(zip(line.clicks, times, strict=True)):
        position = click.pos if click.pos is not None else _shown_at(line.docs, click.doc)
        deepest = max(deepest, position or 0)
        lasted = {} if click.duration_ms is None else {"duration_ms": int(click.duration_ms)}
        add(f"c{k}", click.doc, _types(click, long_view_ms), position, time_ms, said | lasted)

    clicked = {click.doc for click in line.clicks}
    for position, doc in enumerate(line.docs[:deepest]):
        if doc not in clicked:
            add(f"s{position}", doc, ["skip"], position, searched_ms, said)
    return found


def _types(click: Click, long_view_ms: int) -> list[str]:
    types = ["click"]
    if click.duration_ms is not None and click.duration_ms >= long_view_ms:
        types.append("long_view")
    if click.purchase:
        types.append("purchase")
    return types


def _shown_at(docs: list[str], doc: str) -> int | None:
    return docs.index(doc) if doc in docs else None


def _search_metadata(line: SessionLine) -> dict[str, Any]:
    metadata = dict(line.model_extra or {})
    if line.query and line.query_id:
        metadata["query_id"] = line.query_id
    return metadata


def _event_id(name: str) -> str:
    """Return an id that depends on the name only, and is the name itself unless that is too long."""
    return name if len(name) <= MAX_INTERACTION_ID else hashlib.sha256(name.encode()).hexdigest()
