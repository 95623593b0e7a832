"""Decoded events to Arrow columns: one pass of C for each column, no Python for each event on the ordinary path."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic_core import to_json

from clickwell.schemas.decode import AnyRow, Batch, Decoder, Details, EventDecoder, Row
from clickwell.schemas.decode_searches import ABSENT, SearchDecoder, SearchRow
from clickwell.schemas.interactions import Interaction
from clickwell.sinks.table import INTERACTION_TABLE, SEARCH_TABLE, STRINGS, TIME, Table

# What stands for "has no id" among the hashes of ids.
NO_ID = 0

R = TypeVar("R", bound=AnyRow)


class LogRecord(msgspec.Struct, gc=False):
    """One Kafka record; `timestamp` is the broker's, epoch ms; `source` is the header `ce_source`."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None
    source: str | None = None


class WholeRow(Row, gc=False, forbid_unknown_fields=True):
    """An interaction with its metadata as JSON. Only the model moves unknown fields under it."""

    metadata: msgspec.Raw = ABSENT  # type: ignore[assignment]  # in place of the keys that workers need


class WholeDecoder(Decoder):
    """Decodes interactions with all of their metadata."""

    def __init__(self) -> None:
        super().__init__(WholeRow)
        self._details = msgspec.json.Decoder(Details | None)

    def details(self, rows: Sequence[Row]) -> list[Any]:
        """Decode the metadata keys that have a meaning of their own."""
        return self._details.decode_lines(b"\n".join([row.metadata for row in rows]))  # type: ignore[misc]  # Raw

    def row_of(self, event: Interaction) -> Row:
        """Return the row of an interaction."""
        row = super().row_of(event)
        row.metadata = msgspec.Raw(to_json(event.metadata, inf_nan_mode="strings"))  # type: ignore[assignment]
        return row


class Columns(ABC, Generic[R]):
    """Turns records of one topic into rows of its table."""

    table: Table
    decoder: EventDecoder[R]

    def of(self, batch: Batch[R], topic_id: str, ingested_ms: int) -> pa.RecordBatch:
        """Return the rows of a batch whose records are `LogRecord`s, with the columns of `table.schema`."""
        rows = batch.rows
        records = cast("Sequence[LogRecord]", batch.records)
        shared: dict[str, Any] = {
            "user_id": [row.user_id for row in rows],  # type: ignore[attr-defined]
            "session_id": [row.session_id for row in rows],  # type: ignore[attr-defined]
            "retriever_id": [row.retriever_id for row in rows],  # type: ignore[attr-defined]
            "timestamp": _times(batch.times),
            "sent_at": _times_or_null([row.sent_at for row in rows]),  # type: ignore[attr-defined]
            "metadata_json": _json_or_null([row.metadata for row in rows]),  # type: ignore[attr-defined]
            "source": [record.source for record in records],
            "received_at": _times(batch.received),
            "ingested_at": pa.repeat(pa.scalar(ingested_ms * 1000, TIME), len(rows)),
            "kafka_topic_id": pa.repeat(topic_id, len(rows)),
            "kafka_partition": np.fromiter([record.partition for record in records], np.int32, len(rows)),
            "kafka_offset": np.fromiter(batch.offsets, np.int64, len(rows)),
        }
        columns = shared | self.own(batch)
        schema = self.table.schema
        return pa.RecordBatch.from_arrays(
            [
                column if isinstance(column, pa.Array) else pa.array(column, field.type)
                for field, column in ((field, columns[field.name]) for field in schema)
            ],
            schema=schema,
        )

    @abstractmethod
    def own(self, batch: Batch[R]) -> dict[str, Any]:
        """Return the columns that only this kind of event has."""

    @abstractmethod
    def ids(self, rows: Sequence[R]) -> NDArray[np.uint64]:
        """Return the 8-byte hash by which a repeat of each row is known, `NO_ID` where it cannot be told."""

    @abstractmethod
    def ids_of(self, stored: pa.Table) -> NDArray[np.uint64]:
        """Return the same for rows that are read from the table, of which the columns `id_columns` are needed."""

    id_columns: tuple[str, ...]


