"""Events of other tools become valid events here, and come back field by field."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickwell.errors import DecodeError
from clickwell.producers import metarank, ubi
from clickwell.producers.dialects import signal_name
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import parse, parse_object

NOW = 1_790_000_000_000
DATA = Path(__file__).parents[1] / "data"


def lines(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def through(dialect, original, **options):
    """Return the event as a worker reads it from the log, or None if there is none in it."""
    try:
        event = dialect.to_event(original, **options)
    except DecodeError as error:
        if error.reason == "not_applicable":
            return None
        raise
    model = Interaction if "feature_id" in event else Search
    record = parse_object(model, event, received_ms=NOW).to_bytes()
    return parse(model, record, received_ms=NOW)


def as_text(value):
    """Return JSON in a form that keeps 1, 1.0 and true apart."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize(("dialect", "events", "others"), [(ubi, 12, 2), (metarank, 8, 2)], ids=["ubi", "metarank"])
def test_every_example_comes_back(dialect, events, others):
    """Each event of the example file is valid here and comes back field by field; the others are told apart."""
    originals = lines(dialect.NAME)
    found = [(original, through(dialect, original, retriever="site")) for original in originals]
    taken = [(original, event) for original, event in found if event is not None]
    assert (len(taken), len(found) - len(taken)) == (events, others)
    for original, event in taken:
        assert as_text(dialect.from_event(event)) == as_text(original)


def test_a_ubi_query_is_a_search():
    """Query, shown list, application, client and time stand where a search has them, the rest under its own name."""
    event = through(ubi, lines("ubi")[0])
    assert event.model_dump(exclude_none=True) == {
        "execution_id": "7c5e9a3e-0d1b-4f3a-9a55-1f3c8f3f0a01",
        "retriever_id": "primary-search",
        "user_id": "Firefox@4711",
        "query": "rain jacket",
        "results": ["J-100", "J-200", "J-300", "J-400"],
        "timestamp": 1_777_636_800_000,
        "metadata": {
            "ubi": {
                "query_attributes": {"experiment": "b", "filters": {"brand": ["Nord", "Fjell"]}, "page": 1},
                "object_id_field": "sku",
                "query_response_id": "0b0f6a52-8f3f-4a44-8d4f-53a4c1b0e001",
                "$absent": ["user_id"],
            }
        },
    }


def test_a_ubi_click_is_an_interaction():
    """The document, the place from 0, the search and the person of a click are the canonical ones."""
    event = through(ubi, lines("ubi")[6])
    assert (event.feature_id, event.interaction_type, event.position) == ("J-300", ["click"], 2)
    assert (event.execution_id, event.user_id, event.session_id) == (lines("ubi")[0]["query_id"], "u-42", "s-1")
    assert (event.query, event.timestamp) == ("rain jacket", 1_777_636_804_217)
    assert event.metadata["ubi"]["event_attributes"]["position"] == {"xy": {"x": 120.5, "y": 640}}
    assert "timestamp" not in event.metadata["ubi"]


def test_older_and_looser_ubi_is_understood():
    """An ordinal with an index, a number as id, and the older name of a click are what they mean."""
    event = through(ubi, lines("ubi")[7])
    assert (event.feature_id, event.interaction_type, event.position) == ("123", ["click"], 1)
    assert through(ubi, lines("ubi")[11]).interaction_type == ["add_to_wishlist"]


def test_a_metarank_ranking_is_a_search():
    """Items are results in shown order, their scores a column beside them, the query is found among the fields."""
    event = through(metarank, lines("metarank")[2], retriever="site")
    assert (event.execution_id, event.query, event.results) == ("r-1", "rain jacket", ["J-100", "J-200", "J-300"])
    assert (event.user_id, event.session_id, event.retriever_id) == ("u-42", "s-1", "site")
    assert event.metadata["relevancy"] == [2.0, 1, 0.5]
    assert set(event.metadata["metarank"]) == {"fields", "$absent"}


