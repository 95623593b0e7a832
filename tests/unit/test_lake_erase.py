"""Rows of an erased person: hidden from every way to read, rewritten away, gone from the disk; others stay."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from deltalake import DeltaTable

from clickwell.analytics import lake
from clickwell.analytics.export import export
from clickwell.failpoints import Failpoints
from clickwell.schemas.controls import Subject
from clickwell.schemas.erased import Subjects
from clickwell.schemas.marks import Keys
from clickwell.settings import Settings
from clickwell.sinks import erase
from clickwell.sinks.compact import compact
from clickwell.sinks.load import Loader
from clickwell.sinks.table import INTERACTION_TABLE
from clickwell.testing import event

KEYS = Keys({"k1": b"0123456789abcdef"})
AT = 1_762_000_000_000
BOB = "bob o'neill"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A lake of four files with three events of Bob's and five of Alice's, one of Bob's after his request."""
    found = Settings.load(tmp_path)
    times = {BOB: (AT - 5, AT - 90_000_000, AT + 5), "alice": (AT - 9, AT - 8, AT - 90_000_000, AT + 1, AT + 2)}
    for part in range(2):
        loader = Loader(found, f"part-{part}")
        for user, stamps in times.items():
            for number, at in enumerate(stamps):
                if number % 2 == part:
                    value = event(f"d{number}", user_id=user, timestamp=at, interaction_id=f"{user}{number}")
                    loader.send(SimpleNamespace(kind="interaction", value=value))
        loader.flush()
    return found


def subjects():
    found = Subjects(lambda: KEYS)
    found.add([Subject("e1", "user_id", "k1", (KEYS.mark("user_id", BOB),), AT)])
    return found


def rows(settings):
    return sorted(lake.scan(settings, "interactions").select("user_id", "timestamp").collect().rows())


def test_rows_that_have_to_be_known_are_found(settings):
    """Those that meet any of the conditions, whole, each with the erasure that takes it; files without any are left."""
    wanted = [{"interaction_id": {"alice0"}}, {"user_id": {BOB, "alice"}, "feature_id": {"d2"}}, {"user_id": set()}]
    found = {
        (row["interaction_id"], erasure)
        for some, erasures in erase.related(settings, INTERACTION_TABLE, subjects(), wanted, ["interaction_id"])
        for row, erasure in zip(some.to_pylist(), erasures, strict=True)
    }
    assert found == {("alice0", ""), ("alice2", ""), (f"{BOB}2", "")}
    assert list(erase.related(settings, INTERACTION_TABLE, subjects(), [{"user_id": {"nobody"}}], [])) == []
    wanted = [{"interaction_id": {f"{BOB}0"}}]
    ((_, erasures),) = erase.related(settings, INTERACTION_TABLE, subjects(), wanted, ["interaction_id"])
    assert erasures == ["e1"]


def test_a_hidden_person_is_in_no_answer(settings, tmp_path):
    """Polars, Arrow, DuckDB and exports leave the person out while the files are being rewritten, and nobody else."""
    hidden = {"kind": "user_id", "value": BOB, "since": None, "until": None}
    erase.hide(settings, INTERACTION_TABLE, [hidden, {"kind": "results", "value": "x", "since": 1, "until": 2}])
    assert {user for user, _ in rows(settings)} == {"alice"}
    assert lake.dataset(settings, "interactions").to_table().num_rows == 5
    counted = lake.connect(settings).execute("select count(*), count(distinct user_id) from interactions").fetchall()
    assert counted == [(5, 1)]
    export(settings, "interactions", tmp_path / "out", form="jsonl")
    lines = [json.loads(line) for file in (tmp_path / "out").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) == 5
    erase.hide(settings, INTERACTION_TABLE, [hidden | {"since": AT - 6, "until": AT}])
    assert len(rows(settings)) == 7
    erase.hide(settings, INTERACTION_TABLE, [])
    assert len(rows(settings)) == 8


def test_rewriting_takes_the_rows_and_leaves_no_trace(settings):
    """What is covered by the erasure goes, whoever compacts before; the log names nobody; old files go when told."""
    before = rows(settings)
    compact(settings, INTERACTION_TABLE, Failpoints(), everything=True)
    assert {name for name, _ in erase.find(settings, INTERACTION_TABLE, subjects())} == {"e1"}
    done = erase.rewrite(settings, INTERACTION_TABLE, subjects(), Failpoints())
    assert done.rows == {"e1": 2}
    left = rows(settings)
    assert len(left) == len(before) - 2
    assert [row for row in left if row[0] == "alice"] == [row for row in before if row[0] == "alice"]
    delta = DeltaTable(INTERACTION_TABLE.uri(settings))
    assert erase.traces(delta, subjects()) == done.files
    assert set(erase.remove(settings, INTERACTION_TABLE, done.files)) == set(done.files)
    assert erase.traces(delta, subjects()) == []
    assert rows(settings) == left
    log = "".join(path.read_text() for path in Path(INTERACTION_TABLE.uri(settings)).rglob("_delta_log/*.json"))
    assert "bob" not in log
    # Again: nothing is left to do.
    assert erase.rewrite(settings, INTERACTION_TABLE, subjects(), Failpoints()).rewritten == 0
