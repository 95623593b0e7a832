"""The arithmetic of clicks with position bias: prior, posterior, interval, held-back likelihood. Pure functions.

`Cells` are impressions summed by pair and position; theta is the examination of each position.
"""

from dataclasses import dataclass

import numpy as np

from clickwell.analytics.harvesting import Z90, Floats, Ints

# Worth of the prior in examinations that are tried: from next to nothing to more than most pairs ever get.
WEIGHTS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0)
# Expected clicks after which a query's own documents say as much of its documents as the ranks do.
QUERY_WEIGHT = 3.0
# No prediction is surer than this; a log-likelihood would be infinite.
_SURE = 1e-6


@dataclass(frozen=True)
class Cells:
    """Impressions by (query, document) and position; all arrays have the same length.

    Attributes:
        pair: number of the pair.
        position: 0-based.
        shown: impressions.
        clicks: impressions that were clicked.
    """

    pair: Ints
    position: Ints
    shown: Floats
    clicks: Floats

    def sums(self, values: Floats, pairs: int) -> Floats:
        """Return the sum of the values over each pair."""
        return np.bincount(self.pair, values, pairs).astype(np.float64)


@dataclass(frozen=True)
class ClickModel:
    """What turns clicks into relevance.

    Attributes:
        theta: examination of each position.
        prior: what a document at each position is worth on average.
        a: how many examinations the prior is worth.
    """

    theta: Floats
    prior: Floats
    a: float


def rank_prior(cells: Cells, theta: Floats) -> Floats:
    """Return what a document at each position is worth on average: CTR / theta, in [0, 1]."""
    shown = np.bincount(cells.position, cells.shown, len(theta))
    clicks = np.bincount(cells.position, cells.clicks, len(theta))
    overall = clicks.sum() / max(float(shown @ theta), 1.0)
    # A position that was hardly shown is worth what all are.
    worth: Floats = np.clip((clicks + overall) / (shown * theta + 1), 0, 1)
    return worth


def query_prior(query: Ints, credit: Floats, expected: Floats, prior: Floats) -> Floats:
    """Return the prior of each pair with what the query's other documents say: some queries have many good answers.

    The factor is (credit of the others + QUERY_WEIGHT) / (what the prior expected of them + QUERY_WEIGHT).

    Args:
        query: number of each pair's query.
        credit: of each pair, on the scale on which `expected` is right on the whole.
        expected: exposure * prior.
        prior: of each pair, from its ranks.
    """

    def others(values: Floats) -> Floats:
        left: Floats = np.bincount(query, values)[query] - values
        return left

    factor = (others(credit) + QUERY_WEIGHT) / (others(expected) + QUERY_WEIGHT)
    return np.clip(prior * factor, 0, 1)


def posterior(clicks: Floats, exposure: Floats, prior: Floats, a: float) -> Floats:
    """Return (clicks + a * prior) / (exposure + a), at most 1."""
    return np.minimum((clicks + a * prior) / (exposure + a), 1.0)


def interval(clicks: Floats, exposure: Floats, prior: Floats, a: float) -> tuple[Floats, Floats]:
    """Return the central 90 % of the posterior, a gamma distribution of shape clicks + a * prior, within [0, 1].

    Its quantiles are those of Wilson and Hilferty (1931), within 1 % for shapes above 1.
    """
    shape, rate = np.maximum(clicks + a * prior, 1e-9), exposure + a

    def quantile(z: float) -> Floats:
        cube = np.maximum(1 - 1 / (9 * shape) + z / (3 * np.sqrt(shape)), 0)
        value: Floats = np.clip(shape * cube**3 / rate, 0, 1)
        return value

    return quantile(-Z90), quantile(Z90)


def predicted(known: Cells, asked: Cells, model: ClickModel) -> Floats:
    """Return the chance of a click in each asked cell, from what is known of its pair."""
    theta, prior = model.theta, model.prior
    pairs = 1 + int(max(known.pair.max(initial=0), asked.pair.max(initial=0)))
    exposure = known.sums(known.shown * theta[known.position], pairs)
    shown = known.sums(known.shown, pairs)
    # A pair that was never shown before is worth what its place is.
    own = known.sums(known.shown * prior[known.position], pairs) / np.maximum(shown, 1)
    expected = np.where(shown[asked.pair] > 0, own[asked.pair], prior[asked.position])
    clicks = known.sums(known.clicks, pairs)
    return theta[asked.position] * posterior(clicks[asked.pair], exposure[asked.pair], expected, model.a)


def log_likelihood(cells: Cells, chance: Floats) -> Floats:
    """Return log2 of the likelihood of each cell's clicks."""
    chance = np.clip(chance, _SURE, 1 - _SURE)
    return cells.clicks * np.log2(chance) + (cells.shown - cells.clicks) * np.log2(1 - chance)


def chosen_weight(known: Cells, asked: Cells, theta: Floats, prior: Floats) -> float:
    """Return the weight of the prior under which the known cells predict the asked ones best."""
    scores = [log_likelihood(asked, predicted(known, asked, ClickModel(theta, prior, a))).sum() for a in WEIGHTS]
    return WEIGHTS[int(np.argmax(scores))]


def perplexity(cells: Cells, chance: Floats) -> float:
    """Return the mean over positions of 2 ** -(mean log2 likelihood of an impression); 1 is perfect, 2 a coin."""
    gained = np.bincount(cells.position, log_likelihood(cells, chance))
    shown = np.bincount(cells.position, cells.shown)
    return float(np.mean(2 ** -(gained[shown > 0] / shown[shown > 0])))


def perplexities(known: Cells, asked: Cells, model: ClickModel) -> tuple[float, float, float]:
    """Return the asked cells' perplexity under the position-based model, under rank CTR and under document CTR."""
    flat = np.ones_like(model.theta)
    overall = np.full_like(flat, known.clicks.sum() / max(known.shown.sum(), 1))
    return (
        perplexity(asked, predicted(known, asked, model)),
        perplexity(asked, rank_prior(known, flat)[asked.position]),
        # A document's own rate, with one impression's worth of the overall one so that it is never 0 or 1.
        perplexity(asked, predicted(known, asked, ClickModel(flat, overall, 1.0))),
    )
