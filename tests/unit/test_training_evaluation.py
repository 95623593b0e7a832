"""Evaluation, gate and page on a corpus whose right answers are known."""

import dataclasses

import numpy as np
import pytest

from clickwell import training
from clickwell.errors import InputError
from clickwell.training.corpus import Corpus
from clickwell.training.encoders import Function
from clickwell.training.evaluation import Comparison, Group, compare, gate
from clickwell.training.model import Model, marks
from clickwell.training.report import page

SIZE = 60
CORPUS = Corpus([f"d{i}" for i in range(SIZE)], [f"text {i}" for i in range(SIZE)])
QUERIES = {f"q{i}": f"<b>asks {i}</b>" for i in range(SIZE)}
QRELS = {f"q{i}": {f"d{i}": 1.0, "d0": 0.0} for i in range(SIZE)}


def pointing(step):
    """An encoder in which query i lies at document i + step."""

    def number(text):
        return int("".join(filter(str.isdigit, text)))

    return Function(
        lambda texts: np.eye(SIZE)[[(number(t) + step) % SIZE for t in texts]],
        lambda texts: np.eye(SIZE)[[number(t) for t in texts]],
    )


def test_groups_hold_what_the_model_has_not_seen():
    """Figures come for all queries, for unseen ones, and for unseen ones with unseen documents."""
    queries, documents = marks([QUERIES["q1"], QUERIES["q2"].upper()]), marks(["d1", "d2", "d3"])
    model = Model(pointing(0), None, {}, np.sort(queries), np.sort(documents))
    found = training.evaluate(model, corpus=CORPUS, queries=QUERIES, qrels=QRELS, base=pointing(1))
    assert {name: group.queries for name, group in found.groups.items()} == {
        "all": SIZE,
        "unseen_queries": SIZE - 2,
        "unseen_queries_and_documents": SIZE - 3,
    }
    metrics = found.groups["all"].metrics
    assert {name: one.model for name, one in metrics.items()} == {"ndcg@10": 1.0, "mrr": 1.0, "recall@10": 1.0}
    assert metrics["ndcg@10"].base < 0.2
    assert found.gate.ship


def test_the_gate_stays_shut_without_proof():
    """Neither the base itself, nor a worse model, nor a better one on a few queries passes."""
    same = training.evaluate(Model(pointing(0)), corpus=CORPUS, queries=QUERIES, qrels=QRELS)
    worse = training.evaluate(Model(pointing(1)), corpus=CORPUS, queries=QUERIES, qrels=QRELS, base=pointing(0))
    few = dict(list(QUERIES.items())[:29])
    little = training.evaluate(Model(pointing(0)), corpus=CORPUS, queries=few, qrels=QRELS, base=pointing(1))
    assert [found.gate.ship for found in (same, worse, little)] == [False, False, False]
    assert "may be chance" in same.gate.why
    assert "30 are needed" in little.gate.why
    assert not gate({}).ship


def test_an_improvement_by_chance_does_not_pass():
    """Of models that are as good as their base, hardly any passes."""
    passed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = rng.random((3, 100, 2))
        passed += gate({"unseen_queries": compare(scores, seed=seed)}).ship
    # 2.5 % are expected above a 95 % interval.
    assert passed <= 12


def test_queries_without_an_answer_are_counted():
    """A query whose relevant documents the corpus lacks is left out and counted; if all are, that is said."""
    qrels = {**QRELS, "q5": {"elsewhere": 1.0}}
    found = training.evaluate(Model(pointing(0)), corpus=CORPUS, queries=QUERIES, qrels=qrels)
    assert (found.unjudged, found.groups["all"].queries) == (1, SIZE - 1)
    with pytest.raises(InputError, match="no query has a relevant document"):
        training.evaluate(Model(pointing(0)), corpus=CORPUS, queries=QUERIES, qrels={"q1": {"elsewhere": 1.0}})


def test_the_page_is_complete_and_harmless():
    """The page shows verdict and plots, runs no script, escapes what people typed, and is the same each time."""
    model = Model(pointing(0))
    found = training.evaluate(model, corpus=CORPUS, queries=QUERIES, qrels=QRELS, base=pointing(1))
    text = page(found, "m", QUERIES)
    assert text == page(found, "m", QUERIES)
    assert "May be shipped" in text
    assert text.count("<svg") == 2
    assert "&lt;b&gt;asks" in text
    assert "<b>" not in text
    assert not any(word in text for word in ("<script", "http://", "https://", "NaN", "nan,"))
    none = Comparison(0.0, 0.0, 0.0, 0.0, 0.0, None, None, None)
    flat = dataclasses.replace(found, groups={"all": Group(1, dict.fromkeys(found.groups["all"].metrics, none))})
    assert "<svg" in page(flat, "m", QUERIES)
