"""Bytes to events and back, and the CloudEvents headers of a Kafka record.

`parse` is the authority on what is a valid event: fast paths elsewhere may only accept what it accepts.
"""

import secrets
import time
import uuid
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from clickwell.errors import DecodeError
from clickwell.schemas.interactions import MAX_AHEAD_MS, Event

# Larger records cannot hold a valid event (8 KiB metadata, 1,000 results of 512 characters) and are not even parsed.
MAX_EVENT_BYTES = 4 << 20

E = TypeVar("E", bound=Event)


def parse(model: type[E], data: bytes, *, received_ms: int) -> E:
    """Parse one JSON event received at `received_ms` (epoch ms) and fill in what depends on receipt.

    The returned event always has a `timestamp`.

    Raises:
        DecodeError: `too_large`, `bad_json`, `not_an_object`, `missing_field`, `invalid_field`, `past_timestamp`
            (before 2000: seconds sent as milliseconds?) or `future_timestamp` (more than 5 minutes after receipt).
    """
    content = decode_object(data)
    return parse_object(model, content, received_ms=received_ms)


def decode_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that is to be an event.

    Raises:
        DecodeError: `too_large`, `bad_json` or `not_an_object`.
    """
    if len(data) > MAX_EVENT_BYTES:
        raise DecodeError("too_large", f"the record has {len(data)} bytes, {MAX_EVENT_BYTES} are allowed")
    try:
        content = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise DecodeError("bad_json", str(error)) from None
    if not isinstance(content, dict):
        raise DecodeError("not_an_object", f"an event is a JSON object, not {type(content).__name__}")
    return content


def parse_object(model: type[E], content: Any, *, received_ms: int) -> E:
    """Like `parse`, for JSON that is already decoded."""
    if not isinstance(content, dict):
        raise DecodeError("not_an_object", f"an event is a JSON object, not {type(content).__name__}")
    try:
        event = model.model_validate(content)
    except ValidationError as error:
        raise _decode_error(error) from None
    except (RecursionError, OverflowError):
        raise DecodeError("bad_json", "nested too deeply or holding a number too large") from None
    if event.timestamp is None:
        event.timestamp = received_ms
    elif event.timestamp > received_ms + MAX_AHEAD_MS:
        raise DecodeError(
            "future_timestamp", f"{event.timestamp} is more than 5 minutes ahead of the receipt", field="timestamp"
        )
    return event


def _decode_error(error: ValidationError) -> DecodeError:
    first = error.errors(include_url=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if field in {"timestamp", "sent_at"} and first["type"] == "greater_than_equal":
        return DecodeError("past_timestamp", "before the year 2000; times are epoch milliseconds", field=field)
    if field in {"timestamp", "sent_at"} and first["type"] == "less_than_equal":
        return DecodeError("future_timestamp", "after the year 9999; times are epoch milliseconds", field=field)
    reason = "missing_field" if first["type"] == "missing" else "invalid_field"
    return DecodeError(reason, f"{field or 'event'}: {first['msg']}", field=field)


def headers(kind: str, event_id: str, source: str) -> list[tuple[str, bytes]]:
    """Return the CloudEvents 1.0 headers (binary mode) of a record of `kind` `interaction`, `search` or `erasure`."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", f"clickwell.{kind}.v1".encode()),
        ("ce_source", source.encode()),
        ("content-type", b"application/json"),
    ]


def new_id() -> str:
    """Mint a UUIDv7 (RFC 9562): sortable by time, so that ids of one hour lie together in every index."""
    stamp = time.time_ns() // 1_000_000
    bits = (stamp << 80) | (0x7 << 76) | (secrets.randbits(12) << 64) | (0b10 << 62) | secrets.randbits(62)
    return str(uuid.UUID(int=bits))


def dead_letter_key(topic: str, partition: int, offset: int) -> bytes:
    """Return the key under which one bad record is dead-lettered; consumers drop repeats of it."""
    return f"{topic}/{partition}/{offset}".encode()
