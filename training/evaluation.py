"""Whether a model is better than its base, with labels; and the gate that lets only that through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clickwell.errors import InputError
from clickwell.training.corpus import Corpus, Grades, read_corpus, read_qrels, read_queries
from clickwell.training.encoders import Encoder
from clickwell.training.metrics import Floats, Relevant, first_ranks, ndcg, recall, resampled, search
from clickwell.training.model import Model, marks

METRICS = ("ndcg@10", "mrr", "recall@10")
CONFIDENCE = 0.95
# Below this many queries the bootstrap's intervals are too narrow to be trusted.
MIN_QUERIES = 30


@dataclass(frozen=True)
class Comparison:
    """One metric of a model and of its base over the same queries.

    Attributes:
        model, base: means.
        difference: model - base.
        low, high: ends of the paired bootstrap interval of the difference.
        relative: difference / base; None when the base has 0.
        relative_low, relative_high: ends of the interval of that.
    """

    model: float
    base: float
    difference: float
    low: float
    high: float
    relative: float | None
    relative_low: float | None
    relative_high: float | None


@dataclass(frozen=True)
class Group:
    """Some queries and how they fare; `metrics` by name."""

    queries: int
    metrics: Mapping[str, Comparison]


@dataclass(frozen=True)
class Gate:
    """Whether the model may be shipped, in a sentence why, and on which group's NDCG@10 that was decided."""

    ship: bool
    why: str
    group: str


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        documents: in the corpus; every one of them is a candidate for every query.
        unjudged: queries without a relevant document in the corpus: no metric is defined for them, they are left out.
        confidence: of the intervals.
        groups: `all`; `unseen_queries`, which the model was not trained on; `unseen_queries_and_documents`, of which it
            has not seen a relevant document either.
        gate: the verdict.
        queries: ids, in the order of `scores`.
        scores: per query NDCG@10 of base and model, two columns.
    """

    documents: int
    unjudged: int
    confidence: float
    groups: Mapping[str, Group]
    gate: Gate
    queries: Sequence[str]
    scores: Floats


def evaluate(
    model: Model,
    *,
    corpus: Corpus | Path | str,
    queries: Mapping[str, str] | Path | str,
    qrels: Grades | Path | str,
    base: Encoder | None = None,
    seed: int = 0,
) -> Evaluation:
    """Search the whole corpus for each judged query with the model and with its base, and compare.

    Args:
        model: as trained or loaded.
        corpus: all documents, or their file.
        queries: query_id -> text, or their file.
        qrels: grades; a document without one counts as not relevant.
        base: what to compare with; the model's own base when None.
        seed: of the bootstrap.

    Raises:
        InputError: a file cannot be read, or no query has a relevant document in the corpus.
    """
    documents = read_corpus(Path(corpus)) if isinstance(corpus, (str, Path)) else corpus
    texts = read_queries(Path(queries)) if isinstance(queries, (str, Path)) else queries
    grades = read_qrels(Path(qrels)) if isinstance(qrels, (str, Path)) else qrels
    relevant = {
        query: Relevant.graded({documents.row[each]: g for each, g in grades[query].items() if each in documents.row})
        for query in texts
        if query in grades
    }
    judged = [query for query, found in relevant.items() if len(found.rows)]
    if not judged:
        raise InputError("no query has a relevant document in the corpus", fix="check that ids agree between the files")
    wanted = [relevant[query] for query in judged]
    asked = [texts[query] for query in judged]
    scores = np.stack(
        [_scores(base or model.base, asked, documents, wanted), _scores(model, asked, documents, wanted)], axis=2
    )
    groups = {
        name: compare(scores[:, members], seed=seed)
        for name, members in _groups(model, asked, documents, wanted).items()
        if members.any()
    }
    return Evaluation(
        documents=len(documents),
        unjudged=len(grades.keys() & texts.keys()) - len(judged),
        confidence=CONFIDENCE,
        groups=groups,
        gate=gate(groups),
        queries=judged,
        scores=scores[0],
    )


def compare(scores: NDArray[np.float64], *, seed: int = 0) -> Group:
    """Compare per-query scores of shape (metrics, queries, 2), base first."""
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    metrics = {}
    for name, values in zip(METRICS, scores, strict=True):
        base, model = values.mean(axis=0).tolist()
        drawn = resampled(values, seed=seed)
        low, high = np.quantile(drawn[:, 1] - drawn[:, 0], ends).tolist()
        if base > 0 and (drawn[:, 0] > 0).all():
            relative_low, relative_high = np.quantile(drawn[:, 1] / drawn[:, 0] - 1, ends).tolist()
            relative = (model / base - 1, relative_low, relative_high)
        else:
            relative = (None, None, None)
        metrics[name] = Comparison(model, base, model - base, low, high, *relative)
    return Group(scores.shape[1], metrics)


def gate(groups: Mapping[str, Group]) -> Gate:
    """Decide on the queries that the model has not seen: ship only what is better there with confidence."""
    name = "unseen_queries"
    group = groups.get(name)
    if group is None or group.queries < MIN_QUERIES:
        count = group.queries if group else 0
        return Gate(False, f"only {count} judged queries are new to the model; {MIN_QUERIES} are needed", name)
    found = group.metrics["ndcg@10"]
    interval = f"NDCG@10 changes by {found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    where = f"on {group.queries:,} queries that the model has not seen"
    if found.low > 0:
        return Gate(True, f"{interval} {where}", name)
    return Gate(False, f"{interval} {where}: that may be chance", name)


def _scores(
    encoder: Encoder | Model, queries: Sequence[str], documents: Corpus, relevant: Sequence[Relevant]
) -> NDArray[np.float64]:
    """Return the metrics of each query, in the order of METRICS."""
    asked, held = encoder.encode_query(queries), encoder.encode_document(documents.texts)
    found = search(asked, held)
    return np.stack([ndcg(found, relevant), 1 / first_ranks(asked, held, relevant), recall(found, relevant)])


def _groups(
    model: Model, queries: Sequence[str], documents: Corpus, relevant: Sequence[Relevant]
) -> dict[str, NDArray[np.bool_]]:
    new_query = ~np.isin(marks(queries), model.trained_queries)
    seen = np.isin(marks(documents.ids), model.trained_documents) | np.isin(
        marks(documents.texts), model.trained_documents
    )
    new_documents = np.array([not seen[one.rows].any() for one in relevant], bool)
    return {
        "all": np.ones(len(queries), bool),
        "unseen_queries": new_query,
        "unseen_queries_and_documents": new_query & new_documents,
    }
