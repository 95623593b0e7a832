"""Does the personal order put later clicks higher? In a simulated shop whose people like different brands.

Each seed is a shop of its own. Profiles are learned from the first part of the traffic. In the sessions that begin
later, the order that people were shown is compared with the personal one by NDCG@10, over searches with a click by
people who have a history. People see the first results more often, which favours the order they were shown: the same
is therefore also computed with each click weighed by 1 / (chance that its position is examined), which the simulator
knows.
Intervals are 95 %, by resampling people. Exit code 3: a bar was missed.

    python benchmarks/personalisation.py [--seeds 5] [--searches 40000] [--strength 0.25] [--tastes 1.0] [--json]
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickwell.clock import MS_PER_DAY
from clickwell.producers.shop import RANKERS, Shop
from clickwell.producers.simulate import Traffic
from clickwell.schemas.catalog import attributes_of
from clickwell.serving.exclusion import Consumed
from clickwell.serving.personalize import DEFAULT_STRENGTH, personalized
from clickwell.serving.profile import Profile, profile_of
from clickwell.settings import ProfileSettings

END_MS = 1_770_000_000_000
DAYS = 60
# The part of the time that profiles are learned from.
LEARNED = 0.8
RESAMPLES = 1000


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--searches", type=int, default=40_000)
    arguments.add_argument("--strength", type=float, default=DEFAULT_STRENGTH)
    arguments.add_argument("--tastes", type=float, default=1.0)
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    found = [evaluate(seed, asked.searches, asked.tastes, asked.strength) for seed in range(1, asked.seeds + 1)]
    met = all(one[name][1] > 0 for one in found for name in ("gain", "unbiased_gain"))
    neutral = all(one["neutral"] for one in found)
    if asked.json:
        print(json.dumps({"searches": asked.searches, "seeds": found, "met": met, "neutral": neutral}))
    else:
        print(f"{'seed':<6}{'searches':>9}{'shown':>8}{'personal':>9}  {'gain':<26}{'gain, clicks debiased':<26}")
        for one in found:
            cells = (said(one[name]) for name in ("gain", "unbiased_gain"))
            print(
                f"{one['seed']:<6}{one['searches']:>9,}{one['shown']:>8.4f}{one['personal']:>9.4f}  "
                + "".join(f"{cell:<26}" for cell in cells)
            )
        print(f"{'met   ' if met else 'MISSED'}  every interval lies above 0")
        print(f"{'met   ' if neutral else 'MISSED'}  the order of people without a history is the one shown")
    return 0 if met and neutral else 3


def evaluate(seed: int, searches: int, tastes: float, strength: float) -> dict[str, Any]:
    """Return what one seed gives: mean NDCG@10 of both orders, and the gain with its interval."""
    shop = Shop(seed=seed)
    catalog = {row["feature_id"]: attributes_of(row, ("brand", "category", "tags")) for row in shop.catalog}
    border_ms = END_MS - round((1 - LEARNED) * DAYS * MS_PER_DAY)
    events = list(events_of(Traffic(shop, seed=seed, start_ms=END_MS, tastes=tastes).history(searches, DAYS, END_MS)))
    learned: dict[str, list[Consumed]] = defaultdict(list)
    clicked: dict[str, dict[str, int]] = defaultdict(dict)
    begins: dict[str, int] = {}
    for event in events:
        begins.setdefault(event["session_id"], event["timestamp"])
        if "feature_id" not in event:
            continue
        if event["timestamp"] < border_ms:
            learned[event["user_id"]] += [
                Consumed(event["feature_id"], signal, event["timestamp"]) for signal in event["interaction_type"]
            ]
        if "click" in event["interaction_type"]:
            clicked[event["execution_id"]][event["feature_id"]] = event["position"]
    profiles = {
        user: profile_of(user, newest(items), catalog, ProfileSettings(), border_ms) for user, items in learned.items()
    }
    scores = {(query, arm): scored(shop, query, arm) for query in shop.queries for arm in range(len(RANKERS))}
    by_user: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    neutral = True
    for event in events:
        if "results" not in event or begins[event["session_id"]] < border_ms or event["execution_id"] not in clicked:
            continue
        known = scores[event["query"], RANKERS.index(event["ranker_id"])]
        # A ranker's neighbours are swapped now and then; each place keeps its score.
        shown = list(zip(event["results"], sorted((known[doc] for doc in event["results"]), reverse=True), strict=True))
        ids = event["results"]
        stranger = personalized(shown, ids, Profile("stranger"), catalog, strength)
        neutral = neutral and [(one.feature_id, one.score) for one in stranger] == shown
        if event["user_id"] not in profiles:
            continue
        order = [one.feature_id for one in personalized(shown, ids, profiles[event["user_id"]], catalog, strength)]
        clicks = clicked[event["execution_id"]]
        plain = dict.fromkeys(clicks, 1.0)
        debiased = {document: 1 / float(shop.truth.theta[place]) for document, place in clicks.items()}
        by_user[event["user_id"]].append(
            (ndcg(ids, plain), ndcg(order, plain), ndcg(ids, debiased), ndcg(order, debiased))
        )
    sums = np.array([[*np.sum(rows, axis=0), len(rows)] for rows in by_user.values()])
    shown_mean, personal_mean = sums[:, :2].sum(0) / sums[:, 4].sum()
    return {
        "seed": seed,
        "people": len(sums),
        "searches": int(sums[:, 4].sum()),
        "shown": float(shown_mean),
        "personal": float(personal_mean),
        "gain": interval(sums[:, 1] - sums[:, 0], sums[:, 4], seed),
        "unbiased_gain": interval(sums[:, 3] - sums[:, 2], sums[:, 4], seed),
        "neutral": neutral,
    }


def events_of(batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Yield the events as JSON objects."""
    for batch in batches:
        for record in batch:
            yield json.loads(record.value)


def newest(items: list[Consumed]) -> list[Consumed]:
    """Return what a history keeps: the last time of each document and signal."""
    last = {(item.feature_id, item.interaction_type): item for item in sorted(items, key=lambda item: item.timestamp)}
    return list(last.values())


def scored(shop: Shop, query: str, arm: int) -> dict[str, float]:
    """Return the ranker's score of each result of a query."""
    return {row["feature_id"]: row["score"] for row in shop.results(query, ranker=arm)}


def ndcg(order: list[str], gains: dict[str, float]) -> float:
    """Return NDCG@10 of an order for the documents with a gain."""
    best = sorted(gains.values(), reverse=True)
    return dcg([gains.get(document, 0.0) for document in order]) / dcg(best)


def dcg(gains: list[float]) -> float:
    return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains[:10])))


def interval(differences: NDArray[np.float64], searches: NDArray[np.float64], seed: int) -> tuple[float, float, float]:
    """Return the mean over all searches and its 95 % interval, drawing people with replacement."""
    drawn = np.random.default_rng(seed).integers(len(differences), size=(RESAMPLES, len(differences)))
    means = differences[drawn].sum(1) / searches[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.sum() / searches.sum()), float(low), float(high)


def said(three: tuple[float, float, float]) -> str:
    mean, low, high = three
    return f"{mean:+.4f} ({low:+.4f}, {high:+.4f})"


if __name__ == "__main__":
    sys.exit(main())
