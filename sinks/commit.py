"""Rows and offsets into a table in one commit that takes effect once, whoever else writes.

A commit names the table version that it follows, and the storage lets one of several win. Retries are never left to the
library: after a refusal the table is read again, and the stored offsets say whether the range is still ours to write.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction

from clickwell.clock import MS_PER_HOUR
from clickwell.errors import LakeError
from clickwell.failpoints import Failpoints
from clickwell.settings import Settings
from clickwell.sinks import files
from clickwell.sinks.columns import COLUMNS
from clickwell.sinks.recent import Buckets, Ids, RecentIds
from clickwell.sinks.table import DATE, Table, app_id, check_topic, create_table, storage_errors

# Others win at most once for each of their own flushes, so losing this often means that something else is wrong.
MAX_LOSSES = 200
# Ids are remembered for as many buckets as the counters remember them.
MAX_BUCKETS = 24


class MovedError(Exception):
    """Somebody else has written these offsets: whatever was read for them must be dropped and read again."""


@dataclass(frozen=True)
class Pending:
    """Rows that are to be written, and the offsets that go with them.

    Attributes:
        rows: columns of the table's schema.
        ids: hash of the id of each row.
        expected: the offset that must be stored for each partition, as it was when the rows were read.
        next: the offset that is stored with the rows.
    """

    rows: Sequence[pa.RecordBatch]
    ids: Sequence[Ids]
    expected: Mapping[int, int]
    next: Mapping[int, int]


@dataclass(frozen=True)
class Written:
    """What a commit did: rows written, repeats left out, files, and how often others were first."""

    rows: int
    repeats: int
    files: int
    conflicts: int


class TableWriter:
    """Writes one table for one topic; not for several threads at once.

    Every method raises LakeError when the storage does not answer.

    Args:
        settings: where the lake is, and the dedup window.
        table: what to write.
        topic_id: begins the names under which offsets are stored.
        failpoints: where to die, in tests.
        is_topic: whether that is a topic's id, of which a table has one, or the name of something else.

    Raises:
        LakeError: the storage does not answer.
        TopicRecreatedError: the table was written from an earlier topic of the same name.
    """

    def __init__(
        self, settings: Settings, table: Table, topic_id: str, failpoints: Failpoints, *, is_topic: bool = True
    ) -> None:
        self._settings = settings
        self._table = table
        self._topic_id = topic_id
        self._failpoints = failpoints
        self._columns = COLUMNS[table.name]()
        self._dedup_ms = settings.popularity.dedup_hours * MS_PER_HOUR
        # What is no topic comes in any order of time, and ends.
        self._max_buckets = MAX_BUCKETS if is_topic else None
        self._recent = RecentIds(self._load_ids)
        self._files: set[str] = set()
        with storage_errors(self._settings):
            self._delta = create_table(settings, table)
            if is_topic:
                check_topic(self._delta, table, topic_id)
            self._refresh()

    @property
    def live_files(self) -> int:
        """How many Parquet files the version of the table has that was read last."""
        return len(self._files)

    def stored(self, partitions: Sequence[int]) -> dict[int, int | None]:
        """Read the table again and return the next offset of each partition, None where it has none."""
        with storage_errors(self._settings):
            self._refresh()
            return {partition: self._stored(partition) for partition in partitions}

    def begin(self, starts: Mapping[int, int]) -> None:
        """Store the first offset of partitions that have none; whoever is first decides."""
        with storage_errors(self._settings):
            self._commit([], starts)

    def skip(self, lost: Mapping[int, tuple[int, int]]) -> None:
        """Move partitions beyond a range that retention took; the range stands in the table's history."""
        with storage_errors(self._settings):
            ranges = {f"clickwell.lost.{partition}": f"{first}-{end - 1}" for partition, (first, end) in lost.items()}
            self._commit([], {partition: end for partition, (_, end) in lost.items()}, ranges)

    def write(self, pending: Pending) -> Written:
        """Write rows and offsets; when this returns they are in the table, exactly once.

        Raises:
            MovedError: the stored offsets are not the expected ones; nothing was written.
            LakeError: the storage failed. Whether the rows are in the table, only the stored offsets tell.
        """
        self._failpoints.visit("before_files")
        rows = pa.Table.from_batches(pending.rows, self._table.schema)
        ids = np.concatenate(pending.ids) if pending.ids else np.empty(0, np.uint64)
        buckets = self._buckets(rows)
        with storage_errors(self._settings):
            self._refresh()
            self._check(pending.expected)
            fresh = ~self._recent.repeats(ids, buckets)
            adds = self._write_files(rows.filter(pa.array(fresh)) if not fresh.all() else rows)
            written_at = time.time()
            self._failpoints.visit("after_files")
            conflicts = 0
            while True:
                if time.time() - written_at > self._settings.sink.vacuum_hours * 1800:
                    raise MovedError(f"this process stood still for {time.time() - written_at:.0f} s")
                if self._commit(adds, pending.next):
                    break
                if (conflicts := conflicts + 1) > MAX_LOSSES:
                    raise LakeError(f"table {self._table.name}: {MAX_LOSSES} commits were refused")
                self._check(pending.expected, adds)
                if self._recent.known(ids[fresh], buckets[fresh]):
                    files.remove(self._delta, [add.path for add in adds])
                    fresh = ~self._recent.repeats(ids, buckets)
                    adds = self._write_files(rows.filter(pa.array(fresh)))
                # Two that lost to a third must not meet again.
                time.sleep(random.uniform(0, 0.05))
            self._failpoints.visit("after_commit")
            self._files.update(add.path for add in adds)
            self._recent.add(ids[fresh], buckets[fresh])
            self._prune(buckets)
        return Written(int(fresh.sum()), int((~fresh).sum()), len(adds), conflicts)

    def _commit(
        self, adds: Sequence[AddAction], next_: Mapping[int, int], extra: Mapping[str, str] | None = None
    ) -> bool:
        """Try once to commit on the version that was read last; afterwards the table is read again."""
        transactions = [Transaction(app_id(self._topic_id, part), offset) for part, offset in next_.items()]
        try:
            self._delta.create_write_transaction(
                list(adds),
                "append",
                self._table.delta_schema,
                partition_by=[DATE],
                commit_properties=CommitProperties(
                    app_transactions=transactions, max_commit_retries=0, custom_metadata=dict(extra or {})
                ),
            )
        except (DeltaError, OSError) as error:
            self._refresh()
            # An error may hide a commit that got through: then our own files, which nobody else knows, are live.
            if adds and {add.path for add in adds} <= self._files:
                return True
            if isinstance(error, CommitFailedError) and not files.is_full(error):
                return False
            if files.is_full(error):
                files.remove(self._delta, [add.path for add in adds])
            raise
        else:
            self._refresh(own={add.path for add in adds})
        return True

    def _check(self, expected: Mapping[int, int], adds: Sequence[AddAction] = ()) -> None:
        for partition, offset in expected.items():
            if (stored := self._stored(partition)) != offset:
                files.remove(self._delta, [add.path for add in adds])
                raise MovedError(f"partition {partition}: expected offset {offset}, the table has {stored}")

    def _stored(self, partition: int) -> int | None:
        offset: int | None = self._delta.transaction_version(app_id(self._topic_id, partition))
        return offset

    def _write_files(self, rows: pa.Table) -> list[AddAction]:
        """Write one file for each date."""
        adds: list[AddAction] = []
        try:
            for day, part in files.by_date(rows):
                adds.append(files.write(self._delta, self._table, day, part, prefix="sink"))
        except BaseException:
            files.remove(self._delta, [add.path for add in adds])
            raise
        return adds

    def _refresh(self, own: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Read the log's new entries, and the ids of rows that others have added.

        Args:
            own: files that this writer has just added, whose ids it knows.
        """
        self._delta.update_incremental()
        actions = pa.table(self._delta.get_add_actions(flatten=True))
        paths = actions["path"].to_pylist()
        new = set(paths) - self._files - own
        self._files = set(paths)
        oldest = self._recent.oldest()
        if oldest is not None and new:
            since = oldest * self._dedup_ms
            self._recent.add(*self._read_ids([path for path in self._received_since(actions, since) if path in new]))

    def _load_ids(self, buckets: set[int]) -> tuple[Ids, Buckets]:
        """Return the ids of all rows in these buckets, and of some others."""
        actions = pa.table(self._delta.get_add_actions(flatten=True))
        since, until = min(buckets) * self._dedup_ms, (max(buckets) + 1) * self._dedup_ms
        return self._read_ids(self._received_since(actions, since, until))

    def _received_since(self, actions: pa.Table, since_ms: int, until_ms: int | None = None) -> list[str]:
        """Return the files that may hold rows which the broker received in this time."""
        if "max.received_at" not in actions.column_names:
            paths: list[str] = actions["path"].to_pylist()
            return paths
        # A file without bounds may hold anything.
        latest = pc.fill_null(actions["max.received_at"].cast(pa.int64()), 2**62)
        first = pc.fill_null(actions["min.received_at"].cast(pa.int64()), 0)
        wanted = pc.greater_equal(latest, since_ms * 1000)
        if until_ms is not None:
            wanted = pc.and_(wanted, pc.less(first, until_ms * 1000))
        found: list[str] = actions["path"].filter(wanted).to_pylist()
        return found

    def _read_ids(self, paths: Sequence[str]) -> tuple[Ids, Buckets]:
        if not paths:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        rows = files.read(self._delta, paths, [*self._columns.id_columns, "received_at"])
        return self._columns.ids_of(rows), self._buckets(rows)

    def _buckets(self, rows: pa.Table) -> Buckets:
        received = rows["received_at"].cast(pa.int64()).to_numpy()
        buckets: Buckets = received // (self._dedup_ms * 1000)
        return buckets

    def _prune(self, buckets: Buckets) -> None:
        """Forget ids that no later row can repeat; of partitions that stand far apart, the later ones'."""
        if buckets.size and self._max_buckets:
            self._recent.keep_from(max(int(buckets.min()) - 1, int(buckets.max()) - self._max_buckets))
