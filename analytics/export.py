"""A range of days out of the lake as plain files, with a manifest: the same range gives the same bytes."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pydantic_core import to_json

from clickwell.analytics.exports import note_export
from clickwell.analytics.lake import shown, table_of
from clickwell.errors import InputError, UsageError
from clickwell.settings import Settings
from clickwell.sinks.compact import LiveFile, live_files
from clickwell.sinks.files import read
from clickwell.sinks.table import DATE, open_table

Format = Literal["parquet", "jsonl", "csv"]

# The log's own order, which no compaction changes; the id decides between rows that never were in a log.
ORDER = ("kafka_topic_id", "kafka_partition", "kafka_offset", "interaction_id", "execution_id", "timestamp")
# What a spreadsheet takes for the start of a formula, in half and in full width.
_FORMULA = "^([=+\\-@\t\r\uff1d\uff0b\uff0d\uff20])"


@dataclass(frozen=True)
class ExportedFile:
    """One file: the rows of one day, and what it holds of the log.

    Attributes:
        offsets: `topic id/partition` -> first and last offset in the file.
    """

    file: str
    day: str
    rows: int
    sha256: str
    offsets: dict[str, tuple[int, int]]


def export(
    settings: Settings,
    name: str,
    target: Path,
    *,
    form: Format = "parquet",
    since: date | None = None,
    until: date | None = None,
    columns: Sequence[str] = (),
) -> list[ExportedFile]:
    """Write one file for each day that has rows, and `manifest.json` last.

    Holds one day in memory at a time.

    Args:
        settings: where the lake is.
        name: of the table.
        target: an empty or new folder.
        form: in CSV, lists are JSON and text that a spreadsheet would run as a formula begins with an apostrophe.
        since: first day.
        until: last day.
        columns: which; all when empty.

    Raises:
        UsageError: a column does not exist.
        InputError: the folder is not empty or cannot be written.
        LakeError: there is no such table, or its storage does not answer.
    """
    table = table_of(name)
    delta = open_table(settings, table)
    present = [field.name for field in delta.schema().fields if field.name != DATE]
    if unknown := set(columns) - set(present):
        raise UsageError(
            f"table {name} has no column {', '.join(sorted(unknown))}", fix=f"choose from {', '.join(present)}"
        )
    exported = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise InputError(f"{target} is not empty", fix="name a new folder")
        for day, paths in _days(live_files(delta), since, until):
            rows = read(delta, paths)
            if (condition := shown(settings, delta)) is not None:
                rows = rows.filter(condition)
            rows = rows.sort_by([(each, "ascending") for each in ORDER if each in rows.column_names])
            content = _encoded(rows.select([c for c in columns or present if c in rows.column_names]), form)
            file = target / f"{name}-{day.isoformat()}.{form}"
            file.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            exported.append(ExportedFile(file.name, day.isoformat(), rows.num_rows, digest, _offsets(rows)))
        manifest = {
            "table": name,
            "format": form,
            "columns": list(columns or present),
            "rows": sum(one.rows for one in exported),
            "files": [asdict(one) for one in exported],
        }
        content = json.dumps(manifest, indent=2).encode() + b"\n"
        if exported:
            first, last = (date.fromisoformat(exported[place].day) for place in (0, -1))
            note_export(settings, target, "lake", (first, last), content)
        (target / "manifest.json").write_bytes(content)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from None
    return exported


def _days(live: Iterable[LiveFile], since: date | None, until: date | None) -> Iterator[tuple[date, list[str]]]:
    """Yield each day of the range that has files, with these."""
    wanted = [file for file in live if (since or date.min) <= file.day <= (until or date.max)]
    for day in sorted({file.day for file in wanted}):
        yield day, [file.path for file in wanted if file.day == day]


def _encoded(rows: pa.Table, form: Format) -> bytes:
    out = io.BytesIO()
    if form == "parquet":
        pq.write_table(rows.combine_chunks(), out, compression="zstd")
    elif form == "jsonl":
        for batch in rows.to_batches():
            out.writelines(to_json(row) + b"\n" for row in batch.to_pylist())
    else:
        pa_csv.write_csv(_for_csv(rows), out)
    return out.getvalue()


def _for_csv(rows: pa.Table) -> pa.Table:
    columns: list[Any] = []
    for field in rows.schema:
        column = rows[field.name]
        if pa.types.is_list(field.type):
            column = pa.array(
                [None if value is None else to_json(value).decode() for value in column.to_pylist()], pa.string()
            )
        if pa.types.is_string(field.type):
            column = pc.replace_substring_regex(column, _FORMULA, r"'\1")
        columns.append(column)
    return pa.table(columns, names=rows.column_names)


def _offsets(rows: pa.Table) -> dict[str, tuple[int, int]]:
    grouped = rows.group_by(["kafka_topic_id", "kafka_partition"]).aggregate(
        [("kafka_offset", "min"), ("kafka_offset", "max")]
    )
    found = {
        f"{row['kafka_topic_id']}/{row['kafka_partition']}": (row["kafka_offset_min"], row["kafka_offset_max"])
        for row in grouped.to_pylist()
        if row["kafka_offset_min"] is not None
    }
    return dict(sorted(found.items()))
