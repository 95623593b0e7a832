"""Backfill into a lake in a folder: restarted, repeated, beside rows that came through Kafka. No servers."""

import gzip
import json
import random
import time
from pathlib import Path

import pytest

from clickwell.analytics import lake
from clickwell.errors import LakeError
from clickwell.producers.records import interaction_record, search_record
from clickwell.settings import Settings, SinkSettings
from clickwell.sinks.load import Loader

BASE, NOW = 1_700_000_000_000, 1_760_000_000_000


def events(count: int, seed: int = 1):
    """Interactions of thirty days in any order, a few of them twice, and searches."""
    rng = random.Random(seed)
    for number in range(count):
        own = {"feature_id": f"d{number % 9}", "interaction_type": ["click"], "interaction_id": f"i{number}"}
        own |= {"timestamp": BASE + rng.randrange(30 * 86_400_000), "user_id": f"u{number % 5}", "extra": [number]}
        yield interaction_record(own, NOW)
        if number % 10 == 0:
            yield interaction_record(own, NOW)
            yield search_record({"execution_id": f"e{number}", "timestamp": BASE + number, "results": ["d1"]}, NOW)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty lake with small commits."""
    return Settings.load(tmp_path, sink=SinkSettings(flush_rows=70))


def test_a_load_that_broke_off_goes_on(settings: Settings) -> None:
    """Whenever a load stops, running it again adds what is missing and nothing else."""
    for stop in (1, 100, 250, 333, None):
        loader = Loader(settings, "history")
        for number, event in enumerate(events(400)):
            if number == stop:
                break
            loader.send(event)
        if stop is None:
            loader.flush()
    assert loader.stats["interaction"].acked == 440
    rows = lake.dataset(settings, "interactions").to_table().to_pylist()
    assert sorted(row["interaction_id"] for row in rows) == sorted(f"i{number}" for number in range(400))
    assert lake.dataset(settings, "searches").count_rows() == 40
    for row in rows:
        assert row["received_at"] == row["timestamp"]
        assert row["kafka_offset"] is row["kafka_partition"] is row["kafka_topic_id"] is None
        assert json.loads(row["metadata_json"]) == {"extra": [int(row["interaction_id"][1:])]}
        assert row["source"] == "load"


def test_another_load_with_the_same_events_adds_nothing(settings: Settings) -> None:
    """Repeats are found by their own time, whatever the load is called."""
    for name in ("a", "b"):
        loader = Loader(settings, name)
        for event in events(200):
            loader.send(event)
        loader.flush()
    assert loader.stats["interaction"].repeats == 220
    assert lake.dataset(settings, "interactions").count_rows() == 200


def test_the_same_load_twice_at_once_is_refused(settings: Settings) -> None:
    """Of two processes that run one load the second is told so."""
    first, second = Loader(settings, "one"), Loader(settings, "one")
    for event in events(30):
        first.send(event)
        second.send(event)
    first.flush()
    with pytest.raises(LakeError, match="elsewhere"):
        second.flush()
    assert lake.dataset(settings, "interactions").count_rows() == 30


def test_the_command_loads_and_names_bad_lines(tmp_path: Path, clickwell) -> None:
    """`lake load` reads gzip, says what it left out, and its second run finds everything there."""
    file = tmp_path / "history.jsonl.gz"
    lines = [event.value for event in events(50)] + [b"{}", b"no json"]
    file.write_bytes(gzip.compress(b"\n".join(lines)))
    first = clickwell("lake", "load", file, "--data", tmp_path / "data", "--json")
    assert first.returncode == 5, first.stderr
    assert json.loads(first.stdout)["loaded"]["interaction"] == {"accepted": 55, "acked": 55, "before": 0, "repeats": 5}
    assert "2 lines rejected" in first.stderr
    again = clickwell("lake", "load", file, "--data", tmp_path / "data", "--json")
    assert json.loads(again.stdout)["loaded"]["interaction"]["before"] == 55
    counted = clickwell("lake", "sql", "select count(*) n from interactions", "--data", tmp_path / "data", "--json")
    assert json.loads(counted.stdout) == {"rows": [{"n": 50}]}
    assert clickwell("lake", "sql", "select", "--data", tmp_path / "data").returncode == 2
    assert clickwell("lake", "files", "--table", "none", "--data", tmp_path / "data").returncode == 2
    assert clickwell("lake", "files", "--since", "yesterday", "--data", tmp_path / "data").returncode == 2
    assert clickwell("lake", "files", "--data", tmp_path / "empty").returncode == 4


def test_a_log_without_dates_ends_now(tmp_path: Path, clickwell) -> None:
    """A session log that only knows times of its own is shifted so that its last event is now, and told by how much."""
    lines = [
        {"search_id": f"x{t_ms}", "query_id": "1", "docs": ["a", "b"], "clicks": [{"doc": "b", "pos": 1}], "t_ms": t_ms}
        for t_ms in (0, 60_000)
    ]
    file = tmp_path / "sessions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before_ms = time.time_ns() // 1_000_000
    loaded = clickwell("lake", "load", file, "--format", "sessions", "--data", tmp_path / "data", "--json")
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout)["shift_ms"] >= before_ms - 120_000
    sql = "select epoch_ms(max(timestamp)) as last, epoch_ms(min(timestamp)) as first from searches"
    found = json.loads(clickwell("lake", "sql", sql, "--data", tmp_path / "data", "--json").stdout)["rows"][0]
    assert found["last"] - found["first"] == 60_000
    assert abs(found["last"] - before_ms) < 60_000
