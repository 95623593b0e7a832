"""Examination from changes of rank, on simulated clicks of several kinds of people; pure arrays, no lake."""

from dataclasses import dataclass

import numpy as np
import pytest

from clickwell.analytics.harvesting import harvest, smoothed
from clickwell.analytics.propensities import DECAY, judged
from clickwell.analytics.regression_em import regression_em

POSITIONS, CANDIDATES = 10, 15


@dataclass
class Log:
    """Impressions and clicks by (pair, position), the query of each pair, and how often each position was looked at."""

    shown: np.ndarray
    clicks: np.ndarray
    query: np.ndarray
    looked: np.ndarray


def simulated(theta, *, searches=60_000, queries=2500, rankers=3, noise=0.25, seed=1, trust=None, stay=None) -> Log:
    """Searches of Zipf-distributed queries, each served by one of the rankers.

    Args:
        theta: chance that a position is looked at.
        noise: of the rankers' scores; gamma itself lies between 0 and 1.
        trust: chances by position that a looked-at relevant and a looked-at irrelevant result is clicked.
        stay: people read from the top and go on with these chances after a click and after none; theta is not used.
    """
    rng = np.random.default_rng(seed)
    relevant = rng.random((queries, CANDIDATES)) < 0.3
    gamma = np.where(relevant, rng.normal(0.65, 0.1, relevant.shape).clip(0.2, 0.95), rng.beta(1.5, 15, relevant.shape))
    orders = np.argsort(-(gamma[None] + rng.normal(0, noise, (rankers, queries, CANDIDATES))), axis=2)[:, :, :POSITIONS]
    zipf = (1.0 + np.arange(queries)) ** -0.7
    asked = rng.choice(queries, searches, p=zipf / zipf.sum())
    lists = orders[rng.integers(rankers, size=searches), asked]
    liked = gamma[asked[:, None], lists]
    if trust is not None:
        is_relevant = relevant[asked[:, None], lists]
        liked = np.where(is_relevant, trust[0], trust[1])
    would = rng.random(lists.shape) < liked
    looked = rng.random(lists.shape) < theta
    if stay is not None:
        on = np.ones(searches, bool)
        for place in range(POSITIONS):
            looked[:, place] = on
            on &= rng.random(searches) < np.where(would[:, place], *stay)
    pair = (asked[:, None] * CANDIDATES + lists).ravel()
    place = np.tile(np.arange(POSITIONS), searches)
    shown, clicks = np.zeros((2, queries * CANDIDATES, POSITIONS))
    np.add.at(shown, (pair, place), 1)
    np.add.at(clicks, (pair, place), (would & looked).ravel())
    return Log(shown, clicks, np.repeat(np.arange(queries), CANDIDATES), looked.mean(0))


def errors(found, truth):
    """Relative errors below the first position."""
    return np.abs(found.theta[1:] / (np.asarray(truth)[1:] / truth[0]) - 1)


CURVES = {
    "power": (1 + np.arange(POSITIONS)) ** -1.0,
    "fold": np.array([1, 0.9, 0.8, 0.3, 0.25, 0.22, 0.2, 0.18, 0.16, 0.15]),
    "carousel": np.array([1, 0.6, 0.4, 0.3, 0.5, 0.35, 0.25, 0.18, 0.12, 0.3]),
    "advert": np.array([0.6, 1.0, 0.7, 0.5, 0.4, 0.35, 0.3, 0.27, 0.24, 0.22]),
    "flat": np.linspace(1, 0.75, POSITIONS),
}


@pytest.mark.parametrize("noise", [0.15, 1.0], ids=["good-rankers", "weak-rankers"])
@pytest.mark.parametrize("name", CURVES)
def test_any_curve_is_found(name, noise):
    """Curves with a fold, a carousel or an advert on top are found as well as smooth ones, with honest intervals."""
    truth = CURVES[name]
    log = simulated(truth, noise=noise)
    found = harvest(log.shown, log.clicks, log.query)
    wrong = errors(found, truth)
    inside = (found.low <= truth / truth[0]) & (truth / truth[0] <= found.high)
    print(f"{name}: mean error {wrong.mean():.3f}, max {wrong.max():.3f}, {inside[1:].sum()} of 9 in the interval")
    assert wrong.mean() <= 0.05
    assert wrong.max() <= 0.1
    assert inside[1:].sum() >= 8


