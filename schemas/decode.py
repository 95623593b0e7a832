"""A chunk of records to validated rows: C-speed where the events are ordinary, the pydantic models for all else.

`clickwell.schemas.wire.parse` decides what is valid. The fast path here accepts only what `parse` accepts, with the
same values, and hands anything else over to it: a property test holds the two together.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta

from clickwell.errors import DecodeError
from clickwell.schemas.controls import PREFIX, Control, Retraction, decode_control
from clickwell.schemas.interactions import (
    MAX_AHEAD_MS,
    MAX_DURATION_MS,
    MAX_FEATURE_ID,
    MAX_ID,
    MAX_INTERACTION_ID,
    MAX_POSITION,
    MAX_QUERY,
    MAX_TIMESTAMP_MS,
    MAX_TYPES,
    MIN_TIMESTAMP_MS,
    TYPE_PATTERN,
    Event,
    Interaction,
)
from clickwell.schemas.wire import parse

# Metadata may have 8 KiB as compact JSON, and a number such as 1e15 grows at most fourfold when it is written out:
# a record of this size cannot exceed the limit, so the fast path need not measure it.
FAST_BYTES = 2000
# The pydantic path's parser takes some 195 levels. A longer record cannot nest deeper if it opens no more brackets, ...
FLAT_BRACKETS = 190
# ... and one this short has no room for more beside what every event must have.
FLAT_BYTES = 420
_OPEN, _CLOSE = {ord("{")}, {ord("}")}
# Escapes that msgspec does not check in fields it skips.
_SUSPECT = re.compile(rb"\\u0000|\\u[dD]")

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Time = Annotated[int, Meta(ge=MIN_TIMESTAMP_MS, le=MAX_TIMESTAMP_MS)]


class Details(msgspec.Struct, gc=False):
    """The metadata keys that have a meaning of their own."""

    query: Annotated[str, Meta(max_length=MAX_QUERY)] | None = None
    duration_ms: Annotated[int, Meta(ge=0, le=MAX_DURATION_MS)] | None = None
    device: Annotated[str, Meta(max_length=MAX_ID)] | None = None


class Row(msgspec.Struct, gc=False):
    """One valid interaction. `interaction_type` keeps the order and repeats of the sender."""

    feature_id: Annotated[str, Meta(min_length=1, max_length=MAX_FEATURE_ID)]
    interaction_type: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_TYPES)]
    interaction_id: Annotated[str, Meta(min_length=1, max_length=MAX_INTERACTION_ID)] | None = None
    position: Annotated[int, Meta(ge=0, le=MAX_POSITION)] | None = None
    metadata: Details | None = None
    user_id: Id | None = None
    session_id: Id | None = None
    retriever_id: Id | None = None
    execution_id: Id | None = None
    timestamp: Time | None = None
    sent_at: Time | None = None
    # These belong under metadata; at the top level they are unknown fields, which only the pydantic model moves there.
    query: None = None
    duration_ms: None = None
    device: None = None


class Record(Protocol):
    """What is needed of a Kafka record."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102


class AnyRow(Protocol):
    """What a row of every kind has."""

    timestamp: int | None


R = TypeVar("R", bound=AnyRow)


@dataclass
class Batch(Generic[R]):
    """The valid rows of a run of records, by column, and the bad records.

    Attributes:
        records: the record of each row.
        offsets: Kafka offset of each row.
        received: broker's time of each row's record, epoch ms.
        times: event time of each row, epoch ms; the time of receipt where the event has none.
        rows: the events.
        details: what the decoder made of each row's metadata, if it leaves it undecoded in the row.
        bad: records that are not valid events, with the reason.
        controls: records between the events that are clickwell's own.
        retractions: of these, those that are to be counted, with their offsets; see `clickwell.schemas.erased`.
    """

    records: Sequence[Record] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    rows: list[R] = field(default_factory=list)
    details: list[Any] = field(default_factory=list)
    bad: list[tuple[Record, DecodeError]] = field(default_factory=list)
    controls: list[tuple[Record, Control]] = field(default_factory=list)
    retractions: list[tuple[int, Retraction]] = field(default_factory=list)


