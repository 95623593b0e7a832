"""What is known about documents beside their events: attributes such as brands, categories and tags.

In Redis each document is one field of a hash, the value a JSON object: attribute -> list of values, for example
`{"brand":["Ridgeline"],"tags":["waterproof","light"]}`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Attributes = Mapping[str, tuple[str, ...]]

# Beyond this many values an attribute is prose, not a preference.
MAX_VALUES = 64
MAX_VALUE = 256


def attributes_of(row: Mapping[str, Any], names: Iterable[str]) -> Attributes:
    """Return the attributes of one row of a catalogue, in the given order of names; values as text, without repeats.

    A value may be text, a number, a truth value, or a list of these; null, empty text and other things are left out,
    as is what goes beyond 64 values of 256 characters.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        raw = row.get(name)
        values = raw if isinstance(raw, (list, tuple)) else [raw]
        texts = (str(value).strip()[:MAX_VALUE] for value in values if isinstance(value, (str, int, float)))
        kept = tuple(dict.fromkeys(text for text in texts if text))[:MAX_VALUES]
        if kept:
            found[name] = kept
    return found


def encode(attributes: Attributes) -> bytes:
    """Return the value that Redis holds."""
    return json.dumps(attributes, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def decode(value: bytes) -> Attributes:
    """Return the attributes that a value holds.

    Raises:
        ValueError: it is not of this form.
    """
    content = json.loads(value)
    if not isinstance(content, dict) or not all(isinstance(values, list) for values in content.values()):
        raise ValueError("not attributes of a document")
    return {name: tuple(map(str, values)) for name, values in content.items()}
