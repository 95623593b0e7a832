"""How good a ranking is, with labels: NDCG, MRR, recall, and how sure a mean of them is.

Definitions are those of trec_eval: gains are the grades themselves, discounts 1 / log2(rank + 1), and the ideal ranking
is of all relevant documents, found or not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clickwell.training.encoders import Matrix

K = 10
# Scores held at once when a corpus is searched: 64 MB.
_BLOCK = 1 << 24
# Draws of the bootstrap: the ends of a 95 % interval then vary by a few percent of its width.
DRAWS = 2000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Relevant:
    """The relevant documents of one query.

    Attributes:
        rows: places in the corpus, ascending.
        grades: of these, > 0.
    """

    rows: Ints
    grades: Floats

    @classmethod
    def binary(cls, rows: NDArray[np.int64] | Sequence[int]) -> Self:
        """Return documents that are all equally relevant."""
        return cls(np.unique(np.asarray(rows, np.int64)), np.ones(len(np.unique(rows))))

    @classmethod
    def graded(cls, grades: Mapping[int, float]) -> Self:
        """Return documents by place and grade; those of grade 0 or less are not relevant."""
        rows = sorted(row for row, grade in grades.items() if grade > 0)
        return cls(np.array(rows, np.int64), np.array([grades[row] for row in rows], np.float64))


@dataclass(frozen=True)
class Interval:
    """A mean and an interval around it."""

    mean: float
    low: float
    high: float


def search(queries: Matrix, documents: Matrix, k: int = K) -> Ints:
    """Return the rows of the `k` documents with the highest inner product, best first; the lower row wins a tie."""
    k = min(k, len(documents))
    found = np.empty((len(queries), k), np.int64)
    for start, scores in _blocks(queries, documents):
        found[start : start + len(scores)] = _top(scores, k)
    return found


def first_ranks(queries: Matrix, documents: Matrix, relevant: Sequence[Relevant]) -> Ints:
    """Return for each query the rank, from 1, of its best-placed relevant document among all documents."""
    ranks = np.empty(len(queries), np.int64)
    for start, scores in _blocks(queries, documents):
        for row, own in enumerate(scores, start):
            rows = relevant[row].rows
            best = rows[np.argmax(own[rows])]
            ranks[row] = 1 + np.count_nonzero(own > own[best]) + np.count_nonzero(own[:best] == own[best])
    return ranks


def ndcg(found: Ints, relevant: Sequence[Relevant]) -> Floats:
    """Return the NDCG of each row of `found`, cut at its width."""
    discounts = 1 / np.log2(np.arange(2, found.shape[1] + 2))
    ideal = [float(np.sort(one.grades)[::-1][: len(discounts)] @ discounts[: len(one.grades)]) for one in relevant]
    gains = np.array([_gains(row, one) for row, one in zip(found, relevant, strict=True)]).reshape(found.shape)
    scores: Floats = gains @ discounts / np.array(ideal)
    return scores


def recall(found: Ints, relevant: Sequence[Relevant]) -> Floats:
    """Return the share of each query's relevant documents that is among those found."""
    return np.array([np.isin(one.rows, row).mean() for row, one in zip(found, relevant, strict=True)], np.float64)


def bootstrap(values: Floats, *, confidence: float = 0.95, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Return the mean and its percentile interval over queries drawn with replacement."""
    if not len(values):
        return Interval(0.0, 0.0, 0.0)
    low, high = np.quantile(resampled(values, seed=seed, draws=draws), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def resampled(values: NDArray[np.float64], *, seed: int = 0, draws: int = DRAWS) -> Floats:
    """Return the means of `values` (n, or n x columns) over draws with replacement: draws, or draws x columns."""
    rng = np.random.default_rng(seed)
    n = len(values)
    return np.stack([rng.multinomial(n, np.full(n, 1 / n)) @ values / n for _ in range(draws)])


def _blocks(queries: Matrix, documents: Matrix) -> Iterator[tuple[int, Matrix]]:
    step = max(1, _BLOCK // max(len(documents), 1))
    for start in range(0, len(queries), step):
        yield start, queries[start : start + step] @ documents.T


def _top(scores: Matrix, k: int) -> Ints:
    """Return the columns of the `k` largest of each row; equal ones by column, which a partition alone would not do."""
    limit = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    found = np.empty((len(scores), k), np.int64)
    for row, own in enumerate(scores):
        columns = np.flatnonzero(own >= limit[row])
        found[row] = columns[np.argsort(-own[columns], kind="stable")[:k]]
    return found


def _gains(found: Ints, relevant: Relevant) -> Floats:
    gains = np.zeros(len(found))
    places = np.minimum(np.searchsorted(relevant.rows, found), len(relevant.rows) - 1)
    hits = relevant.rows[places] == found
    gains[hits] = relevant.grades[places[hits]]
    return gains
