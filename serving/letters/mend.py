"""From a bad record to an event that can be put back."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from clickwell.errors import DecodeError
from clickwell.producers.records import KIND_OF, Record, interaction_record, search_record
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import decode_object, parse_object
from clickwell.serving.letters.book import Letter

_IN_METADATA = re.compile(r"metadata\.(.+)", re.DOTALL)


def changed(value: bytes | None, changes: Mapping[str, Any]) -> bytes:
    """Return a JSON object with some fields set.

    Args:
        value: the object.
        changes: field -> JSON value; `metadata.x` names a field of the metadata, None removes a field.

    Raises:
        DecodeError: `no_value`, `bad_json` or `not_an_object`: there is no object to change, or nothing to write.
    """
    content = _object(value)
    for name, new in changes.items():
        inner = _IN_METADATA.fullmatch(name)
        home, key = content, name
        if inner:
            if not isinstance(content.get("metadata"), dict):
                content["metadata"] = {}
            home, key = content["metadata"], inner[1]
        home[key] = new
        if new is None:
            del home[key]
    return encoded(content)


def encoded(content: Mapping[str, Any]) -> bytes:
    """Return an object as JSON.

    Raises:
        DecodeError: `bad_json`, it holds half a surrogate pair.
    """
    try:
        return to_json(content)
    except ValueError as error:
        raise DecodeError("bad_json", str(error)) from None


def ready(letter: Letter, value: bytes | None, now_ms: int) -> Record:
    """Return the record that is put back for a letter.

    An event that lacks an `interaction_id` gets one that is made of the bad record's place, one that lacks a
    `timestamp` the time at which the broker received the bad record; one that lacks neither stays as it is, byte for
    byte.

    Args:
        letter: whose record it is.
        value: its fix, or its original.
        now_ms: the present, epoch ms.

    Raises:
        DecodeError: the value is no valid event, with the reason that a worker would give.
    """
    kind = KIND_OF.get(letter.topic)
    if kind not in {"interaction", "search"}:
        raise DecodeError("not_replayable", f"records of {letter.topic} are no interactions or searches")
    content = _object(value)
    filled: dict[str, Any] = {}
    if content.get("timestamp") is None:
        filled["timestamp"] = letter.received_ms
    if kind == "search":
        search = parse_object(Search, content, received_ms=now_ms)
        record = search_record(search.model_copy(update=filled), now_ms)
    else:
        interaction = parse_object(Interaction, content, received_ms=now_ms)
        if interaction.interaction_id is None:
            filled["interaction_id"] = f"letter:{letter.origin}"
        record = interaction_record(interaction.model_copy(update=filled), now_ms)
    return record if filled or value is None else record._replace(value=value)


def _object(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise DecodeError("no_value", "the record has no value")
    return decode_object(value)
