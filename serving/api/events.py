"""Events as they were sent, made fit for the log: strict JSON, with an id and a time.

Bytes that need nothing added go to the log as they came.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec

from clickwell.errors import DecodeError
from clickwell.schemas.wire import new_id

_OPEN, _CLOSE = {b"{"}, {b"}"}
# The beginning of a colon's escape: a text that has it would have another number of colons when it is written again.
_COLON = b"\\u003"

_lines = msgspec.json.Decoder(dict[str, Any])


class Received(msgspec.Struct, gc=False):
    """One event of a request, as decoders want it: `offset` is its place there, `timestamp` when it came, epoch ms."""

    offset: int
    timestamp: int
    value: bytes


def prepare(
    events: Sequence[bytes], received_ms: int, *, mint_ids: bool, salt: bytes = b""
) -> tuple[list[Received], list[tuple[int, DecodeError]]]:
    """Return the events that may be decoded, and those that are refused already, with their places.

    Args:
        events: JSON objects.
        received_ms: becomes the time of those that have none, epoch ms.
        mint_ids: give an `interaction_id` to those that have none.
        salt: names the request if it may be repeated: the minted ids are the same each time then.
    """
    objects = _strictly_all(events)
    stamp = b',"timestamp":%d}' % received_ms
    ready: list[Received] = []
    refused: list[tuple[int, DecodeError]] = []
    for place, value in enumerate(events):
        try:
            event = objects[place] if objects else strictly(value)
            # Most events have an id and no time.
            if objects and event.get("interaction_id") and "timestamp" not in event and "clickwell" not in event:
                complete = value[:-1] + stamp
            else:
                complete = _complete(value, event, place, received_ms, mint_ids, salt)
            ready.append(Received(place, received_ms, complete))
        except DecodeError as error:
            refused.append((place, error))
        except (ValueError, OverflowError, RecursionError) as error:
            refused.append((place, DecodeError("bad_json", str(error) or "nested too deeply")))
    return ready, refused


def split(body: bytes, *, lines: bool) -> tuple[list[bytes], bool]:
    """Return the events of a body, and whether it is a single one and no batch.

    Args:
        body: an object, an array of objects or, with `lines`, an object on each line.
        lines: whether the body is NDJSON.

    Raises:
        DecodeError: the body cannot be told apart into events.
    """
    if lines:
        return [line for line in map(bytes.strip, body.splitlines()) if line], False
    text = body.strip()
    if not text.startswith(b"["):
        return [text] if text else [], True
    try:
        return [bytes(raw) for raw in msgspec.json.decode(text, type=list[msgspec.Raw])], False
    except (msgspec.DecodeError, RecursionError) as error:
        raise DecodeError("bad_json", f"the array is not JSON: {error}") from None


def strictly(value: bytes) -> dict[str, Any]:
    """Return the object of one event.

    Decoding everything is stricter than the models on purpose: what they would skip is still stored and exported.

    Raises:
        DecodeError: it is no object, or has a name twice.
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    event = msgspec.json.decode(value)
    if not isinstance(event, dict):
        raise DecodeError("not_an_object", f"an event is a JSON object, not {type(event).__name__}")
    # Each member has a colon; as many colons as members leave no room for a member twice.
    if value.count(b":") != _members(event):
        json.loads(value.decode(), object_pairs_hook=_once)
    return event


def _strictly_all(values: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Return what `strictly` makes of each value, by a few calls for all; None if one has to be looked at alone."""
    joined = b"\n".join(values)
    # A value with such ends yields one object at least, so that as many objects as values are one each.
    if {value[:1] for value in values} != _OPEN or {value[-1:] for value in values} != _CLOSE or _COLON in joined:
        return None
    try:
        objects: list[dict[str, Any]] = _lines.decode_lines(joined)
        again = msgspec.json.encode(objects)
    except (ValueError, OverflowError, RecursionError):
        return None
    # Written again, a name that stood twice is there once, and has lost its colon.
    same = len(objects) == len(values) and again.count(b":") == joined.count(b":")
    return objects if same else None


def _complete(value: bytes, event: dict[str, Any], place: int, received_ms: int, mint_ids: bool, salt: bytes) -> bytes:
    added: dict[str, Any] = {}
    if mint_ids and event.get("interaction_id") in (None, ""):
        added["interaction_id"] = _lasting_id(salt, place, value) if salt else new_id()
    if event.get("timestamp") is None:
        added["timestamp"] = received_ms
    # Records that begin with this name are clickwell's own, and a sender must not be able to write one.
    if "clickwell" in event:
        return msgspec.json.encode({"timestamp": None} | event | added)
    if not added:
        return value
    if not event or event.keys() & added.keys():
        return msgspec.json.encode(event | added)
    return value.rstrip()[:-1] + b"," + msgspec.json.encode(added)[1:]


def _members(value: dict[str, Any] | list[Any]) -> int:
    """Return how many members the objects within a value have."""
    of_dict = type(value) is dict
    count = len(value) if of_dict else 0
    for each in value.values() if of_dict else value:  # type: ignore[union-attr]  # told apart above
        if type(each) is dict or type(each) is list:
            count += _members(each)
    return count


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a name that stands twice in an object: two parsers may believe two different values."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DecodeError("duplicate_key", f"{twice[:64]!r} stands there twice", field=twice[:64])


def _lasting_id(salt: bytes, place: int, value: bytes) -> str:
    """Return an id (UUID version 8) that the same event at the same place of the same request gets again."""
    digest = blake2b(b"%b\0%d\0%b" % (salt, place, value), digest_size=16).digest()
    return str(UUID(int=int.from_bytes(digest) & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62))
