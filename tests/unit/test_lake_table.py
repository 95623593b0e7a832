"""A lake in a folder: what commits refuse, what compaction and vacuum leave, what comes out of it. No servers."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Field
from deltalake.schema import PrimitiveType

from clickwell.analytics import lake
from clickwell.analytics.export import export
from clickwell.errors import InputError, LakeError, TopicRecreatedError, UsageError
from clickwell.failpoints import Failpoints
from clickwell.settings import Settings
from clickwell.sinks import compact as compaction
from clickwell.sinks.columns import InteractionColumns, LogRecord, SearchColumns
from clickwell.sinks.commit import MovedError, Pending, TableWriter
from clickwell.sinks.compact import compact, live_files, vacuum
from clickwell.sinks.standing import offsets_of
from clickwell.sinks.table import INTERACTION_TABLE, SEARCH_TABLE, create_table, open_table

NOW = time.time_ns() // 1_000_000
DAY = 86_400_000
NONE = Failpoints()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty lake."""
    return Settings.load(tmp_path)


def pending(
    first: int, events: list[dict], *, expected: int | None = None, partition: int = 0, received: int = NOW
) -> Pending:
    """Rows of consecutive records of a partition."""
    columns = InteractionColumns()
    records = [
        LogRecord(
            partition,
            first + i,
            received,
            json.dumps({"feature_id": "d", "interaction_type": ["click"]} | event).encode(),
        )
        for i, event in enumerate(events)
    ]
    batch = columns.decoder.decode(records)
    assert not batch.bad
    rows = [columns.of(batch, "topic", NOW)]
    return Pending(rows, [columns.ids(batch.rows)], {partition: first}, {partition: first + len(events)})


def writer(settings: Settings, *partitions: int) -> TableWriter:
    """A writer whose partitions have begun at offset 0."""
    made = TableWriter(settings, INTERACTION_TABLE, "topic", NONE)
    stored = made.stored(partitions or (0,))
    if new := {partition: 0 for partition, offset in stored.items() if offset is None}:
        made.begin(new)
    return made


def clicks(count: int, **fields) -> list[dict]:
    """Events without ids, spread over three days."""
    return [{"user_id": f"u{i % 50:03d}", "timestamp": NOW - i % 3 * DAY, **fields} for i in range(count)]


def table(settings: Settings) -> pa.Table:
    """All rows."""
    return open_table(settings, INTERACTION_TABLE).to_pyarrow_table()


def test_a_stale_writer_is_refused_and_leaves_no_file(settings: Settings) -> None:
    """Of two writers with the same range one writes it; the other is told so, and its files are gone."""
    first, second = writer(settings), writer(settings)
    first.write(pending(0, clicks(10)))
    with pytest.raises(MovedError):
        second.write(pending(0, clicks(10)))
    assert second.stored([0]) == {0: 10}
    with pytest.raises(MovedError):
        second.write(pending(20, clicks(5)))
    assert table(settings).num_rows == 10
    listed = set(lake.files(settings, "interactions"))
    assert {
        str(path) for path in Path(settings.lake_uri).rglob("*.parquet*") if "_delta_log" not in str(path)
    } == listed


def test_a_commit_that_lost_a_race_is_made_again_with_the_same_files(settings: Settings, monkeypatch) -> None:
    """Another partition's commit in between costs a try and no event, and repeats of it are still left out."""
    mine, other = writer(settings, 0, 1), writer(settings, 0, 1)
    write_files = mine._write_files

    def after_the_other(rows):
        monkeypatch.setattr(mine, "_write_files", write_files)
        adds = write_files(rows)
        other.write(pending(0, [{"interaction_id": "same"}, {"interaction_id": "b"}], partition=1))
        return adds

    monkeypatch.setattr(mine, "_write_files", after_the_other)
    written = mine.write(pending(0, [{"interaction_id": "a"}, {"interaction_id": "same"}]))
    assert (written.rows, written.repeats, written.conflicts) == (1, 1, 1)
    assert sorted(table(settings)["interaction_id"].to_pylist()) == ["a", "b", "same"]


