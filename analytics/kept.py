"""The facts of each day, counted once and kept; a question about a month adds up thirty small files.

A day's facts are a function of the data files of that day and the next (a click may follow after midnight), and are
kept in the data folder under a name made of these: a late event, a compaction or an erasure changes the files, and the
day is counted anew. Facts of files that are no more are removed by the first question ten minutes after their last use.
"""

# ruff: noqa: S608  # the texts are put together from constants of our own

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clickwell.analytics import facts
from clickwell.settings import Settings
from clickwell.sinks.compact import live_files
from clickwell.sinks.standing import exists
from clickwell.sinks.table import INTERACTION_TABLE, SEARCH_TABLE, open_table

FOLDER = "facts"
# Part of the names: another way of counting has to count anew.
_VERSION = "1"
# Searches counted at once, which bounds the memory to about 2 GB; a larger day is still counted as a whole.
_BATCH = 1_000_000
# Longer than any query that may still read what another one has found outdated.
_UNUSED_SECONDS = 600.0


def connect(settings: Settings, since: date, until: date) -> duckdb.DuckDBPyConnection:
    """Return a connection with a view for each table of `facts.SCHEMAS`, of the days `since` to `until`, both included.

    Days that changed since they were last asked for are counted first.

    Raises:
        LakeError: there is no table of searches, or its storage does not answer.
    """
    found = list(_each_day(settings, since, until))
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone='UTC'")
    # Every question reads the same few hundred files, which never change.
    connection.execute("SET parquet_metadata_cache=true")
    for name, schema in facts.SCHEMAS.items():
        paths = [str(each[name]) for each in found if isinstance(each[name], Path)]
        loose = [each[name] for each in found if isinstance(each[name], pa.Table)]
        connection.register(f"loose_{name}", pa.concat_tables([schema.empty_table(), *loose]))
        kept = f"select * from read_parquet({paths!r}) union all by name " if paths else ""
        connection.execute(f"create view {name} as {kept}select * from loose_{name}")
    return connection


def _each_day(settings: Settings, since: date, until: date) -> Iterator[dict[str, pa.Table | Path]]:
    """Yield the facts of each day that has searches: where they are kept, or themselves where nothing can be kept."""
    folder = settings.data / FOLDER
    days = _days(settings, since, until)
    _sweep(folder, {day: name for day, (name, _) in days.items()})
    missing: list[date] = []
    for day, (name, _) in days.items():
        paths = _paths(folder, name)
        if _use(paths):
            yield dict(paths)
        else:
            missing.append(day)
    for batch in _batches(missing, {day: searches for day, (_, searches) in days.items()}):
        counted = facts.count(settings, batch[0], batch[-1])
        for day in batch:
            tables = {name: table.filter(pc.equal(table["day"], day)) for name, table in counted.items()}
            paths = _paths(folder, days[day][0])
            try:
                _keep(folder, tables, paths)
            except OSError:
                # A folder that cannot be written costs time, never the answer.
                yield dict(tables)
            else:
                yield dict(paths)


def _batches(days: list[date], searches: dict[date, int]) -> Iterator[list[date]]:
    """Yield runs of days that follow one another, of about `_BATCH` searches at most."""
    batch: list[date] = []
    for day in days:
        full = sum(searches[each] for each in batch) + searches[day] > _BATCH
        if batch and (full or day != batch[-1] + timedelta(days=1)):
            yield batch
            batch = []
        batch.append(day)
    if batch:
        yield batch


def _days(settings: Settings, since: date, until: date) -> dict[date, tuple[str, int]]:
    """Return, for each day with searches, the name of its facts and how many searches there are, in order."""
    shown = [file for file in live_files(open_table(settings, SEARCH_TABLE)) if since <= file.day <= until]
    clicks = live_files(open_table(settings, INTERACTION_TABLE)) if exists(settings, INTERACTION_TABLE) else []
    found = {}
    for day in sorted({file.day for file in shown}):
        lists = [file for file in shown if file.day == day]
        behind = [file.path for file in clicks if file.day in {day, day + timedelta(days=1)}]
        parts = (_VERSION, settings.lake_uri, *sorted(file.path for file in lists), "", *sorted(behind))
        digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
        found[day] = f"{day.isoformat()}-{digest}", sum(file.rows for file in lists)
    return found


def _paths(folder: Path, name: str) -> dict[str, Path]:
    return {table: folder / f"{table}-{name}.parquet" for table in facts.SCHEMAS}


def _use(paths: dict[str, Path]) -> bool:
    """Tell whether facts are kept; if so, mark them as used now, so that nobody removes them under a query."""
    if not all(path.exists() for path in paths.values()):
        return False
    for path in paths.values():
        # Where this process may only read, it does not remove either.
        with suppress(OSError):
            os.utime(path)
    return True


def _sweep(folder: Path, names: dict[date, str]) -> None:
    """Remove facts of files that are no more: after an erasure they must not stay."""
    unused = time.time() - _UNUSED_SECONDS
    for path in folder.glob("*.parquet"):
        name = path.stem.partition("-")[2]
        present = names.get(date.fromisoformat(name[:10]))
        with suppress(OSError):
            if present is not None and name != present and path.stat().st_mtime < unused:
                path.unlink()


def _keep(folder: Path, tables: dict[str, pa.Table], paths: dict[str, Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        pq.write_table(tables[name], unfinished, compression="zstd")
        unfinished.rename(path)
