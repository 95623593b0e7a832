"""Events against whatever a sender may send: what is accepted keeps everything, the rest is refused with a reason."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickwell.errors import DecodeError
from clickwell.schemas.erasure import SUBJECTS, Erasure
from clickwell.schemas.interactions import (
    MAX_AHEAD_MS,
    MAX_METADATA_BYTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    Event,
    Interaction,
    signals_of,
)
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import MAX_EVENT_BYTES, dead_letter_key, headers, new_id, parse, parse_object

NOW = 1_760_000_000_000
REASONS = {
    "too_large",
    "bad_json",
    "not_an_object",
    "missing_field",
    "invalid_field",
    "past_timestamp",
    "future_timestamp",
}
CLICK = {"feature_id": "doc", "interaction_type": ["click"]}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
known = {
    "query": texts,
    "duration_ms": st.integers(0, 2**53) | st.floats(0, 1e15),
    "device": texts,
}
free_keys = texts.filter(lambda name: name not in known)
metadata = st.builds(
    lambda free, meant: free | meant,
    st.dictionaries(free_keys, json_values, max_size=4),
    st.fixed_dictionaries({}, optional=known),
).filter(lambda content: len(json.dumps(content)) < MAX_METADATA_BYTES // 2)
moments = st.integers(MIN_TIMESTAMP_MS, NOW + MAX_AHEAD_MS)
shared = {
    "user_id": texts,
    "session_id": texts | st.none(),
    "retriever_id": texts,
    "timestamp": moments,
    "sent_at": st.integers(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS),
    "metadata": metadata,
}
interactions = st.fixed_dictionaries(
    {
        "feature_id": texts,
        "interaction_type": st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True), min_size=1, max_size=16),
    },
    optional=shared
    | {"interaction_id": texts, "execution_id": texts, "position": st.integers(0, 2**31 - 1) | st.none()},
)
searches = st.fixed_dictionaries(
    {"execution_id": texts},
    optional=shared
    | {
        "query": texts,
        "ranker_id": texts,
        "results": st.lists(texts, max_size=5),
        "latency_ms": st.floats(0, 1e9) | st.integers(0, 10**9),
    },
)
events = st.tuples(st.just(Interaction), interactions) | st.tuples(st.just(Search), searches)


def encoded(content) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def refused(data: bytes, model: type[Event] = Interaction) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        parse(model, data, received_ms=NOW)
    assert caught.value.reason in REASONS
    return caught.value


@given(events)
def test_a_valid_event_survives_the_round_trip(event):
    """What was accepted is written and read back as the same event, and written again as the same bytes."""
    model, content = event
    first = parse(model, encoded(content), received_ms=NOW)
    again = parse(model, first.to_bytes(), received_ms=NOW + 1)
    assert again == first
    assert again.to_bytes() == first.to_bytes()


@given(events)
def test_an_event_keeps_every_value_that_was_sent(event):
    """Each field has the value that was sent; only fractions of `duration_ms` and nulls of known keys go."""
    model, content = event
    parsed = parse(model, encoded(content), received_ms=NOW)
    for name, value in content.items():
        if name != "metadata":
            assert getattr(parsed, name) == value
    for name, value in content.get("metadata", {}).items():
        if model is Interaction and name == "duration_ms":
            assert parsed.metadata[name] == math.floor(value)
        else:
            assert parsed.metadata[name] == value
    assert parsed.timestamp == content.get("timestamp", NOW)


@given(interactions, st.dictionaries(free_keys.filter(lambda name: name not in Interaction.model_fields), json_values))
def test_unknown_fields_are_kept_under_metadata(content, unknown):
    """Nothing is dropped: an unknown field lands in metadata, beside a key of that name as `event.<name>`."""
    before = content.get("metadata", {})
    parsed = parse_object(Interaction, content | unknown, received_ms=NOW)
    kept = list(parsed.metadata.values())
    assert len(kept) == len(before) + len(unknown)
    assert all(value in kept for value in unknown.values())
    for name, value in unknown.items():
        if not any(
            taken.removeprefix("event.") == name.removeprefix("event.") for taken in {*before, *unknown} - {name}
        ):
            assert parsed.metadata[f"event.{name}" if name in before else name] == value


@pytest.mark.parametrize("order", [("a", "event.a"), ("event.a", "a")])
def test_conflicting_fields_never_overwrite_one_another(order):
    """Three values that want two names are three values afterwards."""
    content = CLICK | {"metadata": {"a": 1}} | {name: name for name in order}
    parsed = parse_object(Interaction, content, received_ms=NOW)
    assert sorted(map(str, parsed.metadata.values())) == ["1", "a", "event.a"]
    assert parsed.metadata["a"] == 1


@given(events, st.data())
def test_a_null_is_the_same_as_an_absent_field(event, data):
    """Senders that write null for what they do not know get what absence gives."""
    model, content = event
    optional = sorted({*shared} - {*content})
    nulls = {name: None for name in optional if data.draw(st.booleans())}
    assert parse(model, encoded(content | nulls), received_ms=NOW) == parse(model, encoded(content), received_ms=NOW)


@given(moments, st.integers(-14 * 60, 14 * 60))
def test_iso_8601_and_epoch_milliseconds_mean_the_same(moment, offset):
    """A time may be written either way, in any zone; without a zone it is UTC."""
    written = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment)
    local = written.astimezone(timezone(timedelta(minutes=offset))).isoformat()
    for text in (local, written.isoformat().replace("+00:00", "Z"), written.replace(tzinfo=None).isoformat()):
        assert parse_object(Interaction, CLICK | {"timestamp": text}, received_ms=NOW).timestamp == moment


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [
        (0, "past_timestamp"),
        ("1970-01-01T00:00:00Z", "past_timestamp"),
        ("0001-01-01T00:00:00+14:00", "past_timestamp"),
        (-(10**400), "past_timestamp"),
        (NOW // 1000, "past_timestamp"),
        (MIN_TIMESTAMP_MS - 1, "past_timestamp"),
        (MIN_TIMESTAMP_MS, None),
        (NOW + MAX_AHEAD_MS, None),
        (NOW + MAX_AHEAD_MS + 1, "future_timestamp"),
        ("2099-01-01", "future_timestamp"),
        ("9999-12-31T23:59:59.999-14:00", "future_timestamp"),
        (10**400, "future_timestamp"),
        (True, "invalid_field"),
        (1.76e12 + 0.5, "invalid_field"),
        ("yesterday", "invalid_field"),
        ("", "invalid_field"),
        ([NOW], "invalid_field"),
    ],
)
def test_times_out_of_range_say_which_way(timestamp, reason):
    """The unset clock, seconds for milliseconds and the far future have reasons of their own."""
    data = encoded(CLICK | {"timestamp": timestamp})
    if reason is None:
        assert parse(Interaction, data, received_ms=NOW).timestamp == timestamp
    else:
        error = refused(data)
        assert (error.reason, error.field) == (reason, "timestamp")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b'{"feature_id":"a","interaction_type":["click"]}x', "bad_json"),
        (b'{"feature_id":"\xff","interaction_type":["click"]}', "bad_json"),
        (b'{"feature_id":"\xed\xa0\x80","interaction_type":["click"]}', "bad_json"),
        (b'{"feature_id":"\\ud800","interaction_type":["click"]}', "bad_json"),
        (b'{"feature_id":"a","interaction_type":["click"],"x":"\\udc00"}', "bad_json"),
        (b'{"feature_id":"a","interaction_type":["click"],"position":NaN}', "bad_json"),
        (b'{"feature_id":"a","interaction_type":["click"],"x":Infinity}', "bad_json"),
        (b'{"feature_id":"a","interaction_type":["click"],"position":' + b"9" * 5000 + b"}", "bad_json"),
        (b'{"feature_id":"a","interaction_type":["click"],"x":' + b"[" * 100_000, "bad_json"),
        (b'{"feature_id":"a","interaction_type":["click"],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_json"),
        (encoded(CLICK).decode().encode("utf-16"), "bad_json"),
        (b'{"k":"' + b"x" * MAX_EVENT_BYTES + b'"}', "too_large"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"{}", "missing_field"),
        (b'{"feature_id":"a"}', "missing_field"),
    ],
)
def test_bytes_that_are_no_event(data, reason):
    """Broken JSON, broken UTF-8, numbers and nesting out of bounds: each has its reason."""
    assert refused(data).reason == reason


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"feature_id": ""}, "feature_id"),
        ({"feature_id": "x" * 513}, "feature_id"),
        ({"feature_id": "x" * 1_000_000}, "feature_id"),
        ({"feature_id": "a\0"}, "feature_id"),
        ({"feature_id": 7}, "feature_id"),
        ({"feature_id": None}, "feature_id"),
        ({"interaction_id": "x" * 129}, "interaction_id"),
        ({"interaction_type": []}, "interaction_type"),
        ({"interaction_type": "click"}, "interaction_type"),
        ({"interaction_type": ["Click"]}, "interaction_type"),
        ({"interaction_type": ["click\n"]}, "interaction_type"),
        ({"interaction_type": ["clické"]}, "interaction_type"),
        ({"interaction_type": [None]}, "interaction_type"),
        ({"interaction_type": ["a"] * 17}, "interaction_type"),
        ({"position": -1}, "position"),
        ({"position": 2**31}, "position"),
        ({"position": 10**400}, "position"),
        ({"position": 1.0}, "position"),
        ({"position": True}, "position"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"user_id": "\0"}, "user_id"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"query": 3}}, "metadata"),
        ({"metadata": {"query": "x" * 1025}}, "metadata"),
        ({"query": "a\0"}, "metadata"),
        ({"metadata": {"duration_ms": -1}}, "metadata"),
        ({"metadata": {"duration_ms": 10**400}}, "metadata"),
        ({"duration_ms": "42"}, "metadata"),
        ({"duration_ms": True}, "metadata"),
        ({"metadata": {"device": {}}}, "metadata"),
        ({"metadata": {"k": "x" * 8190}}, "metadata"),
        ({"x": "x" * 1_000_000}, "metadata"),
        ({"x" * 1_000_000: 1}, "metadata"),
        ({"metadata": {"\0": 1}}, "metadata"),
        ({"metadata": {"k": [{"k": "\0"}]}}, "metadata"),
    ],
)
def test_a_bad_field_is_named(change, field):
    """The reason is `invalid_field`, and the field is the top-level one, however large or deep the fault."""
    error = refused(encoded(CLICK | change))
    assert (error.reason, error.field) == ("invalid_field", field)
    assert len(error.message) < 300


@pytest.mark.parametrize(
    "change",
    [
        {"execution_id": "x" * 257},
        {"execution_id": "e\0"},
        {"results": ["a", ""]},
        {"results": ["a\0"]},
        {"results": ["a"] * 1001},
        {"results": None},
        {"query": "\0"},
        {"ranker_id": "\0"},
        {"latency_ms": -1},
        {"latency_ms": "3"},
    ],
)
def test_a_bad_search_field_is_named(change):
    """Searches refuse what they cannot keep, by the name of the field."""
    error = refused(encoded({"execution_id": "e"} | change), Search)
    assert (error.reason, error.field) == ("invalid_field", next(iter(change)))


@pytest.mark.parametrize(
    "content",
    [
        {"metadata": {"k": "\ud800"}},
        {"metadata": {"\ud800": 1}},
        {"\ud800": 1},
        {"feature_id": "\ud800"},
        {"timestamp": "\ud800"},
        {"metadata": {"k": 10**5000}},
        {"metadata": {"k": {1, 2}}},
        {"metadata": {"k": b"bytes"}},
        {"metadata": {1: 2}},
        {1: 2},
        {"interaction_type": ("click",)},
    ],
)
def test_python_objects_that_are_no_json_are_refused(content):
    """An emitter's caller may pass anything; what could not be read back is refused at once."""
    with pytest.raises(DecodeError) as caught:
        parse_object(Interaction, CLICK | content, received_ms=NOW)
    assert caught.value.reason == "invalid_field"


