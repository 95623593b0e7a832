"""Erased events out of the lake: hidden at once, rewritten without them, and the old files gone after a grace."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pa_fs
from deltalake import DeltaTable
from numpy.typing import NDArray

from clickwell.failpoints import Failpoints
from clickwell.schemas.erased import Subjects
from clickwell.settings import Settings
from clickwell.sinks import files
from clickwell.sinks.compact import LiveFile, live_files, replace_files
from clickwell.sinks.table import DATE, Table, filesystem, open_table, storage_errors

# Delta ignores names that begin so, and its vacuum leaves them alone.
HIDDEN_FILE = "_erasing.json"
_TIMES = ("timestamp", "received_at")
_NOBODY = -1


@dataclass
class Erased:
    """What was erased from a table.

    Attributes:
        rows: by erasure id.
        rewritten: files that were replaced.
        files: files on disk that hold erased rows and that no version from now on names.
    """

    rows: Counter[str] = field(default_factory=Counter)
    rewritten: int = 0
    files: list[str] = field(default_factory=list)


def find(settings: Settings, table: Table, subjects: Subjects) -> Iterator[tuple[str, pa.Table]]:
    """Yield the erasure id and the rows of a table that belong to it, file by file; a row comes once.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    with storage_errors(settings):
        delta = open_table(settings, table)
        for file in live_files(delta):
            owners, names = _owners(files.read(delta, [file.path], _columns(subjects)), subjects)
            if names:
                rows = files.read(delta, [file.path])
                for number, name in enumerate(names):
                    yield name, rows.filter(pa.array(owners == number))


def related(
    settings: Settings,
    table: Table,
    subjects: Subjects,
    wanted: Iterable[Mapping[str, Collection[str]]],
    columns: Sequence[str],
) -> Iterator[tuple[pa.Table, list[str]]]:
    """Yield the rows that meet one of some conditions, each with the erasure that takes it or "", file by file.

    Args:
        settings: where the lake is.
        table: which.
        subjects: of the erasures.
        wanted: conditions, each column -> values; all columns of a condition must have one of theirs.
        columns: to be read, beside those that tell whose a row is.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    conditions = [
        [(name, pa.array(sorted(values), pa.string())) for name, values in each.items()]
        for each in wanted
        if all(each.values())
    ]
    names = sorted({name for each in conditions for name, _ in each})
    with storage_errors(settings):
        delta = open_table(settings, table)
        for file in live_files(delta) if conditions else ():
            keys = files.read(delta, [file.path], names)
            met = reduce(
                pc.or_,
                [
                    reduce(pc.and_, [pc.is_in(keys[name], value_set=values) for name, values in each])
                    for each in conditions
                ],
            )
            if not pc.any(met).as_py():
                continue
            rows = files.read(delta, [file.path], sorted({*columns, *_columns(subjects)})).filter(met)
            owners, erasures = _owners(rows, subjects)
            yield rows, [erasures[owner] if owner != _NOBODY else "" for owner in owners]


def rewrite(settings: Settings, table: Table, subjects: Subjects, failpoints: Failpoints) -> Erased:
    """Replace every file that holds rows of the subjects by one without them.

    Sinks, compactions and readers go on meanwhile; nothing that names a subject gets into the table's log. The rows
    must be complete: no sink may still add some of them. Running it again is safe.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    done = Erased()
    # Files do not change: one that was looked at once is not looked at again.
    clean: set[str] = set()
    with storage_errors(settings):
        delta = open_table(settings, table)
        while left := [each for each in live_files(delta) if each.path not in clean]:
            dirty = [each for each in left if _has_any(delta, each.path, subjects)]
            clean |= {each.path for each in left} - {each.path for each in dirty}
            for group in _groups(dirty, settings.sink.compact_rows):
                failpoints.visit("before_rewrite")
                _rewrite(delta, table, group, subjects, done)
                failpoints.visit("after_rewrite")
            delta.update_incremental()
        delta.create_checkpoint()
        done.files = traces(delta, subjects, clean)
    return done


def traces(delta: DeltaTable, subjects: Subjects, clean: Collection[str] = ()) -> list[str]:
    """Return the Parquet files below a table's folder that hold rows of the subjects, live or not.

    Args:
        delta: the table.
        subjects: of the erasures.
        clean: files that are known to hold none.

    Raises:
        OSError: the storage does not answer.
    """
    selector = pa_fs.FileSelector("", recursive=True)
    paths = [info.path for info in filesystem(delta).get_file_info(selector) if info.path.startswith(f"{DATE}=")]
    found = []
    for path in (each for each in paths if each.endswith(".parquet") and each not in clean):
        try:
            if _has_any(delta, path, subjects):
                found.append(path)
        except (FileNotFoundError, pa.ArrowInvalid):
            continue  # removed meanwhile, or the half of a file that a dead writer left
    return found


