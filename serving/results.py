"""What callers hand in as a result list, and what of it readers need: ids and scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickwell.errors import InputError

ID_NAMES = ("feature_id", "document_id", "id")


def ids_of(results: Sequence[Any]) -> list[str]:
    """Return the document of each result: a mapping or object with one of `ID_NAMES`, a pair (id, score), or an id.

    Raises:
        InputError: a result has no id.
    """
    return [_id(result, row) for row, result in enumerate(results)]


def scores_of(results: Sequence[Any]) -> NDArray[np.float64]:
    """Return the score of each result; if any lacks a usable one, 1 / (r + 1) for the result at 0-based rank r."""
    scores = [result[1] if isinstance(result, (tuple, list)) else _field(result, "score") for result in results]
    if any(score is None or math.isnan(score) for score in scores):
        return 1 / np.arange(1.0, len(scores) + 1)
    return np.array(scores, np.float64)


def boosted(scores: NDArray[np.float64], boosts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores times boosts; a negative score is divided, so that a boost above 1 always raises."""
    return np.where(scores < 0, scores / boosts, scores * boosts)


def _id(result: Any, row: int) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, (tuple, list)):
        return str(result[0])
    for name in ID_NAMES:
        value = _field(result, name)
        if value is not None:
            return str(value)
    raise InputError(f"result {row} has none of {', '.join(ID_NAMES)}")


def _field(result: Any, name: str) -> Any:
    return result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
