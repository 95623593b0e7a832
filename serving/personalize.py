"""Order a result list for one user, and say why. Free of I/O."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from clickwell.errors import UsageError
from clickwell.schemas.catalog import Attributes
from clickwell.serving.exclusion import Exclusion
from clickwell.serving.profile import Match, Profile, factor_of
from clickwell.serving.rerank import Ranked, Why
from clickwell.serving.results import boosted, scores_of

T = TypeVar("T")

# What a perfect fit adds to a score; few fits exceed 0.5. benchmarks/personalisation.py: of 0.25, 0.5, 1 and 2 it moved
# the later clicks up the most, whoever counts them.
DEFAULT_STRENGTH = 0.25
# Reasons that a sentence names.
_NAMED = 3


def personalized(
    results: Sequence[T],
    feature_ids: Sequence[str],
    profile: Profile,
    catalog: Mapping[str, Attributes],
    strength: float,
    *,
    explain: bool = False,
) -> list[Ranked[T]]:
    """Return the results by score times `factor_of(fit)`, highest first; equal scores keep their order.

    Raises:
        UsageError: the strength is negative or not a number.
    """
    if not 0 <= strength < math.inf:
        raise UsageError(f"the strength {strength} is not a number from 0 on", fix="0.25 is a good start, 0 is off")
    fits = [profile.fit(feature_id, catalog.get(feature_id, {})) for feature_id in feature_ids]
    factors = np.array([factor_of(fit, strength) for fit, _ in fits], np.float64)
    before = scores_of(results)
    after = boosted(before, factors)
    # Where nothing tells the results apart the given order stands, also if it is not that of the scores.
    alike = bool(np.all(factors == factors[:1]))
    order = list(range(len(results))) if alike else np.argsort(-after, kind="stable").tolist()
    return [
        Ranked(
            item=results[row],
            feature_id=feature_ids[row],
            score=float(after[row]),
            boost=float(factors[row]),
            why=_why(row, rank, float(before[row]), float(factors[row]), fits[row][1], profile) if explain else None,
        )
        for rank, row in enumerate(order)
    ]


def without(results: Sequence[T], feature_ids: Sequence[str], exclusion: Exclusion) -> list[T]:
    """Return the results whose document is not excluded, in their order."""
    gone = set(exclusion.document_ids)
    return [result for result, feature_id in zip(results, feature_ids, strict=True) if feature_id not in gone]


def _why(row: int, rank: int, score: float, factor: float, matches: list[Match], profile: Profile) -> Why:
    reasons = [f"{match.attribute} {match.value} {match.fit:+.2f}" for match in matches[:_NAMED]]
    said = profile.detail or ", ".join(reasons) or ("no match" if profile.confidence else "no history")
    return Why(row, rank, score, tuple(matches), f"x{factor:.2f}  {said}")
