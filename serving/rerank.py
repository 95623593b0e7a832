"""Order a result list by score times boost, and say why.

```python
stage = {"interaction_types": ["click", "purchase"], "time_window_days": 7, "boost_multiplier": 1.2}
for result in rerank(results, reader, stage, explain=True):
    print(result.feature_id, result.score, result.why.sentence)
```

A result is a mapping or an object with `feature_id` (or `document_id`, or `id`) and `score`, a pair (id, score), or an
id alone. Several stages multiply. A boost always moves in its own direction: a negative score is divided by it. If any
result lacks a usable score, the given order stands in for all scores: that at 0-based rank r scores 1 / (r + 1). A
`ranker` (anything with `score(results)`, such as `clickwell.training.Ranker`) gives the scores instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from clickwell.serving.boosts import DEFAULT_STAGE, AsyncBoostReader, BoostReader
from clickwell.serving.corrected import CorrectedBoost, CorrectedBoosts
from clickwell.serving.formula import BoostByCorrectedCtr, BoostByInteractionCount, any_stage_of
from clickwell.serving.profile import Match
from clickwell.serving.results import boosted, ids_of, scores_of
from clickwell.serving.snapshot import Boost, Boosts

T = TypeVar("T")
Stage = BoostByInteractionCount | BoostByCorrectedCtr | Mapping[str, Any]
Applied = Boosts | CorrectedBoosts


class Ranker(Protocol):
    """What scores results by more than their given scores, such as `clickwell.training.Ranker`."""

    def score(self, results: Sequence[Any]) -> NDArray[np.float64]:
        """Return a finite score for each result, higher first."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why a result stands where it stands.

    Attributes:
        rank_before, rank_after: 0-based places in the given and in the returned list.
        score_before: the score that was boosted.
        stages: what each stage counted and made of it; of a personal order, what fits the user.
        sentence: the same for people, such as `x1.20  412 clicks, 31 purchases in 7 days`.
    """

    rank_before: int
    rank_after: int
    score_before: float
    stages: tuple[Boost | CorrectedBoost | Match, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Ranked(Generic[T]):
    """One result in its new place.

    Attributes:
        item: what was handed in, untouched.
        feature_id: its document.
        score: the boosted score.
        boost: product of the stages' boosts.
        why: set when `explain` was asked for.
    """

    item: T
    feature_id: str
    score: float
    boost: float
    why: Why | None = None


def rerank(
    results: Sequence[T],
    reader: BoostReader,
    boost_by_interaction_count: Stage | Iterable[Stage] = DEFAULT_STAGE,
    *,
    ranker: Ranker | None = None,
    explain: bool = False,
) -> list[Ranked[T]]:
    """Return the results by boosted score, highest first; equal scores keep their order.

    One round trip for all stages that count, and one for each that goes by corrected CTR. If Redis is of no use, the
    scores stay as they are.

    Raises:
        InputError: a result has no id.
        SettingsError: a stage is malformed.
    """
    stages, ids = _stages(boost_by_interaction_count), ids_of(results)
    counted = reader.read(ids) if any(isinstance(stage, BoostByInteractionCount) for stage in stages) else None
    applied: list[Applied] = []
    for stage in stages:
        if isinstance(stage, BoostByCorrectedCtr):
            applied.append(reader.corrected(ids, stage))
        elif counted is not None:
            applied.append(counted.boosts(stage))
    return _order(results, ids, applied, ranker, explain=explain)


async def arerank(
    results: Sequence[T],
    reader: AsyncBoostReader,
    boost_by_interaction_count: Stage | Iterable[Stage] = DEFAULT_STAGE,
    *,
    ranker: Ranker | None = None,
    explain: bool = False,
) -> list[Ranked[T]]:
    """Do the same as `rerank`, for asyncio."""
    stages, ids = _stages(boost_by_interaction_count), ids_of(results)
    counted = await reader.read(ids) if any(isinstance(stage, BoostByInteractionCount) for stage in stages) else None
    applied: list[Applied] = []
    for stage in stages:
        if isinstance(stage, BoostByCorrectedCtr):
            applied.append(await reader.corrected(ids, stage))
        elif counted is not None:
            applied.append(counted.boosts(stage))
    return _order(results, ids, applied, ranker, explain=explain)


def _order(
    results: Sequence[T],
    feature_ids: Sequence[str],
    applied: Sequence[Applied],
    ranker: Ranker | None,
    *,
    explain: bool,
) -> list[Ranked[T]]:
    boosts: NDArray[np.float64] = np.ones(len(results))
    for stage in applied:
        boosts *= stage.values
    before = scores_of(results) if ranker is None else np.asarray(ranker.score(results), np.float64)
    after = boosted(before, boosts)
    order = np.argsort(-after, kind="stable").tolist()
    return [
        Ranked(
            item=results[row],
            feature_id=feature_ids[row],
            score=float(after[row]),
            boost=float(boosts[row]),
            why=_why(row, rank, float(before[row]), float(boosts[row]), applied) if explain else None,
        )
        for rank, row in enumerate(order)
    ]


def _why(row: int, rank: int, score: float, boost: float, applied: Sequence[Applied]) -> Why:
    stages = tuple(stage[row] for stage in applied)
    # Several stages that could not be read all say the same.
    sentence = f"x{boost:.2f}  {', '.join(dict.fromkeys(stage.why(row) for stage in applied))}"
    return Why(row, rank, score, stages, sentence)


def _stages(given: Stage | Iterable[Stage]) -> list[BoostByInteractionCount | BoostByCorrectedCtr]:
    alone = isinstance(given, (BoostByInteractionCount, BoostByCorrectedCtr, Mapping))
    return [any_stage_of(stage) for stage in ([given] if alone else given)]
