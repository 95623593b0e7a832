"""The fast decoder against the pydantic model: the same events, values and refusals, whatever is sent."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clickwell.errors import DecodeError
from clickwell.schemas.decode import FAST_BYTES, FLAT_BRACKETS, FLAT_BYTES, Decoder
from clickwell.schemas.interactions import MAX_AHEAD_MS, MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, Interaction
from clickwell.schemas.wire import parse
from clickwell.testing import FakeRecord, event

NOW = 1_760_000_000_000
FIELDS = (
    "interaction_id",
    "feature_id",
    "interaction_type",
    "position",
    "user_id",
    "session_id",
    "retriever_id",
    "execution_id",
    "sent_at",
)
# JSON as text, because much of what senders get wrong cannot be said with Python's own objects.
NUMBERS = ["0", "-0", "-1", "1.0", "1.5", "1e3", "1E+2", "2147483647", "2147483648", "1e999", "-1e999", "01", "+1"]
NUMBERS += [".5", "1.", "9007199254740992", "9007199254740993", "18446744073709551616", "9" * 400, "NaN", "Infinity"]
TIMES = [NOW, NOW + MAX_AHEAD_MS, NOW + MAX_AHEAD_MS + 1, MIN_TIMESTAMP_MS, MIN_TIMESTAMP_MS - 1, MAX_TIMESTAMP_MS]
TIMES += [MAX_TIMESTAMP_MS + 1, NOW // 1000, NOW * 1000, 0, -NOW]
ESCAPES = [r"\u0000", r"\\u0000", r"\\\u0000", r"\ud800", r"\uD83D\uDE00", r"\udc00\ud800", r"\u00e9", r"\/", r"\n"]
ESCAPES += [r"\x41", r"\u12", r"\"", "\t", "\x01", "\x7f", "\u2028", "é", "日本", "😀", "\ufeff", "\ufffe"]
LENGTHS = [0, 1, 64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025]

texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text(max_size=5).map(json.dumps),
    st.lists(st.sampled_from(ESCAPES), min_size=1, max_size=3).map(lambda parts: f'"a{"".join(parts)}"'),
    st.tuples(st.sampled_from("aé😀"), st.sampled_from(LENGTHS)).map(lambda pair: f'"{pair[0] * pair[1]}"'),
)
scalars = st.sampled_from(["null", "true", "false", *NUMBERS]) | texts
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
        st.lists(st.tuples(texts, inner), max_size=3).map(lambda pairs: f"{{{','.join(map(':'.join, pairs))}}}"),
    ),
    max_leaves=5,
)
times = st.one_of(
    st.sampled_from(TIMES).map(str),
    st.sampled_from(["2025-10-09T08:53:20Z", "2025-10-09", "2099-01-01", "1970-01-01T00:00Z", "soon"]).map(json.dumps),
    scalars,
)
deep = st.tuples(st.sampled_from([5, 180, *range(186, 202), 400]), st.sampled_from(["[]", '{"":}'])).map(
    lambda pair: pair[1][:-1] * pair[0] + "1" + pair[1][-1] * pair[0]
)
metadata_members = st.one_of(
    st.tuples(st.just('"query"'), texts | scalars),
    st.tuples(st.just('"duration_ms"'), st.integers(0, 100_000).map(str) | scalars),
    st.tuples(st.sampled_from(['"device"', r'"quer\u0079"', r'"duration\u005fms"', '"event.query"']), scalars),
    st.tuples(texts, values | deep),
)
members = st.one_of(
    st.tuples(st.sampled_from(FIELDS).map(json.dumps), st.one_of(texts, values)),
    st.tuples(st.sampled_from(['"timestamp"', '"sent_at"', r'"time\u0073tamp"']), times),
    st.tuples(
        st.just('"metadata"'),
        st.lists(metadata_members, max_size=4).map(lambda pairs: f"{{{','.join(map(':'.join, pairs))}}}") | values,
    ),
    st.tuples(
        st.just('"interaction_type"'),
        st.lists(
            st.sampled_from(["click", "purchase", "Click", "a" * 64, "a" * 65, "", "é", "click\n"]), max_size=17
        ).map(json.dumps),
    ),
    metadata_members,
)
blanks = st.sampled_from(["", "", "", "", " ", "\t", "\r", "\n", "\r\n", "\x0b", "\0", "\ufeff", ",", "}", "{}", "x"])
ordinary = st.builds(
    lambda document, types, fields: event(document, *types, **fields),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=9),
    st.lists(st.sampled_from(["click", "long_view", "own_signal"]), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "interaction_id": st.uuids().map(str),
            "position": st.integers(0, 9),
            "timestamp": st.sampled_from(TIMES[:2]),
            "metadata": st.fixed_dictionaries({}, optional={"duration_ms": st.integers(0, 99_999), "x": st.none()}),
            "user_id": st.sampled_from(["u", ""]) | st.none(),
        },
    ),
)


@st.composite
def strange(draw):
    """An event with some members replaced, repeated or added, between blanks that may not be blank."""
    found = [('"feature_id"', '"doc"'), ('"interaction_type"', '["click"]')]
    found += draw(st.lists(members, max_size=5))
    found = draw(st.permutations(found))
    text = ",".join(draw(blanks) + key + ":" + value for key, value in found)
    if draw(st.integers(0, 9)) == 0:
        text += ',"padding":"' + "x" * draw(st.integers(FAST_BYTES - 400, FAST_BYTES + 400)) + '"'
    return (draw(blanks) + "{" + text + "}" + draw(blanks)).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw):
    """An event with a few bytes changed, cut or put in."""
    data = bytearray(draw(ordinary | strange()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from([b"", b"\n", b"\xff", b"\xed\xa0\x80", b"\0", b"\\", b'"', b"}", b"]", b" ", b"9", b"-"])
        )
    return bytes(data)


records = st.one_of(ordinary, ordinary, strange(), damaged(), st.sampled_from([b"", b" ", b"null", b"[]", None]))


@st.composite
def chunks(draw):
    """The values of a chunk; sometimes one is cut in two that are only together what they were."""
    found = draw(st.lists(ordinary, max_size=6)) + draw(st.lists(records, max_size=3))
    found = draw(st.permutations(found)) or [b""]
    if draw(st.integers(0, 4)) == 0:
        whole = draw(ordinary | strange())
        at = draw(st.integers(0, len(whole)))
        found = [whole[:at], whole[at:], *found]
    if draw(st.integers(0, 4)) == 0:
        # Two in one: with a record that yields nothing, the sum is right.
        found.append(draw(ordinary) + draw(blanks).encode() + draw(ordinary))
    return found


def judge(value, received):
    """What the model says of one record."""
    if value is None:
        return "no_value"
    try:
        found = parse(Interaction, value, received_ms=received)
    except DecodeError as error:
        return error.reason, error.field
    known = [found.metadata.get(name) for name in ("query", "duration_ms", "device")]
    return (found.timestamp, *known, *(getattr(found, name) for name in FIELDS))


def told(batch):
    """What a batch says of each of its records, by offset."""
    said = {}
    for record, error in batch.bad:
        said[record.offset] = "no_value" if record.value is None else (error.reason, error.field)
    for offset, at, row in zip(batch.offsets, batch.times, batch.rows, strict=True):
        details = row.metadata
        known = [details and getattr(details, name) for name in ("query", "duration_ms", "device")]
        fields = [getattr(row, name) for name in FIELDS]
        fields[FIELDS.index("interaction_type")] = list(row.interaction_type)
        assert offset not in said
        assert row.timestamp in (None, at)
        said[offset] = (at, *known, *fields)
    return said


def check(values, received):
    decoder = Decoder()
    chunk = [FakeRecord(10 + n, at, value) for n, (value, at) in enumerate(zip(values, received, strict=True))]
    expected = {record.offset: judge(record.value, record.timestamp) for record in chunk}
    batch = decoder.decode(chunk)
    assert told(batch) == expected
    assert batch.offsets == sorted(batch.offsets)
    assert [record.offset for record, _ in batch.bad] == sorted(record.offset for record, _ in batch.bad)
    assert batch.received == [received[offset - 10] for offset in batch.offsets]
    for record in chunk:
        # A decoder that has seen other records, one that has not, and the path that takes one record at a time.
        alone = {record.offset: expected[record.offset]}
        assert told(decoder.decode([record])) == told(Decoder().decode([record])) == alone
        assert told(Decoder()._decode_each([record])) == alone


@given(chunks(), st.data())
def test_the_fast_path_says_what_the_model_says(values, data):
    """Chunk by chunk and record by record: each record is a row or bad, once, in order, with the model's values."""
    check(values, [data.draw(st.sampled_from([NOW, NOW - 1, NOW + 1])) for _ in values])


