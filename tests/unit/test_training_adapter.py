"""The adapter on made-up vectors whose right answer is known."""

import numpy as np
import pytest

from clickwell.training import adapter
from clickwell.training.encoders import unit
from clickwell.training.metrics import Relevant, ndcg, search

DIMENSIONS = 16


def world(seed=0, *, turned=True, queries=300):
    """Documents, and queries that point at their document, turned by one and the same rotation where asked."""
    rng = np.random.default_rng(seed)
    documents = unit(rng.normal(size=(400, DIMENSIONS)))
    targets = rng.integers(len(documents), size=queries)
    left, _, right = np.linalg.svd(np.eye(DIMENSIONS) + 0.35 * rng.normal(size=(DIMENSIONS, DIMENSIONS)))
    rotation = left @ right
    asked = documents[targets] + 0.1 * rng.normal(size=(queries, DIMENSIONS))
    pairs = np.stack([np.arange(queries), targets], axis=1)
    return adapter.Examples(unit(asked @ rotation if turned else asked), documents, pairs, pairs[:0])


def reached(examples, matrix):
    """Mean NDCG@10 of the pairs."""
    found = search(adapter.transform(examples.queries, matrix), examples.documents)
    return ndcg(found, [Relevant.binary([row]) for row in examples.positives[:, 1]]).mean()


def test_what_all_queries_have_in_common_is_learned():
    """A rotation of the queries is undone, for queries that were never seen too, and the same seed learns the same."""
    examples = world()
    unseen = adapter.Examples(
        examples.queries[200:], examples.documents, examples.positives[200:] - [200, 0], examples.negatives
    )
    seen = adapter.Examples(examples.queries[:200], examples.documents, examples.positives[:200], examples.negatives)
    fit = adapter.fit(seen)
    assert fit.matrix is not None
    assert fit.low > 0
    assert reached(unseen, fit.matrix) > reached(unseen, None) + 0.1
    again = adapter.fit(seen)
    assert np.array_equal(again.matrix, fit.matrix)


@pytest.mark.parametrize("seed", range(4))
def test_clicks_at_random_teach_nothing(seed):
    """Where clicks have nothing to do with the documents, the identity comes back."""
    examples = world(seed, turned=False)
    rng = np.random.default_rng(seed)
    examples.positives[:, 1] = rng.integers(len(examples.documents), size=len(examples.positives))
    assert adapter.fit(examples).matrix is None


def test_too_few_queries_teach_nothing():
    """A handful of queries cannot tell a gain from chance."""
    assert adapter.fit(world(queries=adapter.MIN_QUERIES - 1)).matrix is None


def test_the_gradient_is_that_of_the_loss():
    """The gradient equals finite differences of the loss, with a masked pair among the candidates."""
    examples = world(queries=6)
    both = np.append(examples.positives, [[0, examples.positives[1, 1]]], axis=0)
    known = adapter._pattern(both, examples)
    candidates = np.unique(np.append(examples.positives[:, 1], np.arange(20)))
    batch = np.arange(6)
    rng = np.random.default_rng(0)
    matrix = (np.eye(DIMENSIONS) + 0.1 * rng.normal(size=(DIMENSIONS, DIMENSIONS))).astype(np.float64)
    temperature = 0.5

    def loss(at):
        moved = examples.queries.astype(np.float64) @ at
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        logits = moved @ examples.documents[candidates].T.astype(np.float64) / temperature
        own = np.searchsorted(candidates, examples.positives[:, 1])
        logits[0, own[1]] = -np.inf
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), own])

    found = adapter._gradient(examples, batch, candidates, known, matrix.astype(np.float32), temperature)
    for row, column in ((0, 0), (3, 7), (15, 2)):
        step = np.zeros_like(matrix)
        step[row, column] = 1e-5
        expected = (loss(matrix + step) - loss(matrix - step)) / 2e-5
        assert found[row, column] == pytest.approx(expected, abs=1e-4)
