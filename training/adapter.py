"""A matrix that moves query vectors towards what was clicked, while the documents stay where they are.

Nothing has to be indexed anew, and it serves embeddings of which only vectors are known. Trained by InfoNCE in numpy:
van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clickwell.training.encoders import Matrix, unit
from clickwell.training.metrics import Relevant, bootstrap, ndcg, search

# Chosen on queries and documents that were held back; the lift changes by less than 2 % of the base within half and
# twice each value.
TEMPERATURE = 0.07
# Without a pull towards the identity, documents that were never clicked lose as much as the others gain.
PULL = 0.01
LEARNING_RATE = 2e-3
BATCH = 256
# Documents drawn at random beside the batch's own: cheap, and what a query is compared with in earnest.
RANDOM_NEGATIVES = 256
HARD_NEGATIVES = 4
EPOCHS = 80
# Epochs without a gain on held-back queries after which training ends.
PATIENCE = 5
# Parts of the queries that are held back in turn: a few hundred queries are too few to set some of them aside for good.
FOLDS = 3
# The best of many epochs gains as much by chance alone.
MIN_GAIN = 0.005
# Fewer queries than this cannot tell a gain from chance.
MIN_QUERIES = 20


@dataclass(frozen=True)
class Examples:
    """Pairs as rows of two matrices.

    Attributes:
        queries: vectors of the queries.
        documents: vectors of the documents, also of those without a pair: random negatives are drawn from all.
        positives, negatives: pairs of a row in `queries` and a row in `documents`. Each counts once: the correction has
            decided which pairs these are. Weighting them by it as well cost a tenth of the gain, for the largest
            weights are on clicks far down, and many of these were mistakes.
    """

    queries: Matrix
    documents: Matrix
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]


@dataclass(frozen=True)
class Fit:
    """What training gave.

    Attributes:
        matrix: multiply query vectors with it from the right; None for the identity.
        epochs: after which the matrix was best.
        queries: how many there were, each held back once.
        before, after: mean NDCG@10 of their clicked documents among all documents, without and with a matrix that was
            trained without them.
        low: lower end of the 95 % interval of the gain.
    """

    matrix: Matrix | None
    epochs: int
    queries: int
    before: float
    after: float
    low: float


# Products this small only wait for one another in several threads.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]  # it has no types
def fit(
    examples: Examples,
    *,
    seed: int = 0,
    temperature: float = TEMPERATURE,
    pull: float = PULL,
    epochs: int = EPOCHS,
    advance: Callable[[str], None] = lambda _: None,
) -> Fit:
    """Train on all queries for as long as queries held back gain by it, and return the identity unless these did.

    One matrix is trained on everything, and beside it, epoch by epoch, `FOLDS` of them on all but one part of the
    queries each. Together these tell of every query how it fares unseen.

    Args:
        examples: what to train on.
        seed: of the draws; the same seed and examples give the same matrix.
        temperature: of the softmax.
        pull: weight of the squared distance from the identity.
        epochs: how many at most.
        advance: called after each epoch with a few words about it.
    """
    rng = np.random.default_rng(seed)
    asked = rng.permutation(np.unique(examples.positives[:, 0]))
    if len(asked) < MIN_QUERIES:
        return Fit(None, 0, len(asked), 0.0, 0.0, 0.0)
    known, hard = _pattern(examples.positives, examples), _pattern(examples.negatives, examples)
    relevant = {query: Relevant.binary(known[[query]].indices) for query in asked.tolist()}
    folds = [np.sort(asked[fold::FOLDS]) for fold in range(FOLDS)]
    everything = _Run(np.arange(len(examples.positives)), examples.queries.shape[1])
    without = [
        _Run(np.flatnonzero(~np.isin(examples.positives[:, 0], fold)), examples.queries.shape[1]) for fold in folds
    ]

    def held_back() -> NDArray[np.float64]:
        return np.concatenate(
            [
                ndcg(
                    search(transform(examples.queries[fold], run.matrix), examples.documents),
                    [relevant[query] for query in fold.tolist()],
                )
                for fold, run in zip(folds, without, strict=True)
            ]
        )

    before = best_scores = held_back()
    best, best_epoch = everything.matrix, 0
    for epoch in range(1, epochs + 1):
        for run in (everything, *without):
            for batch in run.batches(rng):
                candidates = _candidates(examples, batch, hard, rng)
                run.step(_gradient(examples, batch, candidates, known, run.matrix, temperature), pull)
        scores = held_back()
        if scores.mean() > best_scores.mean():
            best, best_scores, best_epoch = everything.matrix, scores, epoch
        advance(f"held-back NDCG@10 {before.mean():.3f} -> {best_scores.mean():.3f}")
        if epoch - best_epoch >= PATIENCE:
            break
    gain = bootstrap(best_scores - before, seed=seed)
    kept = best if gain.low > 0 and gain.mean >= MIN_GAIN else None
    return Fit(kept, best_epoch, len(asked), float(before.mean()), float(best_scores.mean()), gain.low)


def transform(queries: Matrix, matrix: Matrix | None) -> Matrix:
    """Return the query vectors as an adapter leaves them, with length 1; untouched without one."""
    return queries if matrix is None else unit(queries @ matrix)


def _pattern(pairs: NDArray[np.int64], examples: Examples) -> sp.csr_array:
    """Return pairs as a sparse matrix of queries and documents that has True where there is one."""
    shape = (len(examples.queries), len(examples.documents))
    pattern = sp.csr_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=shape)
    pattern.sort_indices()
    return pattern


def _candidates(
    examples: Examples, batch: NDArray[np.int64], hard: sp.csr_array, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the documents that each query of a batch is compared with: its own, the others', hard and random ones."""
    queries, documents = examples.positives[batch].T
    drawn = [documents, rng.integers(len(examples.documents), size=RANDOM_NEGATIVES)]
    for query in queries:
        shown = hard.indices[hard.indptr[query] : hard.indptr[query + 1]]
        drawn.append(rng.permutation(shown)[:HARD_NEGATIVES])
    return np.unique(np.concatenate(drawn))


