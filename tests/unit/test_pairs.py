"""Judged pairs, who counts, parts and their leak checks, and what the commands print. No servers."""

import json
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickwell.analytics import get_query_document_pairs
from clickwell.analytics.click_models import interval, posterior, query_prior
from clickwell.analytics.impressions import join
from clickwell.analytics.pairs import Tuple, days_of, tuples_of
from clickwell.analytics.propensities import propensities
from clickwell.analytics.splits import Shares, check_pairs, check_tuples, cut_of, split
from clickwell.analytics.traffic import leave_out
from clickwell.analytics.training_export import Options, export_pairs, read_texts
from clickwell.errors import InputError, LeakError, UsageError
from clickwell.producers.records import interaction_record, search_record
from clickwell.settings import Settings
from clickwell.sinks.load import Loader

BASE, NOW = int(datetime(2025, 3, 1, tzinfo=UTC).timestamp() * 1000), 1_760_000_000_000
MINUTE, DAY = 60_000, 86_400_000
GOOD, BAD = "good", "bad"


def write(folder: Path, searches, retriever="shop") -> Settings:
    """A lake of searches: (time, user, query, results, {document: (types, duration)})."""
    settings = Settings.load(folder)
    loader = Loader(settings, retriever)
    for number, (time, user, query, results, reactions) in enumerate(searches):
        about = {"execution_id": f"{retriever}-{number}", "user_id": user, "retriever_id": retriever}
        loader.send(search_record(about | {"timestamp": time, "query": query, "results": results}, NOW))
        for document, (types, duration) in reactions.items():
            event = {"interaction_id": f"{number}-{document}", "feature_id": document, "interaction_type": types}
            said = {"metadata": {"duration_ms": duration}} if duration else {}
            loader.send(interaction_record(about | event | said | {"timestamp": time + 1000}, NOW))
    loader.flush()
    return settings


def shop_log(searches=3000, seed=1):
    """Two rankers that disagree over eight documents of forty queries; the even documents are liked."""
    rng = random.Random(seed)
    orders = {(q, r): rng.sample([f"d{q}-{n}" for n in range(8)], 8) for q in range(40) for r in range(2)}
    for number in range(searches):
        query = rng.randrange(40)
        results = orders[query, rng.randrange(2)]
        reactions = {}
        for place, document in enumerate(results):
            liked = 0.6 if int(document.split("-")[1]) % 2 == 0 else 0.05
            if rng.random() < liked / (place + 1):
                reactions[document] = (["click"], 60_000 if liked > 0.5 else 3000)
        yield BASE + number * 10 * MINUTE, f"u{rng.randrange(800)}", f"Query {query}", results, reactions


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Settings of a lake of the two rankers' log."""
    return write(tmp_path_factory.mktemp("shop"), shop_log())


def is_liked(document):
    """What the log was drawn with."""
    return int(document.split("-")[1]) % 2 == 0


def test_liked_documents_are_positives_and_the_others_hard_negatives(shop):
    """Labels follow what people like, each pair once, with its whole evidence."""
    found = get_query_document_pairs(shop, retriever="shop", date_range="all")
    rows = found.table.to_pylist()
    positives = [row for row in rows if row["label"] == "positive"]
    negatives = [row for row in rows if row["label"] == "hard_negative"]
    assert len(positives) > 100
    assert len(negatives) > 100
    assert np.mean([is_liked(row["feature_id"]) for row in positives]) > 0.95
    assert np.mean([is_liked(row["feature_id"]) for row in negatives]) < 0.05
    for row in rows:
        assert row["low"] <= row["estimate"] <= row["high"]
        assert row["weight"] == pytest.approx(min(1 / row["propensity"], 10))
        assert row["propensity"] == pytest.approx(row["exposure"] / row["impressions"])
        assert row["first_at"] <= row["last_at"]
    assert found.count("positive") == len(positives)
    fewer = get_query_document_pairs(shop, date_range="all", min_interactions=30)
    asked = [row["feature_id"] for row in positives if row["interactions"] >= 30]
    assert 0 < fewer.count("positive") == len(asked) < len(positives)


