"""Intervention harvesting: how often each position is examined, from results that were shown at several positions.

The position-based model says P(click) = theta[position] * gamma[query, document]. Where rankers differ, a document
comes up for the same query at several positions, and the ratio of its click rates there is the ratio of the thetas,
whatever its gamma (Agarwal et al., Estimating position bias without intrusive interventions, WSDM 2019: AllPairs).
All pairs of positions are used at once by conditional likelihood: given the clicks of one (query, document), position k
has the share n_k theta_k / sum_j(n_j theta_j), which is free of gamma. Its maximum needs only that the expected clicks
are a product, not that clicks are Poisson (Wooldridge, Distribution-free estimation of some nonlinear panel data
models, 1999).

Everything here is a pure function of arrays.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A position takes part with so many informative (query, document) pairs and clicks of theirs: below, the normal
# approximation that the intervals rest on does not hold.
MIN_PAIRS = 20
MIN_CLICKS = 5
# Standard deviation of log(theta) above which an estimate says nothing: its 90 % interval spans a factor of 5.
MAX_SD = 0.5
RESAMPLES = 400
# Clusters that are drawn: more do not change the spread, and each needs a K x K matrix.
_BLOCKS = 256
# Quantile of the normal distribution for 90 % intervals.
Z90 = 1.6449


@dataclass(frozen=True)
class Harvest:
    """What the changes of rank say.

    Attributes:
        theta: relative to position 0; NaN where the log says nothing.
        low, high: 90 % bootstrap interval; NaN likewise.
        evidence: informative pairs at each position: shown there and elsewhere, clicked at least once.
    """

    theta: Floats
    low: Floats
    high: Floats
    evidence: Ints


def harvest(shown: Floats, clicks: Floats, cluster: Ints, *, seed: int = 1) -> Harvest:
    """Estimate examination at each position.

    The estimates are drawn towards a smooth curve as far as they themselves ask for it, see `smoothed`: no shape is
    forced. The intervals are those of the estimates as they were before, so the gain is not counted on.

    Args:
        shown: impressions of each pair at each position, shape (pairs, positions).
        clicks: impressions that were clicked, same shape.
        cluster: what is drawn with all that belongs to it, shape (pairs,): the pair's query.
        seed: of the bootstrap.
    """
    informative = (clicks.sum(1) > 0) & ((shown > 0).sum(1) > 1)
    shown, clicks, cluster = shown[informative], clicks[informative], cluster[informative]
    evidence = (shown > 0).sum(0)
    positions = shown.shape[1]
    theta, low, high = (np.full(positions, np.nan) for _ in range(3))
    used = _connected(shown, clicks)
    while len(used) > 1:
        log_theta, shares = _fit(shown[:, used], clicks[:, used])
        draws = _bootstrap(clicks[:, used], shares, cluster, np.random.default_rng(seed))
        spread = np.concatenate(([0.0], draws.std(0)))
        if (spread <= MAX_SD).all():
            better = np.concatenate(
                ([0.0], smoothed(log_theta[1:], np.cov(draws.T, ddof=0).reshape(draws.shape[1], -1), used))
            )
            theta[used] = np.exp(better)
            low[used], high[used] = np.exp(better - Z90 * spread), np.exp(better + Z90 * spread)
            break
        used = used[spread <= MAX_SD]
    return Harvest(theta, low, high, evidence)


def smoothed(log_theta: Floats, covariance: Floats, positions: Ints) -> Floats:
    """Draw estimates towards a curve whose slope over log(rank) changes little, as far as the estimates agree with one.

    The change of slope is a Wiener process over log(rank) (a smoothing spline); a power law, the usual form of such
    curves, changes none. Its size is averaged over with the weight that the estimates give to each (empirical Bayes):
    a curve with a fold or a carousel is left as it is.

    Args:
        log_theta: of all but the first position.
        covariance: of these.
        positions: 0-based, the first included.
    """
    if len(positions) < 3:
        return log_theta
    at = np.log1p(positions)
    gap = np.diff(at)
    slopes = np.diff(np.eye(len(at)), axis=0) / gap[:, None]
    bends = np.diff(slopes, axis=0)[:, 1:]
    bend, spread = bends @ log_theta, bends @ covariance @ bends.T
    room = np.diag((gap[:-1] + gap[1:]) / 2)
    fits, scores = [], []
    for size in np.geomspace(0.05, 50, 30):
        total = spread + size**2 * room
        pull = np.linalg.solve(total, bend)
        fits.append(log_theta - covariance @ bends.T @ pull)
        scores.append(-0.5 * (np.linalg.slogdet(total)[1] + bend @ pull))
    weights = np.exp(np.array(scores) - max(scores))
    return np.average(np.array(fits), axis=0, weights=weights)


def _connected(shown: Floats, clicks: Floats) -> Ints:
    """Return the positions with enough evidence that shared documents link with position 0, in order."""
    seen = (shown > 0).astype(np.float64)
    fit = (seen.sum(0) >= MIN_PAIRS) & (clicks.sum(0) >= MIN_CLICKS)
    linked = (seen.T @ seen > 0) & fit & fit[:, None]
    reached = np.zeros(len(fit), bool)
    reached[0] = fit[0]
    while (grown := reached | linked[reached].any(0)).sum() > reached.sum():
        reached = grown
    return np.flatnonzero(reached)


def _fit(shown: Floats, clicks: Floats) -> tuple[Floats, Floats]:
    """Return log(theta) at the maximum of the conditional likelihood, and each pair's shares of clicks there."""
    log_theta, total = np.zeros(shown.shape[1]), clicks.sum(1)
    for _ in range(100):
        shares = _shares(shown, log_theta)
        gradient = clicks.sum(0) - total @ shares
        step = np.linalg.lstsq(_information(shares, total), gradient[1:], rcond=None)[0]
        # Far from the maximum a full step can overshoot.
        log_theta[1:] += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return log_theta, _shares(shown, log_theta)


