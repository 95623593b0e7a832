"""Many small files into few sorted ones, and the removal of files that no version of a table needs."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from clickwell.errors import ClickwellError
from clickwell.failpoints import Failpoints
from clickwell.settings import Settings
from clickwell.sinks import files
from clickwell.sinks.table import DATE, Table, open_table, storage_errors

log = logging.getLogger(__name__)

# Late events add a small file now and then; rewriting a day for each of them would cost more than it saves ...
CLOSED_DAY_FILES = 4
# ... and the running day gets one with every flush.
RUNNING_DAY_FILES = 64
# Sinks commit every few seconds, so several refusals in a row are ordinary.
MAX_LOSSES = 100


@dataclass(frozen=True)
class LiveFile:
    """One file of a table's present version."""

    path: str
    day: date
    rows: int
    size: int


@dataclass
class Compacted:
    """What a compaction did; `skipped` groups were rewritten by somebody else meanwhile."""

    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    skipped: int = 0


def live_files(delta: DeltaTable) -> list[LiveFile]:
    """Return the files of the version that is open."""
    actions = pa.table(delta.get_add_actions(flatten=True))
    names = ("path", f"partition.{DATE}", "num_records", "size_bytes")
    if actions.num_rows == 0:
        return []
    return [LiveFile(*each) for each in zip(*(actions[name].to_pylist() for name in names), strict=True)]


def compact(settings: Settings, table: Table, failpoints: Failpoints, *, everything: bool = False) -> Compacted:
    """Merge the small files of each date into files of up to `compact_rows` rows, sorted by `table.sort`.

    Sinks and readers go on meanwhile. A process that dies leaves a file that nobody lists; a vacuum removes it.

    Args:
        settings: where, and how many rows.
        table: which table.
        failpoints: where to die, in tests.
        everything: merge also where there are only few small files.

    Raises:
        LakeError: the storage fails.
    """
    delta = open_table(settings, table)
    done = Compacted()
    with storage_errors(settings):
        for day, group in groups(live_files(delta), settings.sink.compact_rows, everything=everything):
            merged = _merge(delta, table, day, group, failpoints)
            done.files_before += len(group)
            done.files_after += 1 if merged else len(group)
            done.rows += sum(file.rows for file in group) if merged else 0
            done.skipped += not merged
        if done.files_before:
            delta.create_checkpoint()
    return done


def groups(live: Sequence[LiveFile], most_rows: int, *, everything: bool) -> Iterator[tuple[date, list[LiveFile]]]:
    """Yield the files of each date that are to become one, smallest first; files of half the size or more stay."""
    today = datetime.now(UTC).date()
    by_day: dict[date, list[LiveFile]] = defaultdict(list)
    for file in live:
        if file.rows < most_rows / 2:
            by_day[file.day].append(file)
    for day, small in sorted(by_day.items()):
        least = 2 if everything else CLOSED_DAY_FILES if day < today else RUNNING_DAY_FILES
        if len(small) < least:
            continue
        group: list[LiveFile] = []
        for file in sorted(small, key=lambda each: (each.rows, each.path)):
            if group and sum(each.rows for each in group) + file.rows > most_rows:
                yield day, group
                group = []
            group.append(file)
        if len(group) > 1:
            yield day, group


def vacuum(settings: Settings, table: Table, failpoints: Failpoints, *, dry_run: bool = False) -> list[str]:
    """Remove files that are older than the grace and not part of the present version; return their paths.

    Files of dead processes are among them, which no version ever named. Readers of an older version that is older than
    the grace lose their files and have to open the table again.

    Raises:
        LakeError: the storage fails.
    """
    delta = open_table(settings, table)
    # The library knows whole hours only.
    hours = max(1, int(settings.sink.vacuum_hours))
    failpoints.visit("before_vacuum")
    with storage_errors(settings):
        gone = delta.vacuum(
            hours,
            dry_run=dry_run,
            enforce_retention_duration=False,
            full=True,
        )
        if not dry_run:
            gone += files.remove_unfinished(delta, time.time() - hours * 3600)
    failpoints.visit("after_vacuum")
    return gone


def _merge(delta: DeltaTable, table: Table, day: date, group: Sequence[LiveFile], failpoints: Failpoints) -> bool:
    """Replace files by one; False when somebody else has replaced one of them."""
    rows = files.read(delta, [file.path for file in group])
    if rows.num_rows != sum(file.rows for file in group):
        raise ClickwellError(
            f"table {table.name}, {day}: {len(group)} files hold {rows.num_rows} rows, the log says otherwise",
            why="a file was changed by something else than clickwell",
        )
    rows = rows.sort_by([(name, "ascending") for name in table.sort])
    add = files.write(delta, table, day, rows, prefix="compacted", data_change=False, to_search=True)
    failpoints.visit("before_compaction")
    if not replace_files(delta, group, [add], data_change=False):
        return False
    failpoints.visit("after_compaction")
    return True


def replace_files(
    delta: DeltaTable, group: Sequence[LiveFile], adds: Sequence[AddAction], *, data_change: bool
) -> bool:
    """Replace files by others in one commit; False, and the others are gone, when somebody else was faster.

    Raises:
        DeltaError, OSError: the storage fails.
    """
    paths = [add.path for add in adds]
    now_ms = time.time_ns() // 1_000_000
    removes = [RemoveAction(file.path, data_change, now_ms, file.size, {DATE: file.day.isoformat()}) for file in group]
    for _ in range(MAX_LOSSES):
        # Before every try, the first one too: the table may have moved on since the group was chosen, and a commit on
        # its present version is refused by nobody. Adding the file for removed ones would have every row twice.
        live = {file.path for file in live_files(delta)}
        if adds and set(paths) <= live:
            return True  # the error hid a commit that got through
        if not {file.path for file in group} <= live:
            break
        try:
            delta.create_write_transaction(
                [*removes, *adds],
                "append",
                delta.schema(),
                partition_by=[DATE],
                # The library's own retry would look at nothing of this.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError:
            delta.update_incremental()
        else:
            delta.update_incremental()
            return True
    files.remove(delta, paths)
    return False