def test_of_cascading_people_it_finds_how_often_positions_are_looked_at():
    """Readers who stop when they found something break the model, yet the curve is what they looked at."""
    log = simulated(CURVES["power"], stay=(0.4, 0.9))
    wrong = errors(harvest(log.shown, log.clicks, log.query), log.looked)
    print(f"cascade: mean error {wrong.mean():.3f}, max {wrong.max():.3f}")
    assert wrong.mean() <= 0.05


def test_with_trust_bias_it_finds_by_how_much_the_same_result_is_clicked_less():
    """Where high ranks are trusted, the curve is that of relevant results, which get most of the clicks."""
    rank = np.arange(POSITIONS)
    trust = (0.9 - 0.02 * rank, 0.15 * 0.8**rank + 0.03)
    log = simulated(CURVES["power"], trust=trust)
    found = harvest(log.shown, log.clicks, log.query)
    of_relevant, of_others = (CURVES["power"] * each / each[0] for each in trust)
    print("trust bias: relevant", of_relevant.round(3), "found", found.theta.round(3), "others", of_others.round(3))
    assert errors(found, of_relevant)[:6].mean() <= 0.05
    assert (of_others[1:] < found.theta[1:]).all()
    assert (found.theta[1:] < of_relevant[1:]).all()


@pytest.mark.parametrize("rankers", [1, 3])
def test_changes_of_rank_decide_whether_the_log_can_tell(rankers):
    """One ranker that never reorders gives the declared prior and says so."""
    log = simulated(CURVES["power"], rankers=rankers)
    found = judged(harvest(log.shown, log.clicks, log.query), log.clicks.sum(0).astype(int), rankers)
    assert found.identifiable is (rankers > 1)
    assert found.theta[0] == 1
    if rankers == 1:
        assert found.method == "prior"
        assert "one ranker" in found.note
        assert found.theta == pytest.approx([(1 + k) ** -DECAY for k in range(POSITIONS)])
        assert found.low == [1.0] + [None] * 9
        assert found.evidence == [0] * POSITIONS


def test_a_short_log_says_less_or_nothing():
    """With few clicks, positions without evidence are continued from the declared prior or all of it is declined."""
    for searches in (1, 50, 500, 2000):
        log = simulated(CURVES["power"], searches=searches)
        found = judged(harvest(log.shown, log.clicks, log.query), log.clicks.sum(0).astype(int), 3)
        assert len(found.theta) == POSITIONS
        assert all(0 < theta < 2 for theta in found.theta)
        assert found.identifiable is (searches >= 500)
    few = judged(harvest(log.shown[:150], log.clicks[:150], log.query[:150]), log.clicks.sum(0).astype(int), 3)
    assert "too little evidence" in few.note or not few.identifiable


def test_a_first_position_that_never_changes_is_not_guessed():
    """Where a pinned result holds the top, the others' ratios to it are unknown."""
    log = simulated(CURVES["power"])
    log.shown[:, 0] = 0
    log.clicks[:, 0] = 0
    found = judged(harvest(log.shown, log.clicks, log.query), np.full(POSITIONS, 1000), 3)
    assert not found.identifiable


def test_smoothing_keeps_what_the_estimates_insist_on():
    """Sure estimates stay; unsure ones move onto the power law that they scatter about."""
    positions, truth = np.arange(POSITIONS), -0.8 * np.log1p(np.arange(1, POSITIONS))
    bumpy = truth + np.where(np.arange(1, POSITIONS) == 4, 0.5, 0)
    assert smoothed(bumpy, np.eye(9) * 1e-6, positions) == pytest.approx(bumpy, abs=0.01)
    noisy = truth + np.random.default_rng(1).normal(0, 0.1, 9)
    near = smoothed(noisy, np.eye(9) * 0.01, positions)
    assert np.abs(near - truth).mean() < 0.7 * np.abs(noisy - truth).mean()


def test_the_second_opinion_beats_plain_click_rates():
    """Regression-EM is biased, but nearer to the truth than the ratio of click rates."""
    log = simulated(CURVES["power"], noise=0.15)
    theta = regression_em(log.shown[log.shown.sum(1) > 0], log.clicks[log.shown.sum(1) > 0])
    rates = log.clicks.sum(0) / log.shown.sum(0)
    truth = CURVES["power"]
    assert theta[0] == 1
    assert np.abs(theta / truth - 1).mean() < 0.6 * np.abs(rates / rates[0] / truth - 1).mean()
