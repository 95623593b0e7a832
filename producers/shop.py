"""A made-up outdoor shop whose truth is known: what people examine, and what they like.

A person examines position k with probability `theta[k]` and clicks an examined result with probability
`gamma[query, document]`: the position-based model (Craswell et al., WSDM 2008). Whoever estimates either from the
simulated clicks can compare with the truth.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

POSITIONS = 10
# The first result is always seen; attention falls with the power of the rank, as eye tracking and click logs show.
EXAMINATION_DECAY = 0.8
# Documents that a query can show at all.
CANDIDATES = 24
# Two arms of an experiment: without changes of rank, examination and relevance cannot be told apart.
RANKERS = ("bm25", "bm25-title")

_KINDS = (
    "trail shoe", "hiking boot", "rain jacket", "down jacket", "fleece jacket", "tent", "sleeping bag", "sleeping mat",
    "backpack", "headlamp", "camping stove", "water bottle", "climbing rope", "harness", "trekking poles", "gloves",
    "beanie", "sunglasses", "hiking socks", "gaiters",
)  # fmt: skip
_TRAITS = ("waterproof", "light", "warm", "kids", "wide", "recycled", "compact", "winter")
_BRANDS = (
    "Ridgeline",
    "Norrvik",
    "Alpenweg",
    "Kestrel",
    "Fjordland",
    "Cairn",
    "Tundra",
    "Solano",
    "Birchwood",
    "Vento",
)
_MODELS = ("GTX", "Pro", "Classic", "Lite", "3", "Evo", "Trek", "One", "Summit", "Plus")


@dataclass(frozen=True)
class Truth:
    """What the clicks are drawn from.

    Attributes:
        theta: chance that a position is examined; float64 of shape (POSITIONS,), theta[0] = 1.
        gamma: chance that an examined candidate is clicked; float64 of shape (queries, CANDIDATES).
        candidates: index of each candidate's document; int64 of shape (queries, CANDIDATES).
    """

    theta: NDArray[np.float64]
    gamma: NDArray[np.float64]
    candidates: NDArray[np.int64]


class Shop:
    """Documents, queries, two production rankers and the truth behind them; the same seed makes the same shop.

    Args:
        documents: how many products there are, at least 480.
        seed: of everything that is drawn.

    Attributes:
        feature_ids: id of each document.
        titles: title of each document.
        catalog: brand, category and tags of each document, as `clickwell catalog load` takes them.
        queries: text of each query, the most frequent first.
        truth: what the clicks are drawn from.
        shown: candidates in each ranker's order; int64 of shape (queries, rankers, POSITIONS), indices into the
            query's candidates.
    """

    def __init__(self, documents: int = 2000, *, seed: int = 1) -> None:
        rng = np.random.default_rng([seed, documents])
        kinds = np.arange(documents) % len(_KINDS)
        traits = rng.integers(len(_TRAITS), size=documents)
        self.feature_ids = [f"sku-{number:05d}" for number in range(1, documents + 1)]
        names = [(str(rng.choice(_BRANDS)), str(rng.choice(_MODELS))) for _ in range(documents)]
        self.titles = [
            f"{brand} {model} {_TRAITS[trait]} {_KINDS[kind]}"
            for (brand, model), kind, trait in zip(names, kinds, traits, strict=True)
        ]
        self.catalog = [
            {"feature_id": feature_id, "brand": brand, "category": _KINDS[kind], "tags": [_TRAITS[trait], model]}
            for feature_id, (brand, model), kind, trait in zip(self.feature_ids, names, kinds, traits, strict=True)
        ]
        wanted = [(trait, kind) for trait in range(len(_TRAITS)) for kind in range(len(_KINDS))]
        # "waterproof trail shoe" stays the most frequent, so that a demonstration finds much to show there.
        wanted[1:] = [wanted[1 + place] for place in rng.permutation(len(wanted) - 1)]
        self.queries = [f"{_TRAITS[trait]} {_KINDS[kind]}" for trait, kind in wanted]

        # A few products are liked by many and most by few: appeal falls with the rank, as Zipf found for words.
        appeal = rng.permutation((1.0 + np.arange(documents)) ** -0.25)
        gamma = np.empty((len(wanted), CANDIDATES))
        candidates = np.empty((len(wanted), CANDIDATES), np.int64)
        for row, (trait, kind) in enumerate(wanted):
            fits = 0.03 + 0.12 * (kinds == kind) + 0.4 * ((kinds == kind) & (traits == trait))
            found = np.argsort(-(fits + 0.02 * rng.random(documents)))[:CANDIDATES]
            candidates[row] = found
            gamma[row] = np.clip(
                fits[found] * (0.4 + 2.4 * appeal[found]) * rng.uniform(0.5, 1.1, CANDIDATES), 0.01, 0.95
            )
        theta: NDArray[np.float64] = (1.0 + np.arange(POSITIONS, dtype=np.float64)) ** -EXAMINATION_DECAY
        self.truth = Truth(theta, gamma, candidates)

        # The rankers know the truth only through much noise: there is something to learn from the clicks.
        self._scores = 8 + 2 * gamma[:, None, :] + rng.normal(0, 0.8, (len(wanted), len(RANKERS), CANDIDATES))
        self.shown = np.argsort(-self._scores, axis=2)[:, :, :POSITIONS]

    def results(self, query: str, *, ranker: int = 0) -> list[dict[str, Any]]:
        """Return what a ranker shows for one of the queries: {`feature_id`, `title`, `score`}, best first."""
        row = self.queries.index(query)
        return [
            {
                "feature_id": self.feature_ids[self.truth.candidates[row, place]],
                "title": self.titles[self.truth.candidates[row, place]],
                "score": round(float(self._scores[row, ranker, place]), 3),
            }
            for place in self.shown[row, ranker]
        ]
