"""Events as they were sent, made fit for the log: strict JSON, with an id and a time.

Bytes that need nothing added go to the log as they came.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec

from clickwell.errors import DecodeError
from clickwell.schemas.wire import new_id


class Received(msgspec.Struct, gc=False):
    """One event of a request, as decoders want it: `offset` is its place there, `timestamp` when it came, epoch ms."""

    offset: int
    timestamp: int
    value: bytes


def prepare(
    events: Sequence[bytes | Mapping[str, Any]], received_ms: int, *, mint_ids: bool, salt: bytes = b""
) -> tuple[list[Received], list[tuple[int, DecodeError]]]:
    """Return the events that may be decoded, and those that are refused already, with their places.

    Args:
        events: JSON objects, as bytes or decoded.
        received_ms: becomes the time of those that have none, epoch ms.
        mint_ids: give an `interaction_id` to those that have none.
        salt: names the request if it may be repeated: the minted ids are the same each time then.
    """
    ready: list[Received] = []
    refused: list[tuple[int, DecodeError]] = []
    for place, event in enumerate(events):
        try:
            value = event if isinstance(event, bytes) else msgspec.json.encode(event)
            ready.append(Received(place, received_ms, _complete(value, place, received_ms, mint_ids, salt)))
        except DecodeError as error:
            refused.append((place, error))
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
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


def _complete(value: bytes, place: int, received_ms: int, mint_ids: bool, salt: bytes) -> bytes:
    event = strictly(value)
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
    if len(added) == 1 and "timestamp" in added:
        return value.rstrip()[:-1] + b',"timestamp":%d}' % received_ms
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
