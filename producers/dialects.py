"""What the dialects of other tools share: names for signals, ids, and keeping what has no place of its own.

A dialect turns the JSON of another tool into the JSON of an Interaction or Search, and back. Nothing is lost on the
way: what the way back would not yield by itself is kept under `metadata.<dialect>`, in the shape that it came in, so
that an event out of the log or the lake is field by field the one that was sent.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from pydantic_core import PydanticCustomError, to_json

from clickwell.errors import DecodeError
from clickwell.schemas.interactions import EPOCH, MAX_INTERACTION_ID, MAX_QUERY, to_epoch_ms

NOT_APPLICABLE = "not_applicable"
"""Reason of what is a valid event of its dialect, but tells neither what was shown nor what was done with it."""

# Names of fields that the way back would add although the sender's event had none.
ABSENT = "$absent"

_WORD_EDGE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# More digits are no time of this calendar.
_DIGITS = re.compile(r"\d{1,17}", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")

Json = dict[str, Any]


def signal_name(name: str) -> str:
    """Return a name in the form of a signal's: `AddToCart` and `Add to cart` become `add_to_cart`."""
    return _NOT_IN_NAMES.sub("_", _WORD_EDGE.sub("_", name).lower()).strip("_")[:64]


def text_id(value: Any) -> str | None:
    """Return an id as text, which many senders write as a number; None for anything else and for empty text."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def content_id(dialect: str, original: Mapping[str, Any]) -> str:
    """Return an id for an event that has none: the same fields give the same id, in whatever order they stand."""
    return f"{dialect}:{hashlib.blake2b(to_json(_ordered(original)), digest_size=16).hexdigest()}"


def short_id(value: str) -> str:
    """Return an interaction_id, or its hash if it is too long for one."""
    return value if len(value) <= MAX_INTERACTION_ID else hashlib.blake2b(value.encode(), digest_size=16).hexdigest()


def short_query(value: Any) -> str | None:
    """Return the text of a query as far as an event may hold it; None for anything but text."""
    return value[:MAX_QUERY] if isinstance(value, str) and value else None


def iso_time(epoch_ms: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds, `2026-05-01T12:00:00.000Z`."""
    moment = (EPOCH + timedelta(milliseconds=epoch_ms)).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def present(fields: Mapping[str, Any]) -> Json:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def with_rest(dialect: str, event: Json, original: Json, back: Callable[[Json], Json]) -> Json:
    """Return the event with everything of `original` that `back` does not yield from it, under `metadata.<dialect>`.

    Raises:
        DecodeError: the original has a field of the one name that is needed to say what it lacks.
    """
    if ABSENT in original:
        raise DecodeError("invalid_field", f"{ABSENT} cannot be the name of a field here", field=ABSENT)
    guess = back(event)
    rest = _differing(original, guess)
    # The time of receipt fills in for an absent one, but was not in what was sent.
    if absent := sorted({*guess, "timestamp"} - original.keys()):
        rest[ABSENT] = absent
    return {**event, "metadata": {**event.get("metadata", {}), dialect: rest}} if rest else event


def restored(guess: Json, rest: Any, event_ms: int | None) -> Json:
    """Return the sender's event: what the way back yields, put right by what was kept.

    Args:
        guess: what the way back yields without looking at what was kept.
        rest: what was kept, None if nothing.
        event_ms: the event's time now; a kept time that is another one was moved on purpose, and is left out.
    """
    if not isinstance(rest, dict):
        return guess
    absent = rest.get(ABSENT, ())
    kept = {name: value for name, value in rest.items() if name != ABSENT}
    if "timestamp" in kept and event_ms is not None and epoch_ms(kept["timestamp"]) != event_ms:
        del kept["timestamp"]
    return {name: value for name, value in _merged(guess, kept).items() if name not in absent}


def epoch_ms(value: Any) -> Any:
    """Return a time in epoch ms: of ISO 8601, or of digits as text; anything else is left to the event's own check."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    try:
        return to_epoch_ms(value)
    except (PydanticCustomError, OverflowError):
        return value


def _differing(original: Json, guess: Json) -> Json:
    """Return the fields of `original` that are not the same in `guess`; of objects, what differs in them.

    An object in `guess` has no field that the one in `original` lacks: it is made of what was found there.
    """
    found = {}
    for name, value in original.items():
        other = guess.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := _differing(value, other):
                found[name] = inner
        elif name not in guess or to_json(_ordered(value)) != to_json(_ordered(other)):
            found[name] = value
    return found


def _merged(guess: Json, kept: Json) -> Json:
    """Return what `_differing` was told to compare: `guess` with the fields of `kept` in it."""
    merged = dict(guess)
    for name, value in kept.items():
        other = merged.get(name)
        merged[name] = _merged(other, value) if isinstance(other, dict) and isinstance(value, dict) else value
    return merged


def _ordered(value: Any) -> Any:
    """Return JSON whose objects have their fields in order."""
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    return [_ordered(one) for one in value] if isinstance(value, list) else value