class EventDecoder(ABC, Generic[R]):
    """Decodes records of one topic, whatever their partitions.

    Args:
        row_type: what a row is decoded into; with `forbid_unknown_fields` only the model reads events that have some.
        model: what decides.
    """

    def __init__(self, row_type: type[R], model: type[Event]) -> None:
        self._lines = msgspec.json.Decoder(row_type)
        self._model = model
        self.open_rows: Callable[[Sequence[R]], None] | None = None
        """Puts sealed names back into rows."""

    @abstractmethod
    def row_of(self, event: Any) -> R:
        """Return the row of an event that the model has accepted."""

    def valid(self, rows: Sequence[R]) -> bool:  # noqa: ARG002  # for those that have more to look at
        """Check what the row's type cannot."""
        return True

    def details(self, rows: Sequence[R]) -> list[Any]:  # noqa: ARG002  # for rows that hold something undecoded
        """Decode what the rows hold undecoded.

        Raises:
            msgspec.DecodeError: a row is not valid.
        """
        return []

    def decode(self, records: Sequence[Record]) -> Batch[R]:
        """Decode records in order; every record ends up in one of `rows`, `bad` and `controls`."""
        batch = self._decode_joined(records) or self._decode_each(records)
        if self.open_rows is not None:
            self.open_rows(batch.rows)
        return batch

    def _decode_joined(self, records: Sequence[Record]) -> Batch[R] | None:
        """Decode all records in one call, or return None if any of them is not ordinary."""
        values = [record.value for record in records]
        try:
            joined = b"\n".join(values)  # type: ignore[arg-type]  # a None among them is the TypeError below
            joined.isascii() or joined.decode()
            # A record with such ends yields a row at least: none can be blank, or half of what its neighbour completes,
            # so that as many rows as records are one each.
            objects = {value[0] for value in values} == _OPEN and {value[-1] for value in values} == _CLOSE  # type: ignore[index]
            # Most events are short; only then is a look at each of them spared.
            flat = max(map(len, values), default=0) <= FLAT_BYTES or all(map(_flat, values))  # type: ignore[arg-type]
            rows: list[R] = self._lines.decode_lines(joined) if objects and flat and not _suspect(joined) else []
            details = self.details(rows)
        except (TypeError, IndexError, UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            return None
        if not rows or len(rows) != len(records):
            return None
        received = [record.timestamp for record in records]
        times = [row.timestamp or at for row, at in zip(rows, received, strict=True)]
        # The extremes may come from partitions that stand far apart.
        ahead = max(times) > min(received) + MAX_AHEAD_MS and any(map(_ahead, times, received))
        if ahead or not self.valid(rows):
            return None
        return Batch(records, [record.offset for record in records], received, times, rows, details)

    def _decode_each(self, records: Sequence[Record]) -> Batch[R]:
        batch: Batch[R] = Batch()
        read: list[Record] = []
        batch.records = read
        for record in records:
            try:
                if record.value is not None and record.value.startswith(PREFIX):
                    batch.controls.append((record, _control(record.value)))
                    continue
                row = self._decode_fast(record) or self.row_of(self._parse(record))
            except DecodeError as error:
                batch.bad.append((record, error))
                continue
            read.append(record)
            batch.offsets.append(record.offset)
            batch.received.append(record.timestamp)
            batch.times.append(row.timestamp or record.timestamp)
            batch.rows.append(row)
        batch.details = self.details(batch.rows)
        return batch

    def _decode_fast(self, record: Record) -> R | None:
        value = record.value
        if value is None or _suspect(value) or not _flat(value):
            return None
        try:
            value.isascii() or value.decode()
            row: R = self._lines.decode(value)
            self.details([row])
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            return None
        return None if _ahead(row.timestamp or 0, record.timestamp) or not self.valid([row]) else row

    def _parse(self, record: Record) -> Event:
        """Decode through the model.

        Raises:
            DecodeError: the record is not a valid event.
        """
        if record.value is None:
            raise DecodeError("no_value", "the record has no value")
        return parse(self._model, record.value, received_ms=record.timestamp)


class Decoder(EventDecoder[Row]):
    """Decodes records of the interactions topic; keeps the combinations of signal names it has seen."""

    def __init__(self, row_type: type[Row] = Row) -> None:
        super().__init__(row_type, Interaction)
        self._known: set[tuple[str, ...]] = set()

    def valid(self, rows: Sequence[Row]) -> bool:
        """Check the names of signals."""
        new = {row.interaction_type for row in rows} - self._known
        if not all(TYPE_PATTERN.fullmatch(name) for names in new for name in names):
            return False
        # An attacker can send ever new names; forgetting all is cheap, they are only remembered for speed.
        if len(self._known) > 10_000:
            self._known.clear()
        self._known |= new
        return True

    def row_of(self, event: Interaction) -> Row:
        """Return the row of an interaction."""
        known = {name: event.metadata[name] for name in ("query", "duration_ms", "device") if name in event.metadata}
        return Row(
            feature_id=event.feature_id,
            interaction_type=tuple(event.interaction_type),
            interaction_id=event.interaction_id,
            position=event.position,
            metadata=msgspec.convert(known, Details) if event.metadata else None,
            user_id=event.user_id,
            session_id=event.session_id,
            retriever_id=event.retriever_id,
            execution_id=event.execution_id,
            timestamp=event.timestamp,
            sent_at=event.sent_at,
        )


def _control(value: bytes) -> Control:
    try:
        return decode_control(value)
    except msgspec.DecodeError as error:
        raise DecodeError("bad_control", str(error)) from None


def _ahead(time_ms: int, received_ms: int) -> bool:
    return time_ms > received_ms + MAX_AHEAD_MS


def _suspect(text: bytes) -> bool:
    # Looking for one byte is ten times as fast as the expression, and mostly ends it.
    return b"\\" in text and _SUSPECT.search(text) is not None


def _flat(value: bytes) -> bool:
    size = len(value)
    return size <= FLAT_BYTES or (size <= FAST_BYTES and value.count(b"{") + value.count(b"[") <= FLAT_BRACKETS)