def hide(settings: Settings, table: Table, erasures: Sequence[dict[str, Any]]) -> None:
    """Let readers leave out the events of these requests from now on; none lets them see everything.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    with storage_errors(settings):
        storage = filesystem(open_table(settings, table))
        if erasures:
            with storage.open_output_stream(HIDDEN_FILE, buffer_size=1 << 16) as out:
                out.write(json.dumps(erasures).encode())
        elif storage.get_file_info(HIDDEN_FILE).type is not pa_fs.FileType.NotFound:
            storage.delete_file(HIDDEN_FILE)


def hidden(delta: DeltaTable) -> list[dict[str, Any]]:
    """Return the requests whose events readers of a table must leave out: kind, value, and range in epoch ms."""
    try:
        with filesystem(delta).open_input_stream(HIDDEN_FILE) as file:
            found: list[dict[str, Any]] = json.loads(file.read())
    except FileNotFoundError:
        return []
    return [each for each in found if each["kind"] in delta.schema().to_arrow().names]


def _groups(dirty: Iterable[LiveFile], most_rows: int) -> Iterator[list[LiveFile]]:
    """Yield files of one date that become one: as many as may be held in memory."""
    group: list[LiveFile] = []
    for file in sorted(dirty, key=lambda each: (each.day, each.path)):
        if group and (group[0].day != file.day or sum(each.rows for each in group) + file.rows > most_rows):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _rewrite(delta: DeltaTable, table: Table, group: Sequence[LiveFile], subjects: Subjects, done: Erased) -> None:
    try:
        rows = files.read(delta, [file.path for file in group])
    except FileNotFoundError:
        return  # compacted and vacuumed meanwhile: its successor is looked at next
    owners, names = _owners(rows, subjects)
    left = rows.filter(pa.array(owners == _NOBODY)).sort_by([(name, "ascending") for name in table.sort])
    adds = [files.write(delta, table, group[0].day, left, prefix="erased", to_search=True)] if left.num_rows else []
    if replace_files(delta, group, adds, data_change=True):
        done.rewritten += len(group)
        done.rows.update({name: int((owners == number).sum()) for number, name in enumerate(names)})


def _has_any(delta: DeltaTable, path: str, subjects: Subjects) -> bool:
    return bool(_owners(files.read(delta, [path], _columns(subjects)), subjects)[1])


def _columns(subjects: Subjects) -> list[str]:
    return [*subjects.kinds, *_TIMES]


def _owners(rows: pa.Table, subjects: Subjects) -> tuple[NDArray[np.int64], list[str]]:
    """Return for each row the number of the erasure that takes it, `_NOBODY` where none does, and their ids."""
    owners = np.full(rows.num_rows, _NOBODY, np.int64)
    numbers: dict[str, int] = {}
    times = {name: rows[name].cast(pa.int64()).fill_null(2**62).to_numpy() // 1000 for name in _TIMES}
    for kind in subjects.kinds:
        if kind not in rows.column_names:
            continue
        column = rows[kind].combine_chunks()
        present = pc.unique(column).to_pylist()
        found = subjects.among(kind, present)
        for value in (each for each in present if each in found):
            same = pc.equal(column, value).fill_null(False)
            for index in np.flatnonzero(same.to_numpy(zero_copy_only=False)):
                for subject, _ in found[value]:
                    covered = subject.covers(*(int(times[name][index]) for name in _TIMES))
                    if covered and owners[index] == _NOBODY:
                        owners[index] = numbers.setdefault(subject.erasure_id, len(numbers))
    return owners, list(numbers)


def remove(settings: Settings, table: Table, paths: Iterable[str]) -> list[str]:
    """Remove files that no version names any more; return those that were still there.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    with storage_errors(settings):
        delta = open_table(settings, table)
        live = {file.path for file in live_files(delta)}
        gone = [path for path in paths if path not in live]
        storage = filesystem(delta)
        there = [path for path in gone if storage.get_file_info(path).type is not pa_fs.FileType.NotFound]
        files.remove(delta, there)
        return there
