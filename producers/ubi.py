"""OpenSearch User Behavior Insights (UBI, schema 1.3.0): its queries are searches, its events interactions, and back.

| UBI | here |
|---|---|
| query `query_id`, event `query_id` | `execution_id` |
| `application` | `retriever_id` |
| `user_id`, else `client_id` | `user_id` |
| `session_id`, `timestamp` | the same |
| query `user_query`, event `user_query`, `message` of a `QUERY` event | `query`, `metadata.query` |
| query `query_response_hit_ids` | `results`; absent means that nothing was found, as OpenSearch writes it |
| event `action_name` | `interaction_type`, in lower case; `click_through` is a click |
| event `event_attributes.object.object_id` | `feature_id` |
| event `event_attributes.position.ordinal`, or its `index` | `position`, counted from 0 |

Everything else is kept under `metadata.ubi`. Schemas: https://github.com/o19s/ubi, folder schema/1.3.0.
"""

from collections.abc import Mapping
from typing import Any

from clickwell.errors import DecodeError
from clickwell.producers.dialects import (
    NOT_APPLICABLE,
    Json,
    content_id,
    epoch_ms,
    iso_time,
    present,
    restored,
    short_query,
    signal_name,
    text_id,
    with_rest,
)
from clickwell.schemas.interactions import MAX_POSITION, MAX_TIMESTAMP_MS, Interaction
from clickwell.schemas.searches import Search

NAME = "ubi"

# The schema says "the nth position of the document", and its examples begin at 1.
FIRST_POSITION = 1

_SAME_ACTION = {"click_through": "click"}


def to_event(
    original: Mapping[str, Any], *, retriever: str | None = None, first_position: int = FIRST_POSITION
) -> Json:
    """Return the JSON of the search or interaction that a UBI query or event tells of.

    Ids that UBI does not have are made of the content, so that an event that is sent twice counts once. The result is
    still to be checked as any event is.

    Args:
        original: a UBI event if it has an `action_name`, else a UBI query.
        retriever: the retriever_id where there is no `application`.
        first_position: the `ordinal` of the uppermost result in this source.

    Raises:
        DecodeError: `not_applicable`, an event that is about no result, such as a log-in; `missing_field` or
            `invalid_field`, it is no UBI.
    """
    if "action_name" in original:
        event = _interaction(original, first_position)
    elif "user_query" in original or "query_response_hit_ids" in original:
        event = _search(original)
    else:
        raise DecodeError(
            "missing_field", "action_name: a UBI event has one, a UBI query has user_query", field="action_name"
        )
    event |= present(
        {
            "retriever_id": text_id(original.get("application")) or retriever,
            "user_id": text_id(original.get("user_id")) or text_id(original.get("client_id")),
            "session_id": text_id(original.get("session_id")),
            "timestamp": epoch_ms(original.get("timestamp")),
        }
    )
    return with_rest(NAME, event, dict(original), _back)


def from_event(event: Interaction | Search) -> Json:
    """Return the UBI query or event that an event came from, field by field; of any other, what has a place there."""
    plain = event.model_dump(exclude_none=True, exclude_defaults=True)
    return restored(_back(plain), event.metadata.get(NAME), event.timestamp)


def _interaction(original: Mapping[str, Any], first_position: int) -> Json:
    action, attributes = original["action_name"], _object(original.get("event_attributes"))
    if not isinstance(action, str):
        raise DecodeError("invalid_field", "action_name: is not text", field="action_name")
    document = text_id(_object(attributes.get("object")).get("object_id"))
    if document is None:
        raise DecodeError(NOT_APPLICABLE, f"the {action} event is about no result: it has no object_id")
    query = original.get("user_query")
    if query is None and original.get("message_type") == "QUERY":
        query = original.get("message")
    return present(
        {
            "interaction_id": content_id(NAME, original),
            "feature_id": document,
            "interaction_type": [signal_name(_SAME_ACTION.get(action, action))],
            "position": _position(attributes, first_position),
            "execution_id": text_id(original.get("query_id")),
            "metadata": present({"query": short_query(query)}) or None,
        }
    )


def _search(original: Mapping[str, Any]) -> Json:
    hits = original.get("query_response_hit_ids")
    if not isinstance(hits, list | None):
        raise DecodeError("invalid_field", "query_response_hit_ids: is not a list", field="query_response_hit_ids")
    found = [text_id(hit) for hit in hits or ()]
    if None in found:
        raise DecodeError(
            "invalid_field", "query_response_hit_ids: holds something that is no id", field="query_response_hit_ids"
        )
    return {
        "execution_id": text_id(original.get("query_id")) or content_id(NAME, original),
        "query": short_query(original.get("user_query")) or "",
        "results": found,
    }


def _position(attributes: Json, first_position: int) -> int | None:
    """Return the place from 0, None if the event does not tell it in whole numbers."""
    ordinal = _object(attributes.get("position")).get("ordinal")
    if isinstance(ordinal, dict):
        ordinal = ordinal.get("index")
    if not isinstance(ordinal, int) or isinstance(ordinal, bool) or not 0 <= ordinal <= MAX_POSITION:
        return None
    if ordinal < first_position:
        raise DecodeError(
            "invalid_field",
            f"event_attributes.position.ordinal: is {ordinal}, but this source was said to count from {first_position}",
            field="event_attributes",
        )
    return ordinal - first_position


def _back(event: Json) -> Json:
    """Return the UBI of an event, without looking at what was kept of the original."""
    said = present(
        {
            "application": event.get("retriever_id"),
            "query_id": event.get("execution_id"),
            "client_id": event.get("user_id"),
            "user_id": event.get("user_id"),
            "session_id": event.get("session_id"),
            "timestamp": _iso(event.get("timestamp")),
        }
    )
    if "feature_id" not in event:
        return said | {"user_query": event.get("query", ""), "query_response_hit_ids": event.get("results", [])}
    attributes: Json = {"object": {"object_id": event["feature_id"]}}
    if "position" in event:
        attributes["position"] = {"ordinal": event["position"] + FIRST_POSITION}
    query = event.get("metadata", {}).get("query")
    return {
        "action_name": event["interaction_type"][0],
        **said,
        **present({"user_query": query}),
        "event_attributes": attributes,
    }


def _iso(value: Any) -> str | None:
    # The event is not checked yet when it is compared with the original.
    return iso_time(value) if type(value) is int and 0 <= value <= MAX_TIMESTAMP_MS else None


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