def test_a_metarank_interaction_is_an_interaction():
    """Item, type, ranking and id stand where an interaction has them."""
    event = through(metarank, lines("metarank")[6])
    assert (event.interaction_id, event.feature_id, event.interaction_type) == ("i-1", "J-300", ["click"])
    assert (event.execution_id, event.position, event.query) == ("r-1", None, "rain jacket")
    assert event.metadata == {"query": "rain jacket"}


def test_positions_count_from_where_the_source_does():
    """The uppermost place is 0 here, whatever the source calls it, and comes back as the source called it."""
    first = {"action_name": "click", "timestamp": "2026-05-01T12:00:00.000Z"}
    first["event_attributes"] = {"object": {"object_id": "a"}, "position": {"ordinal": 0}}
    event = through(ubi, first, first_position=0)
    assert event.position == 0
    assert ubi.from_event(event) == first
    with pytest.raises(DecodeError, match="count from 1"):
        ubi.to_event(first)


def test_the_same_ubi_event_has_the_same_id():
    """A UBI event that is sent twice counts once, in whatever order its fields stand; another one is another."""
    event = lines("ubi")[6]
    turned = dict(reversed(event.items()))
    assert ubi.to_event(event)["interaction_id"] == ubi.to_event(turned)["interaction_id"]
    later = event | {"timestamp": "2026-05-01T12:00:04.218Z"}
    assert ubi.to_event(event)["interaction_id"] != ubi.to_event(later)["interaction_id"]


def test_a_moved_time_comes_back_moved():
    """Whoever shifted an event in time gets the new time back, not the kept text of the old one."""
    event = through(ubi, lines("ubi")[1])
    moved = event.model_copy(update={"timestamp": 1_777_640_000_000})
    assert ubi.from_event(event)["timestamp"] == "2026-05-01T12:00:30+02:00"
    assert ubi.from_event(moved)["timestamp"] == "2026-05-01T12:53:20.000Z"


def test_events_from_elsewhere_have_a_ubi_and_a_metarank_form():
    """An interaction that never was UBI or Metarank is written with what these have a place for."""
    event = Interaction(
        interaction_id="i", feature_id="a", interaction_type=["click"], position=0, execution_id="e", timestamp=NOW
    )
    assert ubi.from_event(event) == {
        "action_name": "click",
        "query_id": "e",
        "timestamp": "2026-09-21T14:13:20.000Z",
        "event_attributes": {"object": {"object_id": "a"}, "position": {"ordinal": 1}},
    }
    assert metarank.from_event(event) == {
        "event": "interaction",
        "id": "i",
        "ranking": "e",
        "timestamp": str(NOW),
        "type": "click",
        "item": "a",
    }


@pytest.mark.parametrize(
    ("name", "signal"),
    [("click", "click"), ("AddToCart", "add_to_cart"), ("Add to cart!", "add_to_cart"), ("long-view", "long_view")],
)
def test_names_become_signals(name, signal):
    """Names in other spellings are the signal that they mean."""
    assert signal_name(name) == signal