@pytest.mark.parametrize("depth", [10, 190, 195, 196, 197, 198, 199, 200, 201, 260, 2000])
@pytest.mark.parametrize("kind", [list, dict])
def test_whatever_nesting_is_accepted_can_be_read_back(depth, kind):
    """An emitter never sends what a worker would refuse: the limit is about 200 levels for both."""
    value: object = 1
    for _ in range(depth):
        value = [value] if kind is list else {"k": value}
    try:
        event = parse_object(Interaction, CLICK | {"x": value}, received_ms=NOW)
    except DecodeError:
        event = None
    assert event is not None or depth > 190
    assert event is None or parse(Interaction, event.to_bytes(), received_ms=NOW) == event


def test_a_number_beyond_a_double_is_kept_as_text():
    """1e999 has no value as a double; the event stays, and so does the word for it."""
    event = parse(Interaction, encoded(CLICK)[:-1] + b',"x":1e999}', received_ms=NOW)
    assert json.loads(event.to_bytes())["metadata"] == {"x": "Infinity"}
    assert refused(b'{"execution_id":"e","latency_ms":1e999}', Search).field == "latency_ms"


def test_text_that_spells_an_escape_is_no_nul():
    r"""The six characters \u0000 are text like any other."""
    event = parse(Interaction, encoded(CLICK | {"query": r"C:\u0000"}), received_ms=NOW)
    assert event.query == r"C:\u0000"


