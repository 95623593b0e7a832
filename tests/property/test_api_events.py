"""What the API makes of events, against a slow parser that keeps every member."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clickwell.serving.api.events import prepare, split

NAMES = st.sampled_from(["a", "b:", "interaction_id", "timestamp", 'q"uo:te', "é"])
SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(':{}[],"\\ab', max_size=6)


class Members(list[tuple[str, Any]]):
    """An object as it is written: members in order, a name perhaps twice."""


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=4).map(Members),
    max_leaves=12,
)
OBJECTS = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(Members)


def written(value: Any, colon: str) -> str:
    """Return a value as JSON."""
    if isinstance(value, Members):
        return "{" + ", ".join(f"{json.dumps(name)}{colon}{written(each, colon)}" for name, each in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, colon) for each in value) + "]"
    return json.dumps(value)


def twice(value: Any) -> bool:
    """Tell whether any object names a member twice."""
    if isinstance(value, Members):
        names = [name for name, _ in value]
        return len(set(names)) < len(names) or any(twice(each) for _, each in value)
    return isinstance(value, list) and any(map(twice, value))


@given(OBJECTS, st.sampled_from([":", " : "]))
def test_an_event_is_refused_exactly_when_a_name_stands_twice(event: Members, colon: str) -> None:
    """Wherever in it, however it is spaced, and whatever colons its text has."""
    ready, refused = prepare([written(event, colon).encode()], 1, mint_ids=False)
    assert bool(refused) == twice(event)
    if refused:
        assert refused[0][1].reason == "duplicate_key"
    else:
        sent = json.loads(written(event, colon))
        assert json.loads(ready[0].value) == sent | ({"timestamp": 1} if sent.get("timestamp") is None else {})


@given(st.lists(OBJECTS, max_size=6))
def test_an_array_and_lines_hold_the_same_events(events: list[Members]) -> None:
    """Each event as it was written."""
    texts = [written(event, ":").encode() for event in events]
    assert split(b"[" + b" ,\n".join(texts) + b"]", lines=False) == (texts, False)
    assert split(b"\n".join(texts), lines=True) == (texts, False)


# What could be taken for another number of events, or hide a name, when many are looked at together.
TRICKS = st.sampled_from(
    [b"", b" ", b"{}{}", b"{}\n{}", b'{"a":{}', b"{}}", b'{"a":"', b'"}', b'{"a:b":"\\u003a"}', b'{"\\u003a":1,":":2}']
) | st.binary(max_size=8)


@given(st.lists(OBJECTS.map(lambda event: written(event, ":").encode()) | TRICKS, max_size=5))
def test_what_becomes_of_an_event_is_no_matter_of_its_neighbours(values: list[bytes]) -> None:
    """A batch yields what its events yield one by one."""
    ready, refused = prepare(values, 1, mint_ids=False)
    alone = [prepare([value], 1, mint_ids=False) for value in values]
    assert [each.value for each in ready] == [one.value for found, _ in alone for one in found]
    assert [each.offset for each in ready] == [at for at, (found, _) in enumerate(alone) if found]
    assert [(at, error.reason) for at, error in refused] == [
        (at, found[0][1].reason) for at, (_, found) in enumerate(alone) if found
    ]