def test_writers_compaction_and_repeats_at_once(settings: Settings) -> None:
    """Three processes write the same ids while a fourth compacts: each id is in the table once, no offset is lost."""
    writer(settings, 0, 1, 2)
    command = [sys.executable, __file__, str(settings.data)]
    writers = [subprocess.Popen([*command, str(partition)]) for partition in range(3)]
    while any(process.poll() is None for process in writers):
        compact(settings, INTERACTION_TABLE, NONE, everything=True)
    assert [process.returncode for process in writers] == [0, 0, 0]
    ids = table(settings)["interaction_id"].to_pylist()
    assert sorted(ids) == sorted(f"{number}-{i}" for number in range(12) for i in range(20))
    assert writer(settings).stored([0, 1, 2]) == dict.fromkeys(range(3), 240)


@pytest.mark.parametrize(
    ("hours", "kept"), [((0, 0.9), 1), ((0, 2.5), 2), ((2.5, 0), 2), ((0, 1.2, 2.4), 2), ((0.1, 1.1, 2.1, 3.1), 2)]
)
def test_a_repeat_counts_for_the_dedup_window_whatever_was_forgotten(settings: Settings, hours, kept: int) -> None:
    """An id is a repeat in its own and the neighbouring buckets, also for a writer that has just been started."""
    base = NOW // 3_600_000 * 3_600_000
    for offset, hour in enumerate(hours):
        received = base + int(hour * 3_600_000)
        writer(settings).write(pending(offset, [{"interaction_id": "x", "timestamp": base}], received=received))
    assert table(settings).num_rows == kept


def test_the_log_says_nothing_about_persons(settings: Settings) -> None:
    """No value of a personal or free-text column stands in the log, compactions and checkpoints included."""
    mine = writer(settings)
    secret = {
        "user_id": "alice-1",
        "session_id": "visit-1",
        "metadata": {"query": "rash", "x": "hidden"},
        "interaction_id": "i-1",
    }
    for number in range(4):
        mine.write(pending(number, [{**secret, "timestamp": NOW - DAY, "feature_id": f"doc{number}"}]))
    compact(settings, INTERACTION_TABLE, NONE, everything=True)
    log = Path(INTERACTION_TABLE.uri(settings)) / "_delta_log"
    text = b"".join(path.read_bytes() for path in log.glob("*.json"))
    checkpoints = [str(pq.read_table(path).to_pylist()).encode() for path in log.glob("*.parquet")]
    assert checkpoints
    for word in (b"alice", b"visit-1", b"rash", b"hidden", b"i-1"):
        assert not any(word in part for part in (text, *checkpoints))


def test_compaction_keeps_every_row_sorted_and_pruned(settings: Settings) -> None:
    """The same rows lie in fewer files, by person, with bounds and Bloom filters; readers of before go on reading."""
    mine = writer(settings)
    for number in range(6):
        mine.write(pending(number * 60, clicks(60)))
    before, reader = table(settings), lake.dataset(settings, "interactions")
    result = compact(settings, INTERACTION_TABLE, NONE)
    # The running day has too few files to be worth it, unless midnight has passed since its events were made.
    closed = 2 + (datetime.fromtimestamp(NOW / 1000, UTC).date() < datetime.now(UTC).date())
    assert (result.files_before, result.files_after, result.skipped) == (6 * closed, closed, 0)
    assert compact(settings, INTERACTION_TABLE, NONE).files_before == 0
    order = [("kafka_offset", "ascending")]
    assert table(settings).sort_by(order).equals(before.sort_by(order))
    assert reader.to_table().sort_by(order).equals(before.sort_by(order).select(reader.schema.names))
    for path in lake.files(settings, "interactions", until=(datetime.now(UTC) - timedelta(days=1)).date()):
        file = pq.ParquetFile(path)
        users = file.read(["user_id"])["user_id"].to_pylist()
        assert users == sorted(users)
        group = file.metadata.row_group(0)
        chunks = [group.column(index) for index in range(group.num_columns)]
        blooms = {chunk.path_in_schema for chunk in chunks if chunk.bloom_filter_offset is not None}
        assert blooms == {"user_id", "feature_id", "interaction_id"}
    assert mine.stored([0]) == {0: 360}


