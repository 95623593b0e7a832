"""Columns of the lake against the model and json, and the memory of ids against a naive one."""

import json

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import parse
from clickwell.sinks.columns import NO_ID, InteractionColumns, LogRecord, SearchColumns
from clickwell.sinks.recent import RecentIds

NOW = 1_760_000_000_000
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
metadata = st.none() | st.builds(
    lambda free, meant: free | meant,
    st.dictionaries(texts, json_values, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "query": texts,
            "duration_ms": st.integers(0, 10**9) | st.floats(0, 1e6),
            "device": texts | st.none(),
        },
    ),
)
when = st.integers(NOW - 10**9, NOW)
shared = {
    "user_id": texts,
    "session_id": texts,
    "metadata": metadata,
    "timestamp": when,
    "sent_at": when,
    "other": json_values,
}
interactions = st.fixed_dictionaries(
    {
        "feature_id": texts,
        "interaction_type": st.lists(st.sampled_from(["click", "skip", "own_1"]), min_size=1, max_size=3),
    },
    optional=shared | {"interaction_id": texts, "position": st.integers(0, 50), "execution_id": texts},
)
searches = st.fixed_dictionaries(
    {"execution_id": texts},
    optional=shared
    | {"query": texts, "results": st.lists(texts, max_size=3), "latency_ms": st.floats(0, 1e6), "ranker_id": texts},
)
spaces = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " :  ")])


def check(columns, model, contents, separators):
    records = [
        LogRecord(1, offset, NOW + offset, json.dumps(content, separators=separators).encode(), None, "test")
        for offset, content in enumerate(contents)
    ]
    batch = columns.decoder.decode(records)
    table = columns.of(batch, "topic-id", NOW)
    table.validate(full=True)
    assert table.schema == columns.table.schema
    for row, record in zip(table.to_pylist(), records, strict=True):
        event = parse(model, record.value, received_ms=record.timestamp)
        kept = json.loads(row["metadata_json"]) if row["metadata_json"] else {}
        if model is Interaction:
            # What the model rounds or removes stands in the promoted columns; the JSON is what was sent.
            assert (row["query"], row["duration_ms"], row["device"]) == (
                event.query,
                event.duration_ms,
                event.metadata.get("device"),
            )
            kept = {k: v for k, v in kept.items() if k not in {"query", "duration_ms", "device"}}
            event.metadata = {k: v for k, v in event.metadata.items() if k not in {"query", "duration_ms", "device"}}
        assert kept == event.metadata
        for name in table.schema.names:
            if name in {"timestamp", "sent_at"}:
                value = row[name]
                assert (value and round(value.timestamp() * 1000)) == getattr(event, name)
            elif name in type(event).model_fields:
                assert row[name] == getattr(event, name)
        assert (row["kafka_topic_id"], row["kafka_partition"], row["kafka_offset"]) == ("topic-id", 1, record.offset)
        assert row["source"] == "test"
    return batch, table


@given(st.lists(interactions, min_size=1, max_size=8), spaces)
def test_interactions_keep_every_value(contents, separators):
    """A row holds what the model holds, and the metadata as JSON with all its keys."""
    columns = InteractionColumns()
    batch, table = check(columns, Interaction, contents, separators)
    ids = columns.ids(batch.rows)
    assert ids.tolist() == columns.ids_of(pa.Table.from_batches([table])).tolist()
    wanted = [(row.interaction_id, row.feature_id) if row.interaction_id else None for row in batch.rows]
    assert [one == NO_ID for one in ids.tolist()] == [one is None for one in wanted]
    assert len(set(ids.tolist())) == len(set(wanted))


@given(st.lists(searches, min_size=1, max_size=8), spaces)
def test_searches_keep_every_value(contents, separators):
    """A row holds what the model holds, and the metadata as JSON with all its keys."""
    columns = SearchColumns()
    batch, table = check(columns, Search, contents, separators)
    assert columns.ids(batch.rows).tolist() == columns.ids_of(pa.Table.from_batches([table])).tolist()


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), max_size=60),
    st.lists(st.integers(1, 12), max_size=20),
    st.integers(0, 3),
)
def test_repeats_are_found_as_a_naive_memory_finds_them(rows, cuts, forget_every):
    """Whatever the batches, and whenever the memory is lost, a row is a repeat if the table holds its id nearby."""
    table: list[tuple[int, int]] = []

    def load(buckets):
        found = [row for row in table if row[1] in buckets]
        return np.array([i for i, _ in found], np.uint64), np.array([b for _, b in found], np.int64)

    recent = RecentIds(load)
    for number in range(len(cuts) + 1):
        size = cuts[number] if number < len(cuts) else len(rows)
        batch, rows = rows[:size], rows[size:]
        ids, buckets = np.array([i for i, _ in batch], np.uint64), np.array([b for _, b in batch], np.int64)
        wanted, held = [], list(table)
        for id_, bucket in batch:
            repeat = id_ != NO_ID and any(id_ == other and abs(bucket - at) <= 1 for other, at in held)
            wanted.append(repeat)
            if not repeat:
                held.append((id_, bucket))
        found = recent.repeats(ids, buckets)
        assert found.tolist() == wanted
        recent.add(ids[~found], buckets[~found])
        table = held
        if forget_every and number % forget_every == 0:
            recent.forget()
        elif batch:
            recent.keep_from(min(b for _, b in batch) - 1)
