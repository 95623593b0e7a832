"""Real search logs through the whole product by its command line, equal to an independent recount of the files."""

import gzip
import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime

import pytest

SLOT_MS = 6 * 3_600_000
WINDOW_SLOTS = 28


def recount(path, shift_ms, long_view_ms=30_000):
    """Count a session log without any of the product's code: {(document, signal, slot start): count}."""
    counts = Counter()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            search = json.loads(line)
            if "ts" in search:
                moment = datetime.fromisoformat(search["ts"]).astimezone(UTC)
                searched = round(moment.timestamp() * 1000)
            else:
                searched = search.get("t_ms", number * 1000)
            for index, click in enumerate(search["clicks"]):
                at = searched + click.get("dt_ms", index + 1) + shift_ms
                signals = ["click"]
                if click.get("duration_ms", 0) >= long_view_ms:
                    signals.append("long_view")
                if click.get("purchase"):
                    signals.append("purchase")
                for signal in signals:
                    counts[click["doc"], signal, at // SLOT_MS * SLOT_MS] += 1
    return counts


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A whole stack as `clickwell up` starts it, and a function that runs the command line against it."""
    data = tmp_path_factory.mktemp("stack")
    env = {k: v for k, v in os.environ.items() if not k.startswith("CLICKWELL_")}

    def run(*arguments):
        command = [sys.executable, "-m", "clickwell", *arguments, "--data", str(data)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("up", "--detach", "--workers", "2")
    yield run
    run("down")


@pytest.mark.broker
@pytest.mark.data
def test_every_count_of_real_logs_equals_a_recount(stack, shared_data):
    """All of two session logs give for every document, signal and slot what the files say."""
    files = [
        (shared_data / "msrd" / "searches_sim_weak.jsonl.gz", "movies"),
        (shared_data / "yandex20" / "searches.jsonl.gz", "web"),
    ]
    expected = Counter()
    for path, retriever in files:
        options = ["--format", "sessions", "--retriever", retriever, "--rebase-time", "--wait", "--json"]
        summary = json.loads(stack("publish", str(path), *options).splitlines()[-1])
        assert summary["rejected"] == 0
        assert summary["acked"] == summary["sent"]
        assert summary["waited"] is True
        expected += recount(path, summary["shift_ms"])

    found = Counter()
    for line in stack("counts", "--jsonl").splitlines():
        row = json.loads(line)
        found[row["feature_id"], row["signal"], row["slot_start"]] += row["count"]
    oldest = (time.time_ns() // 1_000_000 // SLOT_MS - WINDOW_SLOTS) * SLOT_MS
    in_window = Counter({key: count for key, count in expected.items() if key[2] >= oldest})
    assert sum(in_window.values()) > 10_000
    differences = {key: (in_window[key], found[key]) for key in {*in_window, *found} if in_window[key] != found[key]}
    assert differences == {}
    audited = json.loads(stack("audit", "--json"))
    assert audited["differences"] == []
    assert audited["total"] == sum(found.values())


@pytest.mark.broker
def test_history_that_shall_count_goes_through_kafka(stack, tmp_path):
    """`lake load --publish` brings an event into the counters and, once, into the lake."""
    event = {"feature_id": "from-history", "interaction_type": ["click"], "interaction_id": "h1"}
    (tmp_path / "history.jsonl").write_text(json.dumps(event))
    for _ in range(2):
        summary = json.loads(stack("lake", "load", str(tmp_path / "history.jsonl"), "--publish", "--json"))
        assert summary["waited"] is True
    counted = [json.loads(line) for line in stack("counts", "--jsonl").splitlines()]
    assert [row["count"] for row in counted if row["feature_id"] == "from-history"] == [1]
    sql = "select count(*) as rows from interactions where feature_id = 'from-history'"
    assert json.loads(stack("lake", "sql", sql, "--json"))["rows"] == [{"rows": 1}]
