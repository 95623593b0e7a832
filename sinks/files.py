"""Parquet files of the lake: written beside the live ones, listed by nobody until a commit names them."""

import errno
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from clickwell.sinks.table import DATE, STATISTICS, TIME, Table, filesystem

# On events level 1 takes three quarters of the time of level 3, and the files are no larger.
COMPRESSION, LEVEL = "zstd", 1
# Small enough that one person's rows are found without reading much, large enough that columns still compress.
ROW_GROUP_ROWS = 32_768
# Rows that DuckDB takes at a time: of the columns that it only needs for a few rows it then unpacks a few pages instead
# of the whole row group, which halves the time to list one person. The files get no larger.
PAGE_ROWS = 2048
# Columns of few values: only for these is a dictionary worth building.
_DICTIONARY = (
    "feature_id",
    "interaction_type.list.element",
    "results.list.element",
    *("user_id", "retriever_id", "ranker_id", "query", "device", "source", "kafka_topic_id", "ingested_at"),
    *("position", "kafka_partition"),
)


def by_date(rows: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """Split rows by the UTC date of their event time."""
    days = pc.cast(pc.floor_temporal(rows["timestamp"], unit="day"), TIME).cast(pa.int64())
    present = pc.unique(days)
    for day in sorted(present.to_pylist()):
        part = rows if len(present) == 1 else rows.filter(pc.equal(days, day))
        yield datetime.fromtimestamp(day // 1_000_000, UTC).date(), part


def write(
    delta: DeltaTable,
    table: Table,
    day: date,
    rows: pa.Table,
    *,
    prefix: str,
    data_change: bool = True,
    to_search: bool = False,
) -> AddAction:
    """Write one file below its date's folder and return the action that would make it part of the table.

    The file gets its name when it is complete, and is on disk when this returns.

    Args:
        delta: the table.
        table: what it is.
        day: date of all rows.
        rows: the rows, in the order in which they are to lie.
        prefix: begins the file's name: who wrote it.
        data_change: False when the rows were in the table before.
        to_search: with small row groups, small pages and Bloom filters, which pay in files that are read often.

    Raises:
        OSError: the storage is full or away; nothing is left if it lets us remove it.
    """
    path = f"{DATE}={day.isoformat()}/{prefix}-{uuid.uuid4()}.zstd.parquet"
    files = filesystem(delta)
    options: dict[str, Any] = {"row_group_size": 4 * ROW_GROUP_ROWS}
    if to_search:
        bloom = {"ndv": max(1, min(rows.num_rows, ROW_GROUP_ROWS)), "fpp": 0.01}
        options = {
            "row_group_size": ROW_GROUP_ROWS,
            "max_rows_per_page": PAGE_ROWS,
            "bloom_filter_options": dict.fromkeys((table.sort[0], *table.blooms), bloom),
        }
    try:
        with files.open_output_stream(path) as out:
            pq.write_table(
                rows,
                out,
                compression=COMPRESSION,
                compression_level=LEVEL,
                use_dictionary=[name for name in _DICTIONARY if name.split(".")[0] in rows.column_names],
                **options,
            )
        _sync(delta, path)
    except BaseException:
        remove(delta, [path])
        raise
    return AddAction(
        path,
        files.get_file_info(path).size,
        {DATE: day.isoformat()},
        time.time_ns() // 1_000_000,
        data_change,
        json.dumps(statistics(rows)),
    )


def statistics(rows: pa.Table) -> dict[str, Any]:
    """Return what the log says of a file: rows, and bounds of the columns that cannot point to a person."""
    lows, highs, nulls = {}, {}, {}
    for name in STATISTICS:
        if name in rows.column_names:
            bounds = pc.min_max(rows[name]).as_py()
            nulls[name] = rows[name].null_count
            if bounds["min"] is not None:
                lows[name], highs[name] = _plain(bounds["min"]), _plain(bounds["max"])
    return {"numRecords": rows.num_rows, "minValues": lows, "maxValues": highs, "nullCount": nulls}


def read(delta: DeltaTable, paths: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Return all or some columns of files, in order. Columns that an older file lacks are null."""
    files = filesystem(delta)
    parts = []
    for path in paths:
        with files.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            parts.append(file.read(columns and [name for name in columns if name in file.schema_arrow.names]))
    return pa.concat_tables(parts, promote_options="default")


def remove(delta: DeltaTable, paths: Sequence[str]) -> None:
    """Remove files that no version of the table names, as far as the storage lets us; a vacuum takes the rest."""
    files = filesystem(delta)
    for path in paths:
        with suppress(OSError, FileNotFoundError):
            files.delete_file(path)
        if folder := _local(delta):
            for unfinished in (folder / path).parent.glob(f"{Path(path).name}#*"):
                unfinished.unlink(missing_ok=True)


def remove_unfinished(delta: DeltaTable, before: float) -> list[str]:
    """Remove what writers that died have left of files of a local table, last touched before a time (epoch seconds)."""
    folder = _local(delta)
    found = [path for path in folder.glob(f"{DATE}=*/*.parquet#*") if path.stat().st_mtime < before] if folder else []
    for path in found:
        path.unlink(missing_ok=True)
    return [str(path.relative_to(folder)) for path in found] if folder else []


def is_full(error: BaseException) -> bool:
    """Tell whether an error of the storage means that there is no space left."""
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def _plain(value: Any) -> Any:
    # The protocol wants milliseconds, which is what the columns hold.
    return (
        value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"
        if isinstance(value, datetime)
        else value
    )


def _local(delta: DeltaTable) -> Path | None:
    uri = delta.table_uri
    if uri.startswith("file://"):
        return Path(pa_fs.FileSystem.from_uri(uri)[1])
    return Path(uri) if "://" not in uri else None


def _sync(delta: DeltaTable, path: str) -> None:
    """Bring a local file to the disk: the commit that will name it must not survive a power cut without it."""
    if folder := _local(delta):
        for target in (folder / path, (folder / path).parent):
            handle = os.open(target, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
