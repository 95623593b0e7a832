"""The ranker on logs made up with known relevance and known examination of positions."""

import numpy as np
import pyarrow as pa
import pytest

from clickwell.errors import InputError, UsageError
from clickwell.training.ranker import Ranker, rank

THETA = 1 / np.arange(1, 9)


def log(seed=0, searches=1500):
    """Impressions whose clicks follow a feature and the position; the order that was shown follows another feature."""
    rng = np.random.default_rng(seed)
    rows = []
    for search in range(searches):
        good, shown = rng.random(8), rng.random(8)
        order = np.argsort(-shown)
        clicks = rng.random(8) < THETA * 0.8 * good[order]
        for position, document in enumerate(order):
            rows.append(
                (
                    f"s{search}",
                    f"d{search}-{document}",
                    position,
                    int(clicks[position]),
                    good[document],
                    shown[document],
                )
            )
    names = ("execution_id", "feature_id", "position", "label", "good", "shown")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def test_what_is_clicked_wherever_it_stands_counts(tmp_path):
    """The ranker orders by what earns clicks, not by what was merely shown on top, and a reload scores alike."""
    ranker = rank(log())
    assert ranker.features == ["good", "shown"]
    better = [{"good": 0.9, "shown": 0.1}, {"good": 0.1, "shown": 0.9}]
    scores = ranker.score(better)
    assert scores[0] > scores[1]
    ranker.save(tmp_path / "ranker.txt")
    assert Ranker.load(tmp_path / "ranker.txt").score(better).tolist() == scores.tolist()
    assert ranker.score([]).shape == (0,)
    assert np.isfinite(ranker.score([{"good": None}])).all()


def test_features_of_documents_can_be_handed_over():
    """A table of documents adds features, and the same data trains the same ranker."""
    table = log()
    given = table.select(["feature_id", "good"])
    alone = rank(table.drop_columns("good"), given=given, features=["good"])
    assert alone.features == ["good"]
    again = rank(table.drop_columns("good"), given=given, features=["good"])
    rows = [{"good": value} for value in (0.1, 0.5, 0.9)]
    assert alone.score(rows).tolist() == again.score(rows).tolist()
    assert alone.score(rows)[2] > alone.score(rows)[0]


def test_data_that_cannot_teach_is_refused():
    """A missing column, an unknown feature and a log without clicks are told."""
    table = log(searches=20)
    with pytest.raises(InputError, match="lack position"):
        rank(table.drop_columns("position"))
    with pytest.raises(UsageError, match="price is no numeric column"):
        rank(table, features=["price"])
    silent = table.set_column(3, "label", pa.array([0] * len(table)))
    with pytest.raises(InputError, match="no search has"):
        rank(silent)