def test_tuples_have_all_their_negatives_and_none_that_was_liked(shop):
    """Hard ones come first, and the drawn ones were never shown for the query."""
    found = get_query_document_pairs(shop, date_range="all")
    tuples = list(found.tuples(negatives=6))
    assert len(tuples) == found.count("positive")
    check_tuples(tuples)
    for one in tuples:
        assert len(one.negative_ids) == 6
        assert set(one.negative_ids[: one.hard]) <= found.shown[one.query_key]
        assert found.shown[one.query_key].isdisjoint(one.negative_ids[one.hard :])
    assert tuples == list(found.tuples(negatives=6))
    assert list(found) == list(found.tuples(negatives=4))


def test_positives_take_turns_through_the_hard_negatives():
    """A query's second positive gets other hard negatives than its first."""
    rows = [{"feature_id": f"p{n}", "label": "positive", "best_position": 0} for n in range(2)]
    rows += [{"feature_id": f"n{n}", "label": "hard_negative", "best_position": n} for n in range(5)]
    about = {"query_key": "q", "query": "Q", "strength": 1.0, "propensity": 1.0, "weight": 1.0}
    table = pa.Table.from_pylist([row | about for row in rows])
    shown = {"q": {row["feature_id"] for row in rows}}
    assert [one.negative_ids for one in tuples_of(table, shown, 3, 1)] == [["n0", "n1", "n2"], ["n3", "n4", "n0"]]


def test_a_complaint_outweighs_a_rank_and_a_click_needs_company(tmp_path):
    """negative_feedback makes a hard negative of what is ranked high; one lonely click makes no positive."""
    results = ["a", "b", "c", "d"]
    searches = [(BASE + n * MINUTE, f"u{n}", "q", results, {"b": (["click"], 40_000)}) for n in range(6)]
    searches += [(BASE + DAY, "u9", "q", results, {"a": (["click"], 0), "c": (["negative_feedback"], 0)})]
    table = get_query_document_pairs(write(tmp_path, searches), date_range="all").table
    labels = {row["feature_id"]: row["label"] for row in table.to_pylist()}
    assert labels["b"] == "positive"
    assert labels["c"] == "hard_negative"
    assert labels.get("a") != "positive"


def test_robots_bursts_and_heavy_users_are_left_out(tmp_path):
    """Each reason takes its own searches, and a person repeats a query three times at most."""
    results = [f"d{n}" for n in range(10)]
    everything = {document: (["click"], 0) for document in results}
    searches = [(BASE + n * DAY, f"human{n}", "q", results, {}) for n in range(5)]
    searches += [(BASE + n * 1000, "robot", f"q{n}", results, {}) for n in range(40)]
    searches += [(BASE + n * DAY, "clicker", f"q{n}", results, everything) for n in range(12)]
    searches += [(BASE + n * DAY, "fan", "q", results, {}) for n in range(8)]
    searches += [(BASE, "human1", " ", results, {}), (BASE, None, "", results, {})]
    joined = join(write(tmp_path, searches))
    left = leave_out(joined)
    assert (left.bursts, left.clickers, left.repeats, left.heavy) == (40, 12, 5, 0)
    assert left.without_query == 2
    who = dict(joined.connection.sql("select user_id, count(*) // 10 from impressions group by all").fetchall())
    assert who == {"fan": 3} | {f"human{n}": 1 for n in range(5)}


def test_a_log_of_nothing_but_robots_is_declined(tmp_path):
    """Where no search counts, an error says which were left out."""
    searches = [(BASE + n * 1000, "robot", f"q{n}", ["a", "b"], {}) for n in range(40)]
    with pytest.raises(UsageError, match="none of 40 searches count") as declined:
        get_query_document_pairs(write(tmp_path, searches))
    assert "bursts=40" in declined.value.why


