"""Ranking metrics and search against definitions written out naively."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clickwell.training.metrics import Relevant, bootstrap, first_ranks, ndcg, recall, search

grades = st.dictionaries(st.integers(0, 29), st.integers(1, 4).map(float), min_size=1, max_size=15)
# Few different values, so that ties are common.
vectors = st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=30, max_size=30)


def naive_order(query, documents):
    """Rows by falling inner product, the lower row first among equals."""
    scores = [sum(a * b for a, b in zip(query, document, strict=True)) for document in documents]
    return sorted(range(len(documents)), key=lambda row: (-scores[row], row))


@settings(deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=3, max_size=3), vectors, grades)
def test_metrics_are_those_of_the_definitions(query, documents, relevant):
    """Search, NDCG@10, recall@10 and the first relevant rank equal what plain loops give, ties included."""
    order = naive_order(query, documents)
    asked, held = np.array([query], np.float32), np.array(documents, np.float32)
    found = search(asked, held)
    assert found[0].tolist() == order[:10]
    wanted = [Relevant.graded(relevant)]
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(sorted(relevant.values(), reverse=True)[:10]))
    gained = sum(relevant.get(row, 0) / math.log2(i + 2) for i, row in enumerate(order[:10]))
    assert math.isclose(ndcg(found, wanted)[0], gained / ideal, abs_tol=1e-12)
    assert math.isclose(recall(found, wanted)[0], len(relevant.keys() & set(order[:10])) / len(relevant))
    assert first_ranks(asked, held, wanted)[0] == 1 + min(order.index(row) for row in relevant)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_an_interval_holds_its_mean(values):
    """The bootstrap's interval lies around the mean and within the values, and a repeat gives the same."""
    found = bootstrap(np.array(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert math.isclose(found.mean, sum(values) / len(values), abs_tol=1e-12)
    assert found == bootstrap(np.array(values))