def _gradient(
    examples: Examples,
    batch: NDArray[np.int64],
    candidates: NDArray[np.int64],
    known: sp.csr_array,
    matrix: Matrix,
    temperature: float,
) -> Matrix:
    """Return the gradient of the mean of -log softmax(cosine / temperature) at each pair's document."""
    queries, documents = examples.positives[batch].T
    own = (np.arange(len(batch)), np.searchsorted(candidates, documents))
    vectors = examples.documents[candidates]
    given = examples.queries[queries]
    moved = given @ matrix
    lengths = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-6)
    moved /= lengths
    logits = moved @ vectors.T / temperature
    # What else was found good for the same query is no negative.
    also_good = known[queries][:, candidates].toarray()
    also_good[own] = False
    logits[also_good] = -np.inf
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[own] -= 1
    shares /= len(batch) * temperature
    towards = shares @ vectors
    towards -= moved * (moved * towards).sum(axis=1, keepdims=True)
    gradient: Matrix = given.T @ (towards / lengths)
    return gradient


class _Run:
    """One matrix in training by Adam (Kingma & Ba, 2015) with its usual constants.

    Args:
        rows: the positives that it may see.
        dimensions: of the vectors.
    """

    def __init__(self, rows: NDArray[np.int64], dimensions: int) -> None:
        self.matrix: Matrix = np.eye(dimensions, dtype=np.float32)
        self._identity = self.matrix
        self._rows = rows
        self._mean = np.zeros_like(self.matrix)
        self._square = np.zeros_like(self.matrix)
        self._steps = 0

    def batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield its positives once, in a new order."""
        shuffled = rng.permutation(self._rows)
        for start in range(0, len(shuffled), BATCH):
            yield shuffled[start : start + BATCH]

    def step(self, gradient: Matrix, pull: float) -> None:
        """Move the matrix against a gradient, and a little towards the identity."""
        gradient = gradient + 2 * pull * (self.matrix - self._identity)
        self._steps += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        mean = self._mean / (1 - 0.9**self._steps)
        square = self._square / (1 - 0.999**self._steps)
        self.matrix = self.matrix - LEARNING_RATE * mean / (np.sqrt(square) + np.float32(1e-8))
