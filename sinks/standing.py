"""How a table stands: what it holds, how far it has got, and waiting until it has got further."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

from deltalake import DeltaTable

from clickwell.errors import DependencyError, KafkaError
from clickwell.kafka import KafkaLog
from clickwell.settings import Settings
from clickwell.sinks.compact import live_files
from clickwell.sinks.table import TABLES, Table, app_id, open_table, storage_errors, storage_options

# A commit makes rows visible every few seconds; a look costs some milliseconds, on S3 a request or two.
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Standing:
    """One table at one version.

    Attributes:
        files, rows, size: of this version; size in bytes.
        days: how many dates have rows; `first` and `last` of them.
        written_ms: when it was last written, epoch ms.
        lag: records between what is written and the log's end; None when Kafka does not answer.
    """

    table: str
    version: int
    files: int
    rows: int
    size: int
    days: int
    first: date | None
    last: date | None
    written_ms: int
    lag: int | None


def exists(settings: Settings, table: Table) -> bool:
    """Tell whether a table is there.

    Raises:
        LakeError: its storage does not answer.
    """
    with storage_errors(settings):
        return bool(DeltaTable.is_deltatable(table.uri(settings), storage_options(settings)))


def look(settings: Settings, table: Table) -> Standing:
    """Say how a table stands.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    delta = open_table(settings, table)
    with storage_errors(settings):
        live = live_files(delta)
    days = sorted({file.day for file in live})
    return Standing(
        table=table.name,
        version=delta.version(),
        files=len(live),
        rows=sum(file.rows for file in live),
        size=sum(file.size for file in live),
        days=len(days),
        first=days[0] if days else None,
        last=days[-1] if days else None,
        written_ms=written_ms(settings, delta),
        lag=_lag(settings, table, delta),
    )


def written_ms(settings: Settings, delta: DeltaTable) -> int:
    """Return when the version that is open was written, epoch ms.

    Raises:
        LakeError: its storage does not answer.
    """
    with storage_errors(settings):
        return int(delta.history(1)[0]["timestamp"])


def _lag(settings: Settings, table: Table, delta: DeltaTable) -> int | None:
    log = KafkaLog(settings.kafka)
    try:
        topic_id, partitions = log.describe(table.topic.name)
        ends = log.latest(table.topic.name, range(partitions))
    except KafkaError:
        return None
    ahead = _Ahead(log, table.topic.name)
    stored = offsets_of(settings, delta, topic_id, partitions)
    return sum(ahead.records(partition, offset or 0, ends[partition]) for partition, offset in stored.items())


def offsets_of(settings: Settings, delta: DeltaTable, topic_id: str, partitions: int) -> dict[int, int | None]:
    """Return the next offset of each partition, None where none is stored.

    Raises:
        LakeError: the storage does not answer.
    """
    with storage_errors(settings):
        return {partition: delta.transaction_version(app_id(topic_id, partition)) for partition in range(partitions)}


def wait_written(
    settings: Settings,
    targets: Mapping[str, Mapping[int, int]],
    timeout: float,
    progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Wait until the lake holds these topics up to the given next offsets.

    Args:
        settings: where Kafka and the lake are.
        targets: topic -> partition -> offset after the last record that must be in the lake.
        timeout: seconds to wait at most.
        progress: told after each look how many records are still to be written.

    Returns:
        The tables that were waited for: those that a sink has ever begun to write from the topic.

    Raises:
        DependencyError: not written in time.
        LakeError: the storage does not answer.
        KafkaError: the broker is away.
    """
    log = KafkaLog(settings.kafka)
    waited = [table for table in TABLES if targets.get(table.topic.name) and exists(settings, table)]
    topics = {table.name: log.describe(table.topic.name) for table in waited}
    ahead = {table.name: _Ahead(log, table.topic.name) for table in waited}
    deadline = time.monotonic() + timeout
    while True:
        behind: dict[str, int] = {}
        for table in list(waited):
            stored = offsets_of(settings, open_table(settings, table), *topics[table.name])
            if all(offset is None for offset in stored.values()):
                waited.remove(table)
                continue
            wanted = targets[table.topic.name]
            behind[table.name] = sum(
                ahead[table.name].records(partition, stored.get(partition) or 0, end)
                for partition, end in wanted.items()
            )
        if not any(behind.values()):
            return [table.name for table in waited]
        progress(sum(behind.values()))
        if time.monotonic() > deadline:
            name, records = max(behind.items(), key=lambda item: item[1])
            raise DependencyError(
                f"not everything was in the lake within {timeout:g} s",
                why=f"table {name} is {records:,} records behind",
                fix="`clickwell status` shows whether a sink runs; `clickwell lake status` how far it is",
            )
        time.sleep(POLL_SECONDS)


class _Ahead:
    """How much of a topic lies between a stored offset and another one; each stored offset is looked at once.

    Offsets that the markers of transactions took hold no record: nobody will ever write anything that moves a table
    over those at the end of a partition.
    """

    def __init__(self, log: KafkaLog, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._first: dict[tuple[int, int], int] = {}

    def records(self, partition: int, stored: int, end: int) -> int:
        """Return the offsets from the first record at or after `stored` up to `end`; 0 if no record is there."""
        if stored >= end:
            return 0
        place = partition, stored
        if place not in self._first:
            try:
                self._first[place] = self._log.first_record(self._topic, partition, stored)
            except KafkaError:
                return end - stored  # retention took what lies there, or the broker is away for the moment
        return max(0, end - self._first[place])
