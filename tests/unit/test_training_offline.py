"""Offline evaluation on a log made up with known examination and known relevance."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from clickwell.errors import InputError
from clickwell.training.corpus import Corpus
from clickwell.training.encoders import Function
from clickwell.training.model import Model
from clickwell.training.offline import discount, evaluate_offline, reordered

THETA = (1.0, 0.5, 0.3, 0.2)
DOCUMENTS = 40
CORPUS = Corpus([f"d{i}" for i in range(DOCUMENTS)], [f"text {i}" for i in range(DOCUMENTS)])


def relevance(seed=0):
    """How likely each document is clicked when it is looked at."""
    return np.random.default_rng(seed).beta(1, 3, DOCUMENTS)


def encoder(values):
    """Vectors whose cosine with any query falls and rises with a value of the document."""
    angles = dict(zip(CORPUS.texts, values, strict=True))

    def encode(texts):
        return np.array([[np.sin(angles.get(t, 1.5)), np.cos(angles.get(t, 1.5))] for t in texts])

    return Function(encode)


def log(clicked=True, searches=6000, seed=1):
    """Impressions of random lists of four, their clicks by the position-based model, and the lists."""
    rng = np.random.default_rng(seed)
    gamma, rows, lists = relevance(), [], []
    for search in range(searches):
        shown = rng.choice(DOCUMENTS, 4, replace=False)
        lists.append(shown)
        for position, document in enumerate(shown):
            click = clicked and bool(rng.random() < THETA[position] * gamma[document])
            rows.append((f"s{search}", f"q{search % 300}", f"q{search % 300}", f"d{document}", position, click))
    names = ("execution_id", "query_key", "query", "feature_id", "position", "clicked")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return duckdb.from_arrow(table), lists


def test_the_estimate_is_what_the_order_is_worth():
    """The interval of a better order holds its true worth, though the log showed another."""
    impressions, lists = log()
    gamma = relevance()
    model = Model(encoder(gamma))
    found = evaluate_offline(model, impressions, THETA, corpus=CORPUS, base=encoder(-gamma))
    worth = discount(np.arange(4))
    true_logged = np.mean([gamma[shown] @ worth for shown in lists])
    true_model = np.mean([np.sort(gamma[shown])[::-1] @ worth for shown in lists])
    assert found.ips.over_logged.low <= true_model - true_logged <= found.ips.over_logged.high
    assert found.ips.values["model"] == pytest.approx(true_model, rel=0.05)
    assert found.snips.over_logged.low > 0
    assert found.snips.over_base.mean > found.snips.over_logged.mean
    assert (found.searches, found.queries, found.clipped, found.unknown) == (6000, 300, 0.0, 0)


def test_rare_clicks_far_down_are_cut_and_counted():
    """With a lower clip no click weighs more than it, and the share that was cut is told."""
    impressions, _ = log(searches=500)
    found = evaluate_offline(Model(encoder(relevance())), impressions, THETA, corpus=CORPUS, clip=2.5)
    assert 0 < found.clipped < 1
    whole = evaluate_offline(Model(encoder(relevance())), impressions, THETA, corpus=CORPUS)
    assert found.ips.values["logged"] < whole.ips.values["logged"]


def test_documents_without_text_stay_behind():
    """What the corpus lacks is counted and ranked last; a log without clicks is refused."""
    impressions, _ = log(searches=100)
    half = Corpus(CORPUS.ids[:20], CORPUS.texts[:20])
    assert evaluate_offline(Model(encoder(relevance())), impressions, THETA, corpus=half).unknown > 100
    with pytest.raises(InputError, match="no click"):
        evaluate_offline(Model(encoder(relevance())), log(clicked=False, searches=5)[0], THETA, corpus=CORPUS)
    scores = np.array([0.1, -np.inf, 0.3, 0.2, 0.2])
    assert reordered(np.array([0, 0, 0, 1, 1]), scores).tolist() == [1, 2, 0, 0, 1]
