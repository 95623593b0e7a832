"""History straight into the lake, past Kafka and the counters; a load that was broken off goes on where it stopped."""

import time
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from clickwell.errors import LakeError
from clickwell.failpoints import Failpoints
from clickwell.settings import Settings
from clickwell.sinks.columns import COLUMNS, LogRecord
from clickwell.sinks.commit import MovedError, Pending, TableWriter
from clickwell.sinks.table import TABLES, Table

SOURCE = "load"
_PARTITION = 0


class Event(Protocol):
    """What is needed of an event: its kind, `interaction` or `search`, and its JSON."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def value(self) -> bytes: ...  # noqa: D102


@dataclass
class Loaded:
    """Events of one kind: handed over, in the lake now, there before this run, left out as repeats."""

    accepted: int = 0
    acked: int = 0
    before: int = 0
    repeats: int = 0


class Loader:
    """Writes events that were validated, in order, and counts them.

    Each commit stores how many events of this load the table has. A load with the same name skips as many: the same
    files read again in the same way add nothing. `received_at` is the event's own time, by which repeats are found,
    also those of rows that came through Kafka; the columns of the log are null.

    Args:
        settings: where the lake is.
        name: of the load, the same for the same content.

    Raises:
        LakeError: here and by every method, the storage does not answer, or another process runs the same load.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._lanes = {table.kind: _Lane(settings, table, name) for table in TABLES}

    @property
    def stats(self) -> dict[str, Loaded]:
        """What became of the events, by kind."""
        return {kind: lane.loaded for kind, lane in self._lanes.items()}

    def send(self, event: Event) -> None:
        """Take one event; it is in the lake after the next `flush`."""
        self._lanes[event.kind].send(event.value)

    def flush(self, _timeout: float = 0.0) -> None:
        """Write what was taken."""
        for lane in self._lanes.values():
            lane.flush()


class _Lane:
    """The events of one table."""

    def __init__(self, settings: Settings, table: Table, name: str) -> None:
        self.loaded = Loaded()
        self._most = settings.sink.flush_rows
        self._columns = COLUMNS[table.name]()
        self._writer = TableWriter(settings, table, f"{SOURCE}-{name}", Failpoints(), is_topic=False)
        if self._writer.stored([_PARTITION])[_PARTITION] is None:
            self._writer.begin({_PARTITION: 0})
        self._done = self._writer.stored([_PARTITION])[_PARTITION] or 0
        self._seen = 0
        self._values: list[bytes] = []

    def send(self, value: bytes) -> None:
        self.loaded.accepted += 1
        self._seen += 1
        if self._seen <= self._done:
            self.loaded.before += 1
            self.loaded.acked += 1
            return
        self._values.append(value)
        if len(self._values) >= self._most:
            self.flush()

    def flush(self) -> None:
        if not self._values:
            return
        now_ms = time.time_ns() // 1_000_000
        records = [LogRecord(_PARTITION, i, now_ms, value, None, SOURCE) for i, value in enumerate(self._values)]
        batch = self._columns.decoder.decode(records)
        assert not batch.bad, "events are validated before they come here"
        rows = _without_log(self._columns.of(batch, "", now_ms))
        end = self._done + len(self._values)
        ids = self._columns.ids(batch.rows)
        try:
            written = self._writer.write(Pending([rows], [ids], {_PARTITION: self._done}, {_PARTITION: end}))
        except MovedError as error:
            raise LakeError(
                "the same load runs elsewhere", why=str(error), fix="wait for it, then run this again"
            ) from None
        self.loaded.acked += len(self._values)
        self.loaded.repeats += written.repeats
        self._done, self._values = end, []


def _without_log(rows: pa.RecordBatch) -> pa.RecordBatch:
    nothing = ("kafka_topic_id", "kafka_partition", "kafka_offset")
    columns = {name: rows[name] for name in rows.schema.names}
    columns |= {name: pa.nulls(rows.num_rows, rows.schema.field(name).type) for name in nothing}
    columns["received_at"] = rows["timestamp"]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=rows.schema)
