"""Corrected popularity against a simulator's truth, beside raw counts, smoothed CTR and clicks over expected clicks."""

from datetime import UTC, datetime

import numpy as np
import pytest

from clickwell.analytics.corrected import popularity
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight

SEEDS = range(1, 6)


def ndcg(truth, scores, k=10):
    """NDCG@10 with the true chance of a click as the gain."""
    discount = 1 / np.log2(np.arange(2, 2 + min(k, len(truth))))
    best = np.sort(truth)[::-1][:k] @ discount
    return truth[np.argsort(-scores, kind="stable")[:k]] @ discount / best


def ranked(found, truth):
    """Mean NDCG@10 over the queries of each way to score what was shown."""
    rows = {(row["query_key"], row["feature_id"]): row for row in found.pairs.to_pylist()}
    usual = sum(row["clicks"] for row in rows.values()) / sum(row["shown"] for row in rows.values())
    results = {"raw": [], "smoothed CTR": [], "COEC": [], "corrected": []}
    for number, query in enumerate(truth.queries):
        shown = [c for c in range(truth.gamma.shape[1]) if (query, truth.documents[number, c]) in rows]
        # In any order, or candidates with equal scores would stand as the truth has them.
        shown = np.random.default_rng(number).permutation(shown)
        if len(shown) < 2:
            continue
        row = [rows[query, truth.documents[number, c]] for c in shown]
        clicks, impressions = (np.array([each[name] for each in row], float) for name in ("clicks", "shown"))
        scores = {
            "raw": clicks,
            "smoothed CTR": (clicks + 10 * usual) / (impressions + 10),
            "COEC": np.array([each["coec"] for each in row]),
            "corrected": np.array([each["estimate"] for each in row]),
        }
        for name, score in scores.items():
            results[name].append(ndcg(truth.gamma[number][shown], score))
    return {name: float(np.mean(values)) for name, values in results.items()}


@pytest.mark.parametrize(("rankers", "noise"), [("strong", 0.1), ("weak", 1.0)])
def test_corrected_popularity_is_closest_to_the_truth(tmp_path, rankers, noise, capsys):
    """With strong and with weak rankers, over five seeds, nothing else orders documents as well."""
    results = []
    for seed in SEEDS:
        settings = Settings.load(tmp_path / str(seed))
        site = Site(Plan(queries=200, noise=noise, seed=seed))
        begin = midnight(datetime(2026, 1, 5, tzinfo=UTC).date())
        truth = site.write(settings, start_ms=begin, days=7, searches=10_000)
        results.append(ranked(popularity(settings, "site"), truth))
    means = {name: np.mean([each[name] for each in results]) for name in results[0]}
    with capsys.disabled():
        print(f"\nNDCG@10, {rankers} rankers, {len(results)} seeds:", end="")
        print("".join(f" {name} {value:.4f}" for name, value in means.items()), end="")
    assert all(means["corrected"] > value for name, value in means.items() if name != "corrected")