def test_the_last_of_duplicate_keys_counts():
    """JSON leaves it open; every path takes the last one, as nearly all parsers do."""
    event = parse(
        Interaction,
        b'{"feature_id":"a","interaction_type":["click"],"feature_id":"b","metadata":{"k":1,"k":2}}',
        received_ms=NOW,
    )
    assert (event.feature_id, event.metadata) == ("b", {"k": 2})


@given(events, st.data())
def test_no_damage_gives_anything_but_an_event_or_a_reason(event, data):
    """Bytes changed, cut or put in at random never raise another exception."""
    model, content = event
    damaged = bytearray(encoded(content))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        parsed = parse(model, bytes(damaged), received_ms=NOW)
    except DecodeError:
        refused(bytes(damaged), model)
        return
    assert parse(model, parsed.to_bytes(), received_ms=NOW).to_bytes() == parsed.to_bytes()


@given(st.lists(st.sampled_from(["click", "purchase", "skip"]), min_size=1), st.none() | st.integers(0, 100_000))
def test_signals_follow_from_types_and_duration(types, duration):
    """A long click is a long_view, a very short one a return_to_results; other types derive nothing."""
    derived = set(signals_of(types, duration, long_view_ms=30_000)) - set(types)
    if "click" not in types or duration is None:
        assert derived == set()
    else:
        assert derived == (
            {"long_view"} if duration >= 30_000 else {"return_to_results"} if duration < 10_000 else set()
        )