@pytest.mark.parametrize(
    ("dialect", "original", "field"),
    [
        (ubi, {}, "action_name"),
        (ubi, {"action_name": 7}, "action_name"),
        (ubi, {"user_query": "q", "query_response_hit_ids": "J-1"}, "query_response_hit_ids"),
        (ubi, {"user_query": "q", "query_response_hit_ids": [None]}, "query_response_hit_ids"),
        (ubi, {"user_query": "q", "$absent": []}, "$absent"),
        (metarank, {}, "event"),
        (metarank, {"event": "click"}, "event"),
        (metarank, {"event": "ranking", "id": "r"}, "items"),
        (metarank, {"event": "ranking", "id": "r", "items": [{}]}, "items"),
        (metarank, {"event": "interaction", "type": "click", "item": "a"}, "id"),
    ],
)
def test_what_is_not_the_dialect_is_refused(dialect, original, field):
    """The reason names the field that is missing or wrong."""
    with pytest.raises(DecodeError) as caught:
        dialect.to_event(original)
    assert (caught.value.field, caught.value.reason) in {(field, "missing_field"), (field, "invalid_field")}


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
leaves = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6) | names
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
ids = names | st.integers(0, 99) | st.none()
times = st.sampled_from(
    ["2026-05-01T12:00:00.000Z", "2026-05-01T12:00:00Z", "2026-05-01", 1_777_636_800_000, "1777636800000"]
)
extras = st.dictionaries(names, anything, max_size=2)
ubi_objects = st.builds(
    lambda required, more: more | required,
    st.fixed_dictionaries({"object_id": st.integers(0, 9) | st.sampled_from(["a", "b"])}),
    extras,
)
ubi_positions = st.one_of(
    st.fixed_dictionaries({"ordinal": st.integers(1, 40)}),
    st.fixed_dictionaries({"ordinal": st.fixed_dictionaries({"index": st.integers(1, 40)})}),
    st.fixed_dictionaries({"ordinal": anything.filter(lambda value: value not in (0, False))}),
    anything,
)
ubi_events = st.fixed_dictionaries(
    {
        "action_name": st.sampled_from(["click", "click_through", "impression", "Add To Cart"]),
        "timestamp": times,
        "event_attributes": st.builds(
            lambda known, more: more | known,
            st.fixed_dictionaries({"object": ubi_objects}, optional={"position": ubi_positions}),
            extras,
        ),
    },
    optional=dict.fromkeys(("query_id", "session_id", "client_id", "user_id", "application"), ids)
    | {"user_query": names | st.none(), "message": names, "message_type": st.sampled_from(["QUERY", "CLICK"])},
)
ubi_queries = st.fixed_dictionaries(
    {"user_query": names | st.none()},
    optional=dict.fromkeys(("query_id", "session_id", "client_id", "user_id", "application"), ids)
    | {
        "timestamp": times,
        "query_response_hit_ids": st.lists(st.sampled_from(["a", "b", 3]), max_size=5) | st.none(),
        "query_attributes": extras,
    },
)
metarank_fields = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["query", "source"]), "value": anything}), max_size=3
)
metarank_rankings = st.fixed_dictionaries(
    {
        "event": st.just("ranking"),
        "id": st.sampled_from(["r", 7]),
        "timestamp": times,
        "items": st.lists(
            st.fixed_dictionaries(
                {"id": st.sampled_from(["a", 7])},
                optional={"relevancy": leaves, "label": leaves},
            ),
            max_size=4,
        ),
    },
    optional={"user": ids, "session": ids, "tenant": ids, "fields": metarank_fields | anything},
)
metarank_interactions = st.fixed_dictionaries(
    {
        "event": st.just("interaction"),
        "id": st.sampled_from(["i" * 200, "i", 7]),
        "timestamp": times,
        "type": st.sampled_from(["click", "Add-to-Cart"]),
        "item": st.sampled_from(["a", 7]),
    },
    optional={"ranking": ids, "user": ids, "session": ids, "tenant": ids, "fields": metarank_fields | anything},
)


@given(original=ubi_events | ubi_queries, more=extras, retriever=st.sampled_from([None, "site"]))
def test_any_ubi_comes_back(original, more, retriever):
    """Whatever a UBI event or query holds beside what is known, it comes back field by field."""
    original = more | original
    assert as_text(ubi.from_event(through(ubi, original, retriever=retriever))) == as_text(original)


@given(original=metarank_rankings | metarank_interactions, more=extras, retriever=st.sampled_from([None, "site"]))
def test_any_metarank_event_comes_back(original, more, retriever):
    """Whatever a Metarank event holds beside what is known, it comes back field by field."""
    original = more | original
    assert as_text(metarank.from_event(through(metarank, original, retriever=retriever))) == as_text(original)
