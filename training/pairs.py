"""Training data: which documents are good answers to which queries, and which only look like it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clickwell.analytics.pairs import Pairs
from clickwell.errors import InputError, UsageError
from clickwell.schemas.keys import normal_query
from clickwell.training.corpus import Corpus, records

Pair = tuple[str, str]
"""Query and document."""


@dataclass(frozen=True)
class TrainingPairs:
    """TrainingPairs as indexes into their queries and documents.

    Attributes:
        queries: texts, one for each normal form.
        documents: ids, or texts where the data has no ids.
        positives, negatives: pairs of an index in `queries` and one in `documents`, without repeats.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @classmethod
    def of(cls, positives: Iterable[Pair], negatives: Iterable[Pair]) -> "TrainingPairs":
        """Gather pairs; one that comes again counts once, and one that is both is positive.

        Raises:
            InputError: there is no positive pair.
        """
        queries: dict[str, int] = {}
        texts: list[str] = []
        documents: dict[str, int] = {}

        def pair(query: str, document: str) -> tuple[int, int]:
            index = queries.setdefault(normal_query(query), len(queries))
            if index == len(texts):
                texts.append(query)
            return index, documents.setdefault(document, len(documents))

        good = {pair(*each) for each in positives}
        if not good:
            raise InputError("there is no positive pair to learn from", fix="export pairs of a longer time")
        bad = {pair(*each) for each in negatives} - good
        return cls(texts, list(documents), _indexes(sorted(good)), _indexes(sorted(bad)))

    @classmethod
    def read(cls, source: Any) -> "TrainingPairs":
        """Read what `fine_tune` takes as training data.

        Args:
            source: what `get_query_document_pairs` returns; the folder of a pairs export, of which the training part is
                read; a Parquet or JSON lines file of tuples; or rows: mappings whose values, or sequences whose items,
                are anchor, positive, negatives.

        Raises:
            InputError: it cannot be read, or is no such data.
        """
        if isinstance(source, TrainingPairs):
            return source
        if isinstance(source, Pairs):
            return cls.of(*_judged(source.table, "the pairs"))
        if isinstance(source, (str, Path)):
            path = Path(source)
            if path.is_dir():
                part = path / "train" if (path / "train").is_dir() else path
                return cls.of(*_judged(_table(part / "pairs.parquet"), str(part)))
            rows: Iterable[Any] = _table(path).to_pylist() if path.suffix == ".parquet" else _objects(path)
        else:
            rows = source.to_pylist() if isinstance(source, pa.Table) else source
        tuples = list(_tuples(rows))
        return cls.of(
            ((anchor, positive) for anchor, positive, *_ in tuples),
            ((anchor, negative) for anchor, _, *negatives in tuples for negative in negatives if negative is not None),
        )

    def placed(self, corpus: Corpus | None) -> tuple["TrainingPairs", list[str], int]:
        """Return the pairs over the rows of a list of texts, that list, and how many pairs had no document there.

        Args:
            corpus: whose texts these are, in its order; the pairs may name its documents by id or by text. Without one
                the texts are the pairs' own documents.
        """
        if corpus is None:
            return self, list(self.documents), 0
        by_text = {text: row for row, text in enumerate(corpus.texts)}
        rows = np.array([corpus.row.get(each, by_text.get(each, -1)) for each in self.documents], np.int64)
        positives, negatives = self.positives.copy(), self.negatives.copy()
        positives[:, 1], negatives[:, 1] = rows[positives[:, 1]], rows[negatives[:, 1]]
        good, bad = positives[:, 1] >= 0, negatives[:, 1] >= 0
        if not good.any():
            raise UsageError(
                "no document of the pairs is in the corpus", fix="name the corpus that the pairs were clicked in"
            )
        found = TrainingPairs(self.queries, corpus.ids, positives[good], negatives[bad])
        return found, list(corpus.texts), int((~good).sum() + (~bad).sum())


def _judged(table: pa.Table, place: str) -> tuple[Iterator[Pair], Iterator[Pair]]:
    if lost := {"query", "feature_id", "label"} - set(table.column_names):
        raise InputError(f"{place} lacks {', '.join(sorted(lost))}", fix="write it by `clickwell pairs export`")
    rows = table.select(["query", "feature_id", "label"]).to_pylist()
    return (
        ((row["query"], row["feature_id"]) for row in rows if row["label"] == "positive"),
        ((row["query"], row["feature_id"]) for row in rows if row["label"] == "hard_negative"),
    )


def _tuples(rows: Iterable[Any]) -> Iterator[list[str]]:
    for number, row in enumerate(rows, 1):
        values = list(row.values()) if isinstance(row, Mapping) else list(row)
        if len(values) < 2 or not all(isinstance(value, str) for value in chain(values[:2], filter(None, values[2:]))):
            raise InputError(f"row {number} is not anchor, positive, negatives", fix="all of them are text")
        yield values


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    return (record for _, record in records(path))


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {error}", fix="write it by `clickwell pairs export`") from None


def _indexes(pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(pairs, np.int64).reshape(-1, 2)