class InteractionColumns(Columns[Row]):
    """Interactions; a repeat has the same interaction_id and document."""

    table = INTERACTION_TABLE
    id_columns = ("interaction_id", "feature_id")

    def __init__(self) -> None:
        self.decoder = WholeDecoder()

    def own(self, batch: Batch[Row]) -> dict[str, Any]:
        """Return the columns that only interactions have."""
        rows, details = batch.rows, batch.details
        return {
            "interaction_id": [row.interaction_id for row in rows],
            "feature_id": [row.feature_id for row in rows],
            "interaction_type": _few([row.interaction_type for row in rows]),
            "position": [row.position for row in rows],
            "execution_id": [row.execution_id for row in rows],
            "query": [each and each.query for each in details],
            "duration_ms": [each and each.duration_ms for each in details],
            "device": [each and each.device for each in details],
        }

    def ids(self, rows: Sequence[Row]) -> NDArray[np.uint64]:
        """Return the hash of each row's id and document."""
        return _hashed([row.interaction_id for row in rows], [row.feature_id for row in rows])

    def ids_of(self, stored: pa.Table) -> NDArray[np.uint64]:
        """Return the hash of each stored row's id and document."""
        return _hashed(*(stored[name].to_pylist() for name in self.id_columns))


class SearchColumns(Columns[SearchRow]):
    """Searches; a repeat has the same execution_id and shows the same results: a second page is no repeat."""

    table = SEARCH_TABLE
    id_columns = ("execution_id", "results")

    def __init__(self) -> None:
        self.decoder = SearchDecoder()

    def own(self, batch: Batch[SearchRow]) -> dict[str, Any]:
        """Return the columns that only searches have."""
        rows = batch.rows
        return {
            "execution_id": [row.execution_id for row in rows],
            "query": [row.query for row in rows],
            "ranker_id": [row.ranker_id for row in rows],
            "results": pa.array([row.results for row in rows], STRINGS),
            "latency_ms": [row.latency_ms for row in rows],
        }

    def ids(self, rows: Sequence[SearchRow]) -> NDArray[np.uint64]:
        """Return the hash of each row's id and results."""
        return _hashed([row.execution_id for row in rows], [tuple(row.results) for row in rows])

    def ids_of(self, stored: pa.Table) -> NDArray[np.uint64]:
        """Return the hash of each stored row's id and results."""
        ids, results = (stored[name].to_pylist() for name in self.id_columns)
        return _hashed(ids, list(map(tuple, results)))


COLUMNS: dict[str, Callable[[], Columns[Any]]] = {
    INTERACTION_TABLE.name: InteractionColumns,
    SEARCH_TABLE.name: SearchColumns,
}


def _json_or_null(metadata: Sequence[msgspec.Raw]) -> pa.Array:
    """Return metadata as it was sent; null where there is none."""
    lengths = np.fromiter(map(len, metadata), np.int64, len(metadata))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    # One copy of the text instead of an object for each row; the cast refuses what 4-byte offsets cannot reach.
    joined = (pa.py_buffer(ends), pa.py_buffer(b"".join(metadata)))
    text = pa.LargeStringArray.from_buffers(len(metadata), *joined).cast(pa.string())
    # Nothing that holds a key is as short as `null`.
    empty = lengths <= 4
    return pc.if_else(pa.array(empty), None, text) if empty.any() else text


def _hashed(ids: Sequence[str | None], others: Sequence[Hashable]) -> NDArray[np.uint64]:
    """Return Python's own hash of each pair, which nobody outside this process can foresee; `NO_ID` without an id."""
    hashes = np.fromiter(map(hash, zip(ids, others, strict=True)), np.int64, len(ids)).view(np.uint64)
    if None in ids:
        hashes[[one is None for one in ids]] = NO_ID
    return hashes


def _few(values: Sequence[tuple[str, ...]]) -> pa.Array:
    """Return lists of which few differ, each converted once."""
    codes = {value: code for code, value in enumerate(set(values))}
    indices = np.fromiter(map(codes.__getitem__, values), np.int32, len(values))
    return pa.array(list(codes), STRINGS).take(pa.array(indices))


def _times(times_ms: Sequence[int]) -> pa.Array:
    return pa.array(np.fromiter(times_ms, np.int64, len(times_ms)) * 1000).view(TIME)


def _times_or_null(times_ms: Sequence[int | None]) -> pa.Array:
    return pa.array(times_ms, pa.timestamp("ms", "UTC")).cast(TIME)


def records_of(messages: Iterable[Any]) -> list[LogRecord]:
    """Return confluent-kafka messages as records."""
    return [
        LogRecord(m.partition(), m.offset(), m.timestamp()[1], m.value(), m.key(), (h := m.headers()) and _source(h))
        for m in messages
    ]


def _source(headers: Sequence[tuple[str, bytes]]) -> str | None:
    for name, value in headers:
        if name == "ce_source":
            return value.decode(errors="replace") if value is not None else None
    return None
