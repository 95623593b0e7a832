"""What a model's order would have earned, from the log of another order: no labels, no experiment.

Each click counts 1 / (examination of the position where it was), so that what was shown low is not held against it,
times the discount of the rank where the model would have shown the document: Joachims, Swaminathan and Schnabel,
"Unbiased learning-to-rank with biased feedback", WSDM 2017. Only the documents that were shown are ordered anew; of
others the log knows nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from clickwell.errors import InputError
from clickwell.training.corpus import Corpus, read_corpus
from clickwell.training.encoders import Encoder
from clickwell.training.evaluation import CONFIDENCE
from clickwell.training.metrics import DRAWS, Floats, Interval, Ints, K
from clickwell.training.model import Model

# A click at a position that one in twenty looks at would count twenty-fold, and a few of them would decide everything.
CLIP = 10.0
ORDERS = ("logged", "base", "model")


@dataclass(frozen=True)
class Estimates:
    """What three orders are worth, and how much better the model's is.

    Attributes:
        values: by order (`logged`, `base`, `model`).
        over_logged, over_base: differences of the model to these.
    """

    values: Mapping[str, float]
    over_logged: Interval
    over_base: Interval


@dataclass(frozen=True)
class Offline:
    """What the log says.

    Attributes:
        searches, clicks: that it rests on.
        queries: different ones; whole queries are drawn for the intervals.
        clipped: share of the clicks whose weight was cut at `clip`: the more, the lower the estimates are.
        unknown: shown documents that the corpus lacks; they stay behind the others.
        confidence: of the intervals.
        ips: discounted gain of a search, by clipped inverse propensities.
        snips: discounted gain of a (corrected) click, self-normalised: the sum of weights cancels, and with it most of
            the variance.
    """

    searches: int
    clicks: int
    queries: int
    clip: float
    clipped: float
    unknown: int
    confidence: float
    ips: Estimates
    snips: Estimates


def evaluate_offline(
    model: Model,
    impressions: duckdb.DuckDBPyRelation,
    theta: Sequence[float],
    *,
    corpus: Corpus | Path | str,
    base: Encoder | None = None,
    clip: float = CLIP,
    seed: int = 0,
) -> Offline:
    """Estimate what the orders of a model and of its base would have earned in a log.

    Args:
        model: as trained or loaded.
        impressions: of `clickwell.analytics.impressions.join`.
        theta: examination by position, > 0; deeper positions count as the last.
        corpus: texts of the documents.
        base: what to compare with; the model's own base when None.
        clip: largest weight of a click.
        seed: of the bootstrap.

    Raises:
        InputError: the log has no click.
    """
    documents = read_corpus(Path(corpus)) if isinstance(corpus, (str, Path)) else corpus
    log = (
        impressions.select("execution_id, query_key, query, feature_id, position, clicked")
        .order("query_key, execution_id, position")
        .to_arrow_table()
    )
    clicked = log["clicked"].to_numpy().astype(bool)
    if not clicked.any():
        raise InputError("the log has no click", fix="name a longer time, or another retriever")
    searches = _numbered(log["execution_id"].to_pylist())
    queries = _numbered(log["query_key"].to_pylist())
    rows = np.array([documents.row.get(each, -1) for each in log["feature_id"].to_pylist()], np.int64)
    positions = log["position"].to_numpy().astype(np.int64)
    texts = log["query"].to_pylist()
    first = np.flatnonzero(np.diff(queries, prepend=-1))
    asked = [texts[row] for row in first.tolist()]
    ranks = [
        positions,
        *(
            reordered(searches, _scores(encoder, asked, documents, queries, rows))
            for encoder in (base or model.base, model)
        ),
    ]
    weights = 1 / np.asarray(theta, np.float64)[np.minimum(positions[clicked], len(theta) - 1)]
    totals = np.zeros((len(first), len(ORDERS) + 2))
    for order, given in enumerate(ranks):
        gains = np.minimum(weights, clip) * discount(given[clicked])
        totals[:, order] = np.bincount(queries[clicked], gains, minlength=len(first))
    totals[:, -2] = np.bincount(queries[clicked], np.minimum(weights, clip), minlength=len(first))
    # Rows are sorted: a search begins where its number changes.
    totals[:, -1] = np.bincount(queries[np.flatnonzero(np.diff(searches, prepend=-1))], minlength=len(first))
    return Offline(
        searches=int(totals[:, -1].sum()),
        clicks=int(clicked.sum()),
        queries=len(first),
        clip=clip,
        clipped=float((weights > clip).mean()),
        unknown=int((rows < 0).sum()),
        confidence=CONFIDENCE,
        ips=estimates(totals[:, : len(ORDERS)], totals[:, -1], seed=seed),
        snips=estimates(totals[:, : len(ORDERS)], totals[:, -2], seed=seed),
    )


def discount(ranks: Ints) -> Floats:
    """Return what a click at each 0-based rank is worth: 1 / log2(rank + 2) among the first ten, then 0."""
    worth: Floats = np.where(ranks < K, 1 / np.log2(ranks + 2.0), 0.0)
    return worth


def reordered(searches: Ints, scores: Floats) -> Ints:
    """Return the 0-based rank of each row within its search by falling score; equal scores keep their order.

    Args:
        searches: number of each row's search, ascending.
        scores: of the rows.
    """
    order = np.lexsort((np.arange(len(scores)), -scores, searches))
    starts = np.flatnonzero(np.diff(searches, prepend=-1))
    lengths = np.diff(starts, append=len(searches))
    ranks = np.empty(len(scores), np.int64)
    ranks[order] = np.arange(len(scores)) - np.repeat(starts, lengths)
    return ranks


def estimates(gains: Floats, per: Floats, *, seed: int = 0) -> Estimates:
    """Return the ratios of sums over queries, with percentile intervals over whole queries drawn with replacement.

    Args:
        gains: of each query and order, (queries, 3).
        per: what each query's gains are divided by in sum: its searches, or its clicks' weights.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    n = len(gains)
    drawn = np.empty((DRAWS, len(ORDERS)))
    for draw in range(DRAWS):
        counts = rng.multinomial(n, np.full(n, 1 / n))
        drawn[draw] = counts @ gains / max(float(counts @ per), 1e-12)
    values: Floats = gains.sum(axis=0) / float(per.sum())
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    logged, base = (
        Interval(float(values[2] - values[other]), *np.quantile(drawn[:, 2] - drawn[:, other], ends).tolist())
        for other in (0, 1)
    )
    return Estimates(dict(zip(ORDERS, values.tolist(), strict=True)), logged, base)


def _scores(encoder: Encoder | Model, asked: Sequence[str], documents: Corpus, queries: Ints, rows: Ints) -> Floats:
    """Return the cosine of each row's query and document; -inf where the corpus lacks the document."""
    shown, places = np.unique(rows, return_inverse=True)
    vectors = encoder.encode_document([documents.texts[row] for row in shown.tolist()])
    asked_rows = encoder.encode_query(asked)[queries]
    scores: Floats = np.einsum("nd,nd->n", asked_rows, vectors[places]).astype(np.float64)
    scores[rows < 0] = -np.inf
    return scores


def _numbered(names: Sequence[str]) -> Ints:
    """Return 0, 1, ... for names that come in groups."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