@given(st.sampled_from(SUBJECTS), texts, st.none() | moments, st.none() | moments)
def test_an_erasure_names_one_subject_and_a_range(subject, value, since, until):
    """Exactly one subject and a range that is not empty; the request survives the round trip."""
    content = {"erasure_id": "e1", subject: value, "from": since, "to": until, "requester": "dpo"}
    if since is not None and until is not None and since >= until:
        with pytest.raises(ValueError, match="ends before it begins"):
            Erasure.model_validate(content)
        return
    request = Erasure.model_validate(content)
    assert request.subject == (subject, value)
    assert (request.since, request.until) == (since, until)
    assert Erasure.model_validate_json(request.to_bytes()) == request


@pytest.mark.parametrize(
    "content",
    [{}, {"user_id": "u", "session_id": "s"}, {"user_id": ""}, {"user_id": "u", "form": 1}, {"user_id": None}],
)
def test_an_unclear_erasure_is_refused(content):
    """No subject, two of them, an empty one or a misspelt field: erasing is not the time to guess."""
    with pytest.raises(ValueError, match="Erasure"):
        Erasure.model_validate({"erasure_id": "e1"} | content)


def test_headers_are_cloudevents():
    """The required CloudEvents attributes stand in the headers, in binary mode."""
    assert dict(headers("interaction", "id-1", "shop")) == {
        "ce_specversion": b"1.0",
        "ce_id": b"id-1",
        "ce_type": b"clickwell.interaction.v1",
        "ce_source": b"shop",
        "content-type": b"application/json",
    }


def test_ids_are_version_7_and_ordered_by_time():
    """Minted ids are UUIDv7: version and variant bits set, the time in front, no repeats."""
    ids = [new_id() for _ in range(1000)]
    assert len({*ids}) == 1000
    assert {one[14] for one in ids} == {"7"}
    assert {one[19] for one in ids} <= set("89ab")
    stamps = [int(one.replace("-", "")[:12], 16) for one in ids]
    assert stamps == sorted(stamps)
    assert abs(stamps[0] - datetime.now(UTC).timestamp() * 1000) < 60_000


def test_a_dead_letter_is_named_by_where_it_was():
    """The key names topic, partition and offset, so that a repeat can be dropped."""
    assert dead_letter_key("interactions.v1", 3, 42) == b"interactions.v1/3/42"