@given(strange() | damaged(), ordinary)
def test_one_strange_record_among_ordinary_ones(value, neighbour):
    """What is wrong with one record changes nothing for those before and after it."""
    check([neighbour, value, neighbour], [NOW] * 3)


@given(st.integers(186, 202), st.booleans(), st.booleans(), st.integers(0, 80))
@example(192, False, False, 0)
def test_nesting_is_refused_where_the_model_refuses_it(depth, objects, inside, padding):
    """The fast path's parser nests deeper than the model's; what the model refuses must not count."""
    value = '{"":' * depth + "1" + "}" * depth if objects else "[" * depth + "]" * depth
    member = f'"metadata":{{"":{value}}}' if inside else f'"":{value}'
    check([f'{{"feature_id":"a","interaction_type":["b"],{member}}}{" " * padding}'.encode()], [NOW])


@given(st.integers(FAST_BYTES - 30, FAST_BYTES), st.sampled_from(["9e15,", "1e999,", r'"\/",', r'"\u0001",', "[],"]))
def test_metadata_of_a_short_record_is_never_too_large(size, part):
    """Text that grows when it is written as JSON again cannot pass the limit of 8 KiB unmeasured."""
    head, tail = b'{"feature_id":"a","interaction_type":["b"],"x":[', b"0]}"
    body = (part * ((size - len(head) - len(tail)) // len(part))).encode()
    check([head + body + tail], [NOW])


@pytest.mark.parametrize(
    "values",
    [
        [b'{"feature_id":"a",', b'"interaction_type":["b"]}'],
        [b'{"feature_id":"a",', b'"interaction_type":["b"]}', event() + b"\n" + event()],
        [event() + b"\n", b""],
        [b"", event()],
        [event().replace(b" ", b"\n"), event().replace(b" ", b" \r\n\t")],
        [b'{"feature_id":"a","interaction_type":["b"],"x":{}', b'{"y":1}}', event() + event()],
        [b'{"feature_id":"a","interaction_type":["b"],"x":"{}', b'{}"}', event() + event()],
        [b'{"feature_id":"a","interaction_type":["b"],"x":[{}', b"{}]}", event() + event()],
        [event() + b" " + event(), b""],
        [event() + event(), b" "],
        [event() + b"\r" + event(), b"\r"],
        [b'{"feature_id":"a\xc3', b'\xa9","interaction_type":["b"]}'],
        [b'{"feature_id":"a', b'","interaction_type":["b"]}', event() + b"\n" + event()],
        [event(duration_ms=42_000), event(query=5), event(device=None)],
        [event(metadata={"duration_ms": None}, duration_ms=42_000)],
        [event(timestamp=NOW + MAX_AHEAD_MS), event(timestamp=NOW + MAX_AHEAD_MS + 1)],
    ],
)
def test_records_that_only_look_right_together(values):
    """Joined by newlines, two halves are one event and one record may be two: neither may pass."""
    check(values, [NOW] * len(values))


@given(st.lists(ordinary.filter(lambda value: b'"user_id": ""' not in value and b"\\ud" not in value), min_size=1))
def test_ordinary_chunks_take_the_fast_path(values):
    """What most services send is decoded in one call; else the properties above would prove little."""
    chunk = [FakeRecord(n, NOW, value) for n, value in enumerate(values)]
    assert Decoder()._decode_joined(chunk) is not None


def test_the_limits_fit_together():
    """A record below the first size opens fewer brackets than the second allows: both stay within 190 levels."""
    least = len(b'{"feature_id":"a","interaction_type":["b"],"":}')
    assert (FLAT_BYTES - least) / 2 <= FLAT_BRACKETS


def test_ever_new_names_of_signals_do_not_fill_memory():
    """An attacker may send as many combinations as there are; the memory of valid ones stays small."""
    decoder = Decoder()
    for first in range(0, 30_000, 1000):
        chunk = [FakeRecord(n, NOW, event("d", f"s{first + n}")) for n in range(1000)]
        assert len(decoder.decode(chunk).rows) == 1000
    assert len(decoder._known) <= 11_000