def test_vacuum_takes_only_what_is_old_and_dead(settings: Settings) -> None:
    """Live files stay whatever their age; replaced and abandoned ones go when the grace is over, not before."""
    mine = writer(settings)
    for number in range(6):
        mine.write(pending(number * 60, clicks(60)))
    before = table(settings).sort_by("kafka_offset")
    compact(settings, INTERACTION_TABLE, NONE, everything=True)
    folder = Path(INTERACTION_TABLE.uri(settings))
    day = next(folder.glob("event_date=*"))
    for name in ("sink-abandoned.zstd.parquet", "sink-half.zstd.parquet#1"):
        (day / name).write_bytes(b"half")
    assert vacuum(settings, INTERACTION_TABLE, NONE) == []
    then = time.time() - 100 * 3600
    for path in folder.glob("event_date=*/*"):
        os.utime(path, (then, then))
    assert len(vacuum(settings, INTERACTION_TABLE, NONE, dry_run=True)) > 0
    gone = vacuum(settings, INTERACTION_TABLE, NONE)
    assert any("abandoned" in path for path in gone)
    assert any("#" in path for path in gone)
    assert table(settings).sort_by("kafka_offset").equals(before)
    live = {Path(path) for path in lake.files(settings, "interactions")}
    replaced = {path for path in folder.glob("event_date=*/*") if path not in live}
    # Replaced files are kept by the time of their replacement, which was now.
    assert all("abandoned" not in str(path) and "#" not in str(path) for path in replaced)


def test_a_compaction_whose_files_are_gone_is_dropped(settings: Settings, monkeypatch) -> None:
    """Two compactions of the same files leave the rows once."""
    mine = writer(settings)
    for number in range(4):
        mine.write(pending(number * 60, clicks(60, timestamp=NOW - DAY)))
    write = compaction.files.write

    def after_the_other(*args, **kwargs):
        monkeypatch.setattr(compaction.files, "write", write)
        made = write(*args, **kwargs)
        compact(settings, INTERACTION_TABLE, NONE)
        return made

    monkeypatch.setattr(compaction.files, "write", after_the_other)
    assert compact(settings, INTERACTION_TABLE, NONE).skipped == 1
    assert table(settings).num_rows == 240
    assert len(live_files(open_table(settings, INTERACTION_TABLE))) == 1


def test_a_group_that_was_replaced_meanwhile_is_not_replaced_again(settings: Settings) -> None:
    """A merge adds nothing for files that are gone, also when its view of the table has moved on to where they are."""
    mine = writer(settings)
    for number in range(4):
        mine.write(pending(number * 60, clicks(60, timestamp=NOW - DAY)))
    delta = open_table(settings, INTERACTION_TABLE)
    group = live_files(delta)
    rows = compaction.files.read(delta, [file.path for file in group])
    merged = compaction.files.write(delta, INTERACTION_TABLE, group[0].day, rows, prefix="late", data_change=False)
    compact(settings, INTERACTION_TABLE, NONE)
    # As after this compaction's commit of another date.
    delta.update_incremental()
    assert not compaction.replace_files(delta, group, [merged], data_change=False)
    assert table(settings).num_rows == 240
    assert not list(Path(settings.lake_uri).rglob("late-*"))


