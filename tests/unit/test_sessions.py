"""Session lines become the events that the log's rules ask for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickwell.errors import DecodeError
from clickwell.producers.sessions import parse_line, records
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import parse

NOW = 1_790_000_000_000


def events(line, searched_ms=NOW - 3_600_000, retriever="default"):
    """Every record of a line, parsed as a worker does it."""
    made = records(
        parse_line(json.dumps(line).encode()), searched_ms, retriever=retriever, long_view_ms=30_000, now_ms=NOW
    )
    return [
        (record, parse(Search if record.kind == "search" else Interaction, record.value, received_ms=NOW))
        for record in made
    ]


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
clicks = st.fixed_dictionaries(
    {"doc": st.one_of(st.sampled_from(list("abcdef")), names)},
    optional={
        "pos": st.integers(0, 9),
        "dt_ms": st.integers(0, 100_000),
        "duration_ms": st.one_of(st.integers(0, 90_000), st.floats(0, 90_000)),
        "purchase": st.booleans(),
    },
)
lines = st.fixed_dictionaries(
    {"search_id": names, "docs": st.lists(st.sampled_from(list("abcdef")), max_size=10), "clicks": st.lists(clicks)},
    optional=dict.fromkeys(("user_id", "session_id", "query_id", "query", "ranker", "country"), names),
)


@given(line=lines)
def test_a_line_becomes_its_events(line):
    """Each click is one interaction, each unclicked result above the deepest click one skip, in the log's own terms."""
    (_, search), *others = events(line)
    assert search.execution_id == line["search_id"]
    assert search.results == line["docs"]
    assert search.query == line.get("query", line.get("query_id", ""))
    assert search.ranker_id == line.get("ranker")
    if "country" in line:
        assert search.metadata["country"] == line["country"]
    count = len(line["clicks"])
    deepest = -1
    for k, (source, (record, event)) in enumerate(zip(line["clicks"], others, strict=False)):
        position = source.get("pos", line["docs"].index(source["doc"]) if source["doc"] in line["docs"] else None)
        deepest = max(deepest, -1 if position is None else position)
        expected = {"click"}
        if source.get("duration_ms", 0) >= 30_000:
            expected.add("long_view")
        if source.get("purchase"):
            expected.add("purchase")
        assert set(event.interaction_type) == expected
        assert (event.feature_id, event.position) == (source["doc"], position)
        assert record.key == source["doc"].encode()
        assert event.timestamp == search.timestamp + source.get("dt_ms", k + 1)
        assert event.duration_ms == (int(source["duration_ms"]) if "duration_ms" in source else None)
        assert (event.query or "") == search.query
    clicked = {click["doc"] for click in line["clicks"]}
    expected_skips = [(p, doc) for p, doc in enumerate(line["docs"]) if p < deepest and doc not in clicked]
    skips = [event for _, event in others[count:]]
    assert [(event.position, event.feature_id) for event in skips] == expected_skips
    assert all(event.interaction_type == ["skip"] and event.timestamp == search.timestamp for event in skips)
    shared = {(e.user_id, e.session_id, e.retriever_id, e.execution_id) for _, e in others} | {
        (search.user_id, search.session_id, search.retriever_id, search.execution_id)
    }
    assert len(shared) == 1


@given(line=lines)
def test_ids_are_unique_and_depend_on_the_line_only(line):
    """The same line makes the same ids again, and no two events of a line share one."""
    ids = [record.id for record, _ in events(line)]
    assert ids == [record.id for record, _ in events(line, searched_ms=NOW - 1000 * 3600 * 48)]
    assert len(set(ids)) == len(ids)


def test_ids_name_retriever_search_and_place():
    """Ids can be read: retriever, search, click number or skipped position."""
    line = {"search_id": "s1", "docs": ["a", "b", "c"], "clicks": [{"doc": "c", "pos": 2}]}
    ids = [record.id for record, _ in events(line, retriever="web")]
    assert ids == ["s1", "web:s1:c0", "web:s1:s0", "web:s1:s1"]


def test_a_long_search_id_still_makes_valid_ids():
    """An id that would be too long for an interaction becomes its hash, the same each time."""
    line = {"search_id": "s" * 250, "docs": ["a"], "clicks": [{"doc": "a", "pos": 0}]}
    (_, _), (record, event) = events(line)
    assert len(event.interaction_id) == 64
    assert record.id == events(line)[1][0].id


def test_an_abandoned_search_skips_nothing():
    """Without a click nobody knows how far down the person looked."""
    assert len(events({"search_id": "s1", "docs": ["a", "b"]})) == 1


def test_a_click_outside_the_shown_list_keeps_its_position():
    """Such a click counts at its place; results above it were skipped."""
    found = events({"search_id": "s1", "docs": ["a", "b"], "clicks": [{"doc": "z", "pos": 1}]})
    assert [(event.feature_id, event.position) for _, event in found[1:]] == [("z", 1), ("a", 0)]


def test_times_come_from_ts_then_t_ms_then_the_place_in_the_file():
    """A line without a time happened as many seconds after the start as there are lines before it."""
    dated = parse_line(b'{"search_id":"s","ts":"2025-03-01T00:00:01.5Z","t_ms":5}')
    assert (dated.time_ms(9), dated.has_date) == (1_740_787_201_500, True)
    relative = parse_line(b'{"search_id":"s","t_ms":5}')
    assert (relative.time_ms(9), relative.has_date) == (5, False)
    bare = parse_line(b'{"search_id":7}')
    assert (bare.search_id, bare.time_ms(9), bare.has_date) == ("7", 9000, False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "bad_json"),
        (b'{"search_id":"\\ud800"}', "bad_json"),
        (b"[]", "invalid_field"),
        (b"{}", "missing_field"),
        (b'{"search_id":"a\\u0000b"}', "invalid_field"),
        (b'{"search_id":"s","docs":[""]}', "invalid_field"),
        (b'{"search_id":"s","clicks":[{"doc":"a","pos":-1}]}', "invalid_field"),
        (b'{"search_id":"s","clicks":[{"doc":"a","duration_ms":NaN}]}', "invalid_field"),
        (b'{"search_id":"s","ts":"yesterday"}', "invalid_field"),
    ],
)
def test_a_bad_line_has_a_reason(line, reason):
    """What is not a session line is refused with a stable reason."""
    with pytest.raises(DecodeError) as caught:
        parse_line(line)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("searched_ms", "reason"), [(5000, "past_timestamp"), (NOW + 900_000, "future_timestamp")])
def test_a_time_that_cannot_be_is_refused(searched_ms, reason):
    """A line before the year 2000 or in the future makes no event at all."""
    with pytest.raises(DecodeError) as caught:
        events({"search_id": "s"}, searched_ms)
    assert caught.value.reason == reason


def test_a_click_in_the_future_refuses_its_line():
    """The search alone would be valid, its click would be dead-lettered: the line is refused as a whole."""
    with pytest.raises(DecodeError, match="future"):
        events({"search_id": "s", "clicks": [{"doc": "a", "dt_ms": 900_000}]}, NOW - 1000)
