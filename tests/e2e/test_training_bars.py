"""From a session log to a better search, by the commands alone: simulated clicks, real queries, texts and grades.

Trained on the earlier part of the log, with a quarter of the queries and a seventh of the movies taken out of it first.
"""

import gzip
import json
import time

import pytest

from clickwell.testing import taken_out, without
from tests.processes import commands_on

pytestmark = [pytest.mark.data, pytest.mark.timeout(600)]

SEARCHES = 48_000


@pytest.fixture(scope="module")
def learn(shared_data, tmp_path_factory):
    """A function from some of the log's searches to the evaluation on what was taken out, the model and the seconds."""
    msrd = shared_data / "msrd"
    held_queries = tmp_path_factory.mktemp("held") / "queries.jsonl"
    with gzip.open(msrd / "queries.jsonl.gz", "rt") as lines:
        kept = [line for line in lines if taken_out(json.loads(line)["query_id"], 0.25)]
    held_queries.write_text("".join(kept))
    with gzip.open(msrd / "corpus.jsonl.gz", "rt") as lines:
        held_movies = {movie for movie in (json.loads(line)["id"] for line in lines) if taken_out(movie, 0.15)}

    def learned(first, count):
        folder = tmp_path_factory.mktemp("learned")
        run = commands_on(folder, timeout=500)
        with gzip.open(msrd / "searches_sim_pbm.jsonl.gz", "rt") as lines, (folder / "log.jsonl").open("w") as log:
            for number, line in enumerate(lines):
                search = json.loads(line)
                if first <= number < first + count and not taken_out(search["query_id"], 0.25):
                    log.write(json.dumps(without(search, held_movies)) + "\n")
        run("lake", "load", folder / "log.jsonl", "--format", "sessions", "--retriever", "movies")
        run("pairs", "export", "--out", folder / "pairs", "--no-ranking")
        corpus = ("--corpus", msrd / "corpus.jsonl.gz")
        started = time.monotonic()
        trained = run(
            "fine-tune", *corpus, "--pairs", folder / "pairs", "--base", "lsa", "--out", folder / "m", "--json"
        )
        seconds = time.monotonic() - started
        judged = ("--queries", held_queries, "--qrels", msrd / "qrels.tsv.gz")
        found = json.loads(run("evaluate", "--model", folder / "m", *corpus, *judged, "--json"))
        return found, json.loads(trained), seconds

    return learned


def tell(name, found):
    """Print the figures of each group."""
    for group, one in found["groups"].items():
        of = one["metrics"]["ndcg@10"]
        print(
            f"{name}, {group}, {one['queries']:,} queries: NDCG@10 {of['base']:.4f} -> {of['model']:.4f}, "
            f"{of['relative']:+.1%} [{of['relative_low']:+.1%}, {of['relative_high']:+.1%}]"
        )


def test_clicks_improve_the_search_of_unseen_queries_and_movies(learn):
    """One model gains 10 % on unseen queries and 8 % where the relevant movies were unseen too, beyond chance."""
    found, trained, seconds = learn(0, SEARCHES)
    tell(f"{trained['positive_pairs']:,} pairs, {seconds:.0f} s", found)
    assert found["queries"] == found["groups"]["unseen_queries"]["queries"]
    unseen = found["groups"]["unseen_queries"]["metrics"]["ndcg@10"]
    both = found["groups"]["unseen_queries_and_documents"]["metrics"]["ndcg@10"]
    assert unseen["relative"] >= 0.10
    assert both["relative"] >= 0.08
    assert unseen["low"] > 0
    assert both["low"] > 0
    # The bar is 60 s on two cores of their own; build servers share theirs.
    assert seconds < 400
    assert found["gate"]["ship"]


@pytest.mark.parametrize("first", [0, 20_000])
def test_a_few_clicks_do_no_harm(learn, first):
    """Trained on 500 searches, the model never falls more than 1 % below its base."""
    found, trained, seconds = learn(first, 500)
    tell(f"500 searches from {first:,}, {trained['adapter']}, {seconds:.0f} s", found)
    for group in found["groups"].values():
        assert group["metrics"]["ndcg@10"]["relative"] >= -0.01
