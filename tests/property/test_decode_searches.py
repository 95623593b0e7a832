"""The fast decoding of searches against the model, which decides."""

import json

from hypothesis import given
from hypothesis import strategies as st

from clickwell.errors import DecodeError
from clickwell.schemas.decode_searches import SearchDecoder
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import parse
from clickwell.testing import FakeRecord

NOW = 1_760_000_000_000
decoder = SearchDecoder()
texts = st.text(max_size=6) | st.sampled_from(["", "\0", "a" * 257, "ø" * 1025])
odd = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(texts, max_size=2)
times = st.integers(NOW - 10, NOW + 400_000) | st.sampled_from([0, -1, 10**30]) | odd
contents = st.fixed_dictionaries(
    {},
    optional={
        "execution_id": texts | odd,
        "query": texts | odd,
        "ranker_id": texts | odd,
        "results": st.lists(texts, max_size=4) | odd,
        "latency_ms": st.floats(0, 1e9) | st.integers(-5, 10**12) | odd,
        "metadata": st.dictionaries(texts, odd, max_size=3) | odd,
        "user_id": texts | odd,
        "session_id": texts | odd,
        "retriever_id": texts | odd,
        "timestamp": times,
        "sent_at": times,
        "feature_id": odd,
    },
)
values = st.builds(lambda content: json.dumps(content).encode(), contents) | st.binary(max_size=20) | st.none()


def outcome(value: bytes) -> Search | str:
    """The model's event, or its reason to refuse."""
    try:
        return parse(Search, value, received_ms=NOW)
    except DecodeError as error:
        return error.reason


@given(st.lists(values, max_size=6))
def test_searches_are_decoded_as_the_model_does(sent):
    """Each record is a row with the model's values, or bad for the model's reason."""
    records = [FakeRecord(offset, NOW, value) for offset, value in enumerate(sent)]
    batch = decoder.decode(records)
    rows = dict(zip(batch.offsets, zip(batch.rows, batch.times, strict=True), strict=True))
    bad = {record.offset: error.reason for record, error in batch.bad}
    assert sorted([*rows, *bad]) == list(range(len(sent)))
    assert [record.offset for record in batch.records] == batch.offsets
    for record in records:
        if record.value is None:
            assert bad[record.offset] == "no_value"
            continue
        event = outcome(record.value)
        if isinstance(event, str):
            assert bad[record.offset] == event
            continue
        row, time_ms = rows[record.offset]
        names = ("execution_id", "query", "ranker_id", "latency_ms", "user_id", "session_id", "retriever_id", "sent_at")
        assert [getattr(row, name) for name in names] == [getattr(event, name) for name in names]
        assert list(row.results) == event.results
        assert time_ms == event.timestamp