def _shares(shown: Floats, log_theta: Floats) -> Floats:
    expected = shown * np.exp(log_theta)
    total: Floats = expected.sum(1, keepdims=True)
    return np.divide(expected, total, out=np.zeros_like(expected), where=total > 0)


def _information(shares: Floats, total: Floats) -> Floats:
    """Return the Fisher information about all but the first position."""
    shares = shares[:, 1:]
    information: Floats = np.diag(total @ shares) - (shares * total[:, None]).T @ shares
    return information


def _bootstrap(clicks: Floats, shares: Floats, cluster: Ints, rng: np.random.Generator) -> Floats:
    """Return how far log(theta) moves, shape (RESAMPLES, positions - 1), when clusters are drawn with replacement.

    One Newton step from the whole log's maximum replaces the fit of each resample (Shao and Tu, The Jackknife and
    Bootstrap, 1995, 5.1): as good for estimates of this kind, and hundreds of times as fast.
    """
    _, block = np.unique(cluster, return_inverse=True)
    blocks = int(block.max()) + 1
    if blocks > _BLOCKS:
        block, blocks = rng.integers(_BLOCKS, size=blocks)[block], _BLOCKS
    total = clicks.sum(1)
    scores = (clicks - total[:, None] * shares)[:, 1:]
    order = np.argsort(block, kind="stable")
    bounds = np.searchsorted(block[order], np.arange(blocks + 1))
    groups = [order[first:last] for first, last in pairwise(bounds)]
    score = np.array([scores[group].sum(0) for group in groups])
    information = np.array([_information(shares[group], total[group]) for group in groups])
    times = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES).astype(np.float64)
    drawn = np.tensordot(times, information, 1)
    # A resample may lack a position altogether; a trace of the whole log keeps it solvable.
    drawn += 1e-3 * information.sum(0)
    steps: Floats = np.linalg.solve(drawn, (times @ score)[:, :, None])[:, :, 0]
    return steps
