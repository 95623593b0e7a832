"""Real search logs through the whole product by its command line, equal to an independent recount of the files."""

import gzip
import json
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime

import pytest

from clickwell import InteractionReader
from clickwell.settings import Settings
from tests.processes import commands_on

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


WIDTHS = {"hour": 3_600_000, "day": 86_400_000}


def recount_windows(path, retriever, shift_ms):
    """Count what a session log shows: {(retriever, width, start, by, key): exposures, clicks, skips, conversions}."""
    windows = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            search = json.loads(line)
            if "ts" in search:
                at = round(datetime.fromisoformat(search["ts"]).astimezone(UTC).timestamp() * 1000)
            else:
                at = search.get("t_ms", number * 1000)
            at += shift_ms
            clicks = {(click["pos"], click["doc"]) for click in search["clicks"]}
            bought = {(click["pos"], click["doc"]) for click in search["clicks"] if click.get("purchase")}
            clicked, deepest = {doc for _, doc in clicks}, max((position for position, _ in clicks), default=-1)
            query = search.get("query") or str(search["query_id"])
            for place in set(enumerate(search["docs"])) | clicks:
                position, doc = place
                skipped = doc not in clicked and position < deepest
                counts = (1, place in clicks, skipped, place in bought)
                for width, size in WIDTHS.items():
                    for by, key in (("position", position), ("query", query), ("document", doc)):
                        row = windows.setdefault((retriever, width, at // size * size, by, key), [0, 0, 0, 0])
                        for n, count in enumerate(counts):
                            row[n] += count
    return windows


def users(path, shift_ms):
    """What each user did, without any of the product's code: user -> signal -> document -> newest time."""
    found = defaultdict(lambda: defaultdict(dict))
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for search in map(json.loads, lines):
            searched = round(datetime.fromisoformat(search["ts"]).timestamp() * 1000) + shift_ms
            for click in search["clicks"]:
                at, document = searched + click["dt_ms"], click["doc"]
                for signal, happened in (("click", True), ("purchase", click["purchase"])):
                    if happened:
                        times = found[search["user_id"]][signal]
                        times[document] = max(at, times.get(document, 0))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of the stack."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def stack(data):
    """A whole stack as `clickwell up` starts it, and a function that runs the command line against it."""
    run = commands_on(data)
    run("up", "--detach", "--workers", "2")
    yield run
    run("down")


def assert_windows(printed, windows):
    """Each window that is kept, by position, query and document, has the counts of the files."""
    now_ms, found = time.time_ns() // 1_000_000, {}
    for line in printed.splitlines():
        row = json.loads(line)
        name = row["retriever_id"], row["width"], row["window_start"], row["by"], row["key"]
        found[name] = [row["exposures"], row["clicks"], row["skips"], row["conversions"]]
        assert row["clicks"] <= row["exposures"], row
    oldest = {
        "hour": (now_ms // WIDTHS["day"] - 7) * WIDTHS["day"],
        "day": (now_ms // WIDTHS["day"] - 90) * WIDTHS["day"],
    }
    kept = {name: counts for name, counts in windows.items() if name[2] >= oldest[name[1]]}
    assert len(kept) > 100_000
    wrong = {name: (kept.get(name), found.get(name)) for name in {*kept, *found} if kept.get(name) != found.get(name)}
    assert not wrong, f"{len(wrong)} of {len(kept)} differ: {sorted(wrong.items(), key=str)[:5]}"


@pytest.fixture(scope="module")
def published(stack, shared_data):
    """Three session logs, published and applied: each file with its retriever and the shift of its times."""
    files = [
        (shared_data / "msrd" / "searches_sim_weak.jsonl.gz", "movies"),
        (shared_data / "yandex20" / "searches.jsonl.gz", "web"),
        (shared_data / "clara2" / "searches.jsonl.gz", "naver"),
    ]
    logs = {}
    for path, retriever in files:
        options = ["--format", "sessions", "--retriever", retriever, "--rebase-time", "--wait", "--json"]
        summary = json.loads(stack("publish", str(path), *options).splitlines()[-1])
        assert summary["rejected"] == 0
        assert summary["acked"] == summary["sent"]
        assert summary["waited"] is True
        logs[path] = retriever, summary["shift_ms"]
    return logs


@pytest.mark.broker
@pytest.mark.data
def test_every_count_of_real_logs_equals_a_recount(stack, published):
    """All of three session logs give for every document, signal, slot and window what the files say."""
    expected = sum((recount(path, shift_ms) for path, (_, shift_ms) in published.items()), Counter())
    found = Counter()
    for line in stack("counts", "--jsonl").splitlines():
        row = json.loads(line)
        found[row["feature_id"], row["signal"], row["slot_start"]] += row["count"]
    oldest = (time.time_ns() // 1_000_000 // SLOT_MS - WINDOW_SLOTS) * SLOT_MS
    in_window = Counter({key: count for key, count in expected.items() if key[2] >= oldest})
    assert sum(in_window.values()) > 10_000
    differences = {key: (in_window[key], found[key]) for key in {*in_window, *found} if in_window[key] != found[key]}
    assert differences == {}
    windows = {}
    for path, (retriever, shift_ms) in published.items():
        windows |= recount_windows(path, retriever, shift_ms)
    assert_windows(stack("windows", "--jsonl"), windows)
    audited = json.loads(stack("audit", "--json"))
    assert audited["differences"] == []
    assert audited["total"] == sum(found.values())


@pytest.mark.broker
@pytest.mark.data
def test_every_exclusion_list_equals_a_recount(stack, published, data):
    """For every user of a log: the exclusion is what was bought, and each click is known with its newest time."""
    path, (_, shift_ms) = next(iter(published.items()))
    expected = users(path, shift_ms)
    assert len(expected) > 4000
    wrong = []
    with InteractionReader(Settings.load(data, boosts={"timeout": 5})) as reader:
        for user, signals in expected.items():
            excluded = reader.exclusion(user).filter["document_id"]["$nin"]
            clicked = {item.feature_id: item.timestamp for item in reader.list(user, ["click"])}
            if sorted(excluded) != sorted(signals["purchase"]) or clicked != signals["click"]:
                wrong.append(user)
    assert wrong == []
    buyer = next(user for user, signals in expected.items() if len(signals["purchase"]) > 1)
    printed = json.loads(stack("exclude", buyer, "--json"))["document_id"]["$nin"]
    assert sorted(printed) == sorted(expected[buyer]["purchase"])


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