def test_ranges_of_days_count_back_from_the_last_search(shop):
    """The wall clock decides nothing: the same lake means the same days."""
    last = date(2025, 3, 1) + timedelta(days=(2999 * 10) // 1440)
    assert days_of(shop, "last_7_days") == (last - timedelta(days=7), last)
    assert days_of(shop, "2025-03-02..2025-03-05") == (date(2025, 3, 2), date(2025, 3, 5))
    for wrong in ("yesterday", "last_days", "2025-03-02"):
        with pytest.raises(UsageError, match="range of days"):
            days_of(shop, wrong)


def test_parts_share_neither_queries_nor_time(shop):
    """Every impression of a part belongs to it by its query and by the time of all that came of its search."""
    shown = join(shop).relation
    cut = cut_of(shown, Shares())
    parts = split(shown, cut, Shares(validation=0.2, test=0.2))
    queries = {}
    for name, part in parts.items():
        rows = part.select("query_key, timestamp, coalesce(last_at, timestamp)").fetchall()
        queries[name] = {query for query, _, _ in rows}
        assert rows
        if name == "test":
            assert min(time for _, time, _ in rows) >= cut
        else:
            assert max(max(time, last) for _, time, last in rows) < cut
    assert queries["train"].isdisjoint(queries["validation"] | queries["test"])
    assert queries["validation"].isdisjoint(queries["test"])


CUT = datetime(2025, 3, 20, tzinfo=UTC)


def part_of(*queries, day, document="d"):
    """A table of judged pairs, all of one day."""
    time = datetime(2025, 3, day, tzinfo=UTC)
    return pa.table(
        {
            "query_key": list(queries),
            "feature_id": [document] * len(queries),
            "first_at": [time] * len(queries),
            "last_at": [time] * len(queries),
        }
    )


@pytest.mark.parametrize(
    ("leak", "says"),
    [
        ({"test": part_of("b", "a", day=21)}, "query 'a' is in train and in test"),
        ({"train": part_of("a", day=20)}, "train rests on events from"),
        ({"validation": part_of("c", day=25)}, "validation rests on events from"),
        ({"test": part_of("b", day=19)}, "test rests on searches before"),
        ({"train": part_of("a", "a", day=1)}, "judged twice"),
    ],
)
def test_a_planted_leak_is_found(leak, says):
    """A shared query, an event on the wrong side of the cut, or a pair judged twice stops the export."""
    clean = {"train": part_of("a", day=1), "validation": part_of("c", day=1), "test": part_of("b", day=21)}
    check_pairs(clean, CUT)
    with pytest.raises(LeakError, match=says):
        check_pairs(clean | leak, CUT)


def test_a_negative_that_is_a_positive_is_found():
    """No document is on both sides of one query."""
    one = Tuple("q", "Q", "a", ["b", "c"], 2, 1.0, 1.0, 1.0)
    check_tuples([one, Tuple("r", "R", "b", ["a", "c"], 2, 1.0, 1.0, 1.0)])
    with pytest.raises(LeakError, match="'b' is a positive and a negative"):
        check_tuples([one, Tuple("q", "Q", "b", ["d", "c"], 2, 1.0, 1.0, 1.0)])
    with pytest.raises(LeakError, match="twice"):
        check_tuples([Tuple("q", "Q", "a", ["b", "b"], 2, 1.0, 1.0, 1.0)])


def test_features_of_rankings_know_only_what_came_before(shop, tmp_path):
    """Counts of a row are those of the pair's searches that began at least an hour earlier, recounted in Python."""
    export_pairs(shop, tmp_path / "out", Options(date_range="all"))
    rows = pq.read_table(tmp_path / "out" / "train" / "ltr.parquet").to_pylist()
    shown = join(shop)
    leave_out(shown)
    times = dict(shown.connection.sql("select execution_id, min(timestamp) from impressions group by all").fetchall())
    earlier = shown.connection.sql("select query_key, feature_id, timestamp, clicked from impressions").fetchall()
    for row in rows[:: max(1, len(rows) // 40)]:
        until = times[row["execution_id"]] - timedelta(hours=1)
        pair = [c for q, f, at, c in earlier if (q, f) == (row["query_key"], row["feature_id"]) and at <= until]
        assert (row["impressions_before"], row["clicks_before"]) == (len(pair), sum(pair))
    first, *_ = (tmp_path / "out" / "train" / "ltr.svm").read_text().splitlines()
    assert first.split()[1] == "qid:1"
    assert {row["label"] for row in rows} == {0, 1, 2}


def test_an_export_depends_on_the_rows_and_not_on_the_files(tmp_path):
    """The same events in another number of commits give the same bytes."""
    events = list(shop_log(800))
    whole, parts = write(tmp_path / "whole", events), Settings.load(tmp_path / "parts")
    parts = parts.model_copy(update={"sink": parts.sink.model_copy(update={"flush_rows": 300})})
    loader = Loader(parts, "again")
    for record in _records(events):
        loader.send(record)
    loader.flush()
    for settings, name in ((whole, "a"), (parts, "b")):
        export_pairs(settings, tmp_path / name, Options(date_range="all"))
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def _records(events):
    for number, (time, user, query, results, reactions) in enumerate(events):
        about = {"execution_id": f"shop-{number}", "user_id": user, "retriever_id": "shop"}
        yield search_record(about | {"timestamp": time, "query": query, "results": results}, NOW)
        for document, (types, duration) in reactions.items():
            event = {"interaction_id": f"{number}-{document}", "feature_id": document, "interaction_type": types}
            said = {"metadata": {"duration_ms": duration}} if duration else {}
            yield interaction_record(about | event | said | {"timestamp": time + 1000}, NOW)


def test_texts_come_from_a_corpus(shop, tmp_path):
    """Tuples of documents without a text are left out and counted; a line that is no document is named."""
    corpus = tmp_path / "corpus.jsonl"
    documents = [{"id": f"d{q}-{n}", "title": f"T{q}", "overview": f"{n}"} for q in range(39) for n in range(8)]
    corpus.write_text("".join(json.dumps(each) + "\n" for each in documents))
    texts = read_texts(corpus)
    assert texts["d3-1"] == "T3. 1"
    manifest = export_pairs(shop, tmp_path / "out", Options(date_range="all", negatives=2), texts)
    table = pq.read_table(tmp_path / "out" / "train" / "tuples.parquet")
    assert all(text.startswith("T") for text in table["positive"].to_pylist())
    assert sum(part["tuples_without_text"] for part in manifest["parts"].values()) > 0
    with pytest.raises(InputError, match="not empty"):
        export_pairs(shop, tmp_path / "out", Options(date_range="all"))
    corpus.write_text("[]\n")
    with pytest.raises(InputError, match=r"corpus\.jsonl:1: not a document"):
        read_texts(corpus)


def test_several_retrievers_must_be_told_apart(shop, tmp_path, clickwell):
    """The commands ask which one, refuse an unknown one, and say in words when the log cannot tell."""
    searches = [(BASE + n * MINUTE, f"u{n}", "q", ["a", "b"], {"a": (["click"], 0)}) for n in range(30)]
    write(tmp_path, searches)
    write(tmp_path, searches, retriever="blog")
    done = clickwell("pairs", "export", "--out", tmp_path / "out", "--data", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "name one of blog, shop" in done.stderr
    for wrong in (None, "none"):
        with pytest.raises(UsageError):
            propensities(Settings.load(tmp_path), wrong)
    done = clickwell("propensities", "--retriever", "blog", "--data", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not identifiable" in done.stderr
    assert done.stdout.splitlines()[1].split("\t") == ["0", "1.000", "1.000", "1.000", "0"]
    assert clickwell("relevance", "--diagnose", "--until", "2025-02-01", "--data", tmp_path).returncode == 2
    first, second = (propensities(shop, method=method) for method in ("all-pairs", "regression-em"))
    assert (first.method, second.method) == ("all-pairs", "regression-em")
    assert second.identifiable
    assert second.theta[0] == 1
    assert set(second.low[1:]) == {None}


def test_the_posterior_lies_between_prior_and_evidence():
    """Without exposure it is the prior, with much it is clicks over exposure; its interval narrows on the way."""
    clicks, exposure, prior = np.array([0.0, 3.0, 300.0]), np.array([0.0, 10.0, 1000.0]), np.full(3, 0.2)
    found = posterior(clicks, exposure, prior, 5.0)
    low, high = interval(clicks, exposure, prior, 5.0)
    assert found == pytest.approx([0.2, 4 / 15, 301 / 1005])
    assert (np.diff(high - low) < 0).all()
    assert ((low <= found) & (found <= high)).all()


def test_a_query_with_many_good_answers_raises_the_prior_of_its_documents():
    """The others of a query speak for a document, its own clicks do not."""
    query, expected, prior = np.array([0, 0, 1, 1]), np.full(4, 2.0), np.full(4, 0.2)
    found = query_prior(query, np.array([2.0, 8.0, 2.0, 0.0]), expected, prior)
    assert found == pytest.approx(0.2 * np.array([11, 5, 3, 5]) / 5)