def test_late_rows_make_one_file_for_each_date(settings: Settings) -> None:
    """However many dates a flush holds, each gets one file."""
    events = [{"timestamp": NOW - i % 40 * DAY} for i in range(400)]
    written = writer(settings).write(pending(0, events))
    assert written.files == len(live_files(open_table(settings, INTERACTION_TABLE))) == 40


def test_a_new_column_disturbs_neither_old_writers_nor_old_files(settings: Settings) -> None:
    """A table that has got a column is written by a version that does not know it, and compacted without losing it."""
    mine = writer(settings)
    mine.write(pending(0, clicks(30, timestamp=NOW - DAY)))
    open_table(settings, INTERACTION_TABLE).alter.add_columns(Field("later", PrimitiveType("string")))
    mine.write(pending(30, clicks(30, timestamp=NOW - DAY)))
    compact(settings, INTERACTION_TABLE, NONE, everything=True)
    rows = table(settings)
    assert rows.num_rows == 60
    assert rows["later"].null_count == 60


def test_a_storage_that_goes_away_behind_an_open_table_is_said_so(settings: Settings) -> None:
    """Whoever waits for the lake waits on, where another error would end the process."""
    create_table(settings, INTERACTION_TABLE)
    delta = open_table(settings, INTERACTION_TABLE)
    shutil.rmtree(INTERACTION_TABLE.uri(settings))
    with pytest.raises(LakeError, match="cannot be used"):
        offsets_of(settings, delta, "topic", 1)


def test_a_topic_that_was_created_anew_is_refused(settings: Settings) -> None:
    """The offsets of another topic mean nothing, so nothing is written until somebody says so."""
    writer(settings)
    with pytest.raises(TopicRecreatedError):
        TableWriter(settings, INTERACTION_TABLE, "another", NONE)


def test_the_three_ways_to_read_agree(settings: Settings) -> None:
    """DuckDB, Polars and Arrow give the same rows of the same days."""
    mine = writer(settings)
    mine.write(pending(0, clicks(90)))
    day = (datetime.fromtimestamp(NOW / 1000, UTC) - timedelta(days=1)).date()
    for since, until, rows in ((None, None, 90), (day, None, 60), (None, day, 60), (day, day, 30)):
        assert lake.dataset(settings, "interactions", since=since, until=until).count_rows() == rows
        assert lake.scan(settings, "interactions", since=since, until=until).select(pl.len()).collect().item() == rows
        assert lake.relation(settings, "interactions", since=since, until=until).shape[0] == rows
        files = lake.files(settings, "interactions", since=since, until=until)
        assert sum(pq.ParquetFile(path).metadata.num_rows for path in files) == rows
    with pytest.raises(UsageError):
        lake.dataset(settings, "nothing")
    with pytest.raises(LakeError):
        lake.dataset(settings, "searches")


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from glob('/*')",
        "copy interactions to '{path}'",
        "attach '{path}'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access=true",
        "set memory_limit='1TB'",
        "select * from settings",
        "export database '{path}'",
        "copy (select 1) to '{live}' (use_tmp_file false)",
        "select 1; copy (select 1) to '{live}' (use_tmp_file false)",
        "explain analyze copy (select 1) to '{live}' (use_tmp_file false)",
        "select * from getenv('HOME')",
        "",
        "drop view interactions; copy (select 1) to '{path}'",
    ],
)
def test_a_query_reaches_nothing_but_the_tables(settings: Settings, tmp_path: Path, query: str) -> None:
    """Files, network, extensions, settings and Python's variables are out of a query's reach."""
    writer(settings).write(pending(0, clicks(3)))
    path = tmp_path / "leak"
    before = {path: path.read_bytes() for path in Path(settings.lake_uri).rglob("*") if path.is_file()}
    with lake.connect(settings) as connection:
        live = lake.files(settings, "interactions")[0]
        with pytest.raises(UsageError):
            lake.query(connection, query.format(path=path, live=live))
        assert lake.query(connection, "with one as (select 1 as x) select x from one").to_pylist() == [{"x": 1}]
    assert {path: path.read_bytes() for path in Path(settings.lake_uri).rglob("*") if path.is_file()} == before
    assert not path.exists()


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_an_export_gives_the_same_bytes_before_and_after_compaction(settings: Settings, tmp_path: Path, form) -> None:
    """What is exported depends on the rows alone; the manifest names each file's hash, rows and offsets."""
    mine = writer(settings)
    for number in range(5):
        mine.write(pending(number * 60, clicks(60)))
    day = (datetime.fromtimestamp(NOW / 1000, UTC) - timedelta(days=1)).date()
    first = export(settings, "interactions", tmp_path / "a", form=form, since=day)
    compact(settings, INTERACTION_TABLE, NONE, everything=True)
    second = export(settings, "interactions", tmp_path / "b", form=form, since=day)
    assert first == second
    assert [one.day for one in first] == [day.isoformat(), (day + timedelta(days=1)).isoformat()]
    assert sum(one.rows for one in first) == 200
    assert first[1].offsets == {"topic/0": (0, 297)}
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with pytest.raises(InputError):
        export(settings, "interactions", tmp_path / "a")


