"""Regression-EM: examination and relevance from all impressions, without any change of rank; a second opinion.

Wang et al., Position bias estimation for unbiased learning to rank in personal search, WSDM 2018. It uses every click,
but what it cannot see in the features it takes for examination: on sparse logs it is worse than `harvesting`, and where
one fixed ranker never changes its order it returns what its features suggest.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDS = 100
# How many impressions the regression's opinion of a pair weighs.
PRIOR_WEIGHT = 5.0
_RIDGE = 1e-3
# Probabilities stay within this and 1 less this: at 0 or 1 nothing could move them again.
_MOST = 1 - 1e-4


def regression_em(shown: Floats, clicks: Floats) -> Floats:
    """Return theta, shape (positions,), with theta[0] = 1.

    The relevance of a pair is regressed (logistic) on what the log tells of it without its clicks, the logarithm of its
    mean rank and the square of that, and then moved towards the pair's own clicks.

    Args:
        shown: impressions of each pair at each position, shape (pairs, positions).
        clicks: impressions that were clicked, same shape.
    """
    pairs, positions = shown.shape
    impressions = shown.sum(1)
    rank = np.log1p(shown @ np.arange(positions) / impressions)
    features = np.column_stack([np.ones_like(rank), rank, rank**2])
    row, place = np.nonzero(shown)
    clicked, unclicked = clicks[row, place], (shown - clicks)[row, place]
    seen = np.maximum(shown.sum(0), 1)
    theta = np.maximum(clicks.sum(0), 0.5) / seen
    theta = np.minimum(theta / theta.max(), _MOST)
    gamma = np.full(pairs, 0.2)
    weights: Floats = np.zeros(features.shape[1])
    for _ in range(ROUNDS):
        before, likes, looks = theta, gamma[row], theta[place]
        missed = 1 - looks * likes
        examined = np.bincount(place, clicked + unclicked * looks * (1 - likes) / missed, positions)
        liked = np.bincount(row, clicked + unclicked * likes * (1 - looks) / missed, pairs).astype(np.float64)
        theta = np.clip(examined / seen, 1 - _MOST, _MOST)
        prior, weights = _regressed(features, liked, impressions, weights)
        gamma = np.clip((liked + PRIOR_WEIGHT * prior) / (impressions + PRIOR_WEIGHT), 1 - _MOST, _MOST)
        if np.abs(np.log(theta / before)).max() < 1e-4:
            break
    relative: Floats = theta / theta[0]
    return relative


def _regressed(features: Floats, liked: Floats, impressions: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Take a Newton step of a logistic regression of `liked` out of `impressions`; return its fit and its weights."""
    fit = 1 / (1 + np.exp(-features @ weights))
    information = (features * (impressions * fit * (1 - fit))[:, None]).T @ features
    gradient = features.T @ (liked - impressions * fit)
    weights = weights + np.linalg.solve(information + _RIDGE * np.eye(len(weights)), gradient)
    return 1 / (1 + np.exp(-features @ weights)), weights
