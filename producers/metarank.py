"""Metarank: its ranking events are searches, its interaction events interactions, and back.

| Metarank | here |
|---|---|
| ranking `id`, interaction `ranking` | `execution_id` |
| interaction `id` | `interaction_id` |
| `tenant` | `retriever_id` |
| `user`, `session`, `timestamp` | `user_id`, `session_id`, `timestamp` |
| ranking `items[].id`, `items[].relevancy` | `results`, `metadata.relevancy` |
| interaction `item`, `type` | `feature_id`, `interaction_type`, in lower case |
| the text field `query` of `fields` | `query`, `metadata.query` |

Everything else is kept under `metadata.metarank`. Metarank's interactions have no position: where a document stood
follows from its search. Its item and user events describe documents and people; they are not applicable here.
Format: https://docs.metarank.ai, "Supported events".
"""

from collections.abc import Mapping
from typing import Any

from clickwell.errors import DecodeError
from clickwell.producers.dialects import (
    NOT_APPLICABLE,
    Json,
    epoch_ms,
    present,
    restored,
    short_id,
    short_query,
    signal_name,
    text_id,
    with_rest,
)
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search

NAME = "metarank"

# `metadata` is what older versions called `item`.
_ABOUT_OTHER_THINGS = ("item", "user", "metadata")


def to_event(original: Mapping[str, Any], *, retriever: str | None = None) -> Json:
    """Return the JSON of the search or interaction that a Metarank event tells of; it is still to be checked.

    Args:
        original: a Metarank event of any kind.
        retriever: the retriever_id where there is no `tenant`.

    Raises:
        DecodeError: `not_applicable`, an item or user event; `missing_field` or `invalid_field`, it is not Metarank's.
    """
    kind = original.get("event")
    if kind in _ABOUT_OTHER_THINGS:
        raise DecodeError(NOT_APPLICABLE, f"the {kind} event tells neither what was shown nor what was done with it")
    if kind == "interaction":
        event = _interaction(original)
    elif kind == "ranking":
        event = _search(original)
    elif kind is None:
        raise DecodeError("missing_field", "event: is one of item, user, ranking, interaction", field="event")
    else:
        raise DecodeError("invalid_field", "event: is not one of item, user, ranking, interaction", field="event")
    event |= present(
        {
            "retriever_id": text_id(original.get("tenant")) or retriever,
            "user_id": text_id(original.get("user")),
            "session_id": text_id(original.get("session")),
            "timestamp": epoch_ms(original.get("timestamp")),
        }
    )
    return with_rest(NAME, event, dict(original), _back)


def from_event(event: Interaction | Search) -> Json:
    """Return the Metarank event that an event came from, field by field; of any other, what has a place there."""
    plain = event.model_dump(exclude_none=True, exclude_defaults=True)
    return restored(_back(plain), event.metadata.get(NAME), event.timestamp)


def _interaction(original: Mapping[str, Any]) -> Json:
    kind = _required(original, "type")
    return present(
        {
            "interaction_id": short_id(_required(original, "id")),
            "feature_id": _required(original, "item"),
            "interaction_type": [signal_name(kind)],
            "execution_id": text_id(original.get("ranking")),
            "metadata": present({"query": _query(original)}) or None,
        }
    )


def _search(original: Mapping[str, Any]) -> Json:
    items = original.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        reason = "missing_field" if items is None else "invalid_field"
        raise DecodeError(reason, "items: a ranking has a list of objects", field="items")
    results = [text_id(item.get("id")) for item in items]
    if None in results:
        raise DecodeError("invalid_field", "items: holds one without an id", field="items")
    scores = [item.get("relevancy") for item in items]
    numbers = [score for score in scores if isinstance(score, int | float) and not isinstance(score, bool)]
    # As a column of its own it is a third of the size, which the bound on metadata makes matter.
    relevancy = scores if numbers and len(numbers) + scores.count(None) == len(scores) else None
    return {
        "execution_id": _required(original, "id"),
        "query": _query(original) or "",
        "results": results,
        "metadata": present({"relevancy": relevancy}),
    }


def _required(original: Mapping[str, Any], name: str) -> str:
    value = text_id(original.get(name))
    if value is None:
        reason = "missing_field" if original.get(name) is None else "invalid_field"
        raise DecodeError(reason, f"{name}: is needed, as text", field=name)
    return value


def _query(original: Mapping[str, Any]) -> str | None:
    fields = original.get("fields")
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, dict) and field.get("name") == "query":
            return short_query(field.get("value"))
    return None


def _back(event: Json) -> Json:
    """Return Metarank's form of an event, without looking at what was kept of the original."""
    metadata = event.get("metadata", {})
    is_search = "feature_id" not in event
    query = event.get("query") if is_search else metadata.get("query")
    # Metarank's own documentation writes times as text: a number may lose digits in JSON.
    time = event.get("timestamp")
    said = present(
        {
            "timestamp": None if time is None else str(time),
            "user": event.get("user_id"),
            "session": event.get("session_id"),
            "tenant": event.get("retriever_id"),
            "fields": [{"name": "query", "value": query}] if query else None,
        }
    )
    if is_search:
        results = event.get("results", [])
        scores = metadata.get("relevancy")
        if not isinstance(scores, list) or len(scores) != len(results):
            scores = [None] * len(results)
        items = [present({"id": one, "relevancy": score}) for one, score in zip(results, scores, strict=True)]
        return {"event": "ranking", "id": event["execution_id"], **said, "items": items}
    return {
        "event": "interaction",
        **present({"id": event.get("interaction_id"), "ranking": event.get("execution_id")}),
        **said,
        "type": event["interaction_type"][0],
        "item": event["feature_id"],
    }