def test_csv_holds_no_formulas(settings: Settings, tmp_path: Path) -> None:
    """Text that a spreadsheet would run begins with an apostrophe."""
    events = [{"user_id": text} for text in ("=1+1", "+1", "-1", "@x", "\tx", "=x", "plain", "a=b")]
    writer(settings).write(pending(0, events))
    (file,) = export(settings, "interactions", tmp_path / "out", form="csv", columns=["user_id"])
    text = (tmp_path / "out" / file.file).read_text()
    assert text.count("\"'") == 6
    assert '"plain"' in text
    with pytest.raises(UsageError, match="no column"):
        export(settings, "interactions", tmp_path / "other", columns=["nope"])


def test_a_second_page_of_a_search_is_no_repeat(settings: Settings) -> None:
    """Searches are repeated if id and results are the same."""
    columns, mine = SearchColumns(), TableWriter(settings, SEARCH_TABLE, "topic", NONE)
    mine.begin({0: 0})
    shown = [["a", "b"], ["a", "b"], ["c"], ["a", "b"]]
    values = [json.dumps({"execution_id": "e", "results": each}).encode() for each in shown]
    batch = columns.decoder.decode([LogRecord(0, i, NOW, value) for i, value in enumerate(values)])
    rows = [columns.of(batch, "topic", NOW)]
    assert mine.write(Pending(rows, [columns.ids(batch.rows)], {0: 0}, {0: 4})).repeats == 2
    assert lake.dataset(settings, "searches").count_rows() == 2


def test_a_reader_never_sees_half_a_commit(settings: Settings) -> None:
    """While flushes of many dates and compactions go on, every look sees whole flushes only."""
    mine, stopped, seen = writer(settings), threading.Event(), []

    def look() -> None:
        while not stopped.is_set():
            files = lake.files(settings, "interactions")
            seen.append(sum(pq.ParquetFile(path).metadata.num_rows for path in files))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(10):
        mine.write(pending(number * 30, clicks(30)))
        if number % 3 == 2:
            compact(settings, INTERACTION_TABLE, NONE, everything=True)
    stopped.set()
    reader.join()
    assert seen
    assert all(rows % 30 == 0 for rows in seen)
    assert seen == sorted(seen)
    assert DeltaTable(INTERACTION_TABLE.uri(settings)).count() == 300


if __name__ == "__main__":
    # One of the processes of `test_writers_compaction_and_repeats_at_once`.
    folder, mine = Path(sys.argv[1]), int(sys.argv[2])
    theirs = writer(Settings.load(folder), mine)
    for run in range(12):
        theirs.write(pending(run * 20, [{"interaction_id": f"{run}-{i}"} for i in range(20)], partition=mine))
