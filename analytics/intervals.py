"""Intervals, tests and minimum evidence for rates, so that noise is not reported as a finding. Free of I/O.

Sources: Wilson, JASA 22 (1927), for the interval of one rate; Newcombe, Statistics in Medicine 17 (1998), method 10,
for the interval of a difference; Benjamini and Hochberg, JRSS B 57 (1995), for many tests at once.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# 95 %, two-sided.
Z = 1.959963984540054
# Below, the values of a skewed distribution do not tell how far their mean may be off.
FEW = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate with its evidence.

    Attributes:
        count, of: numerator and denominator.
        value: their ratio; None when there is no evidence, which is not the same as 0.
        low, high: Wilson's 95 % interval; None with `value`.
    """

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its evidence.

    Attributes:
        of: how many values.
        value: their mean; None without any.
        low, high: the 95 % interval by the normal approximation; None with fewer than FEW values.
    """

    of: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """How a rate or a mean differs between two periods.

    Attributes:
        before, after: the two values; None when one of them is not known.
        difference: `after - before`.
        low, high: 95 % interval of the difference.
        p: two-sided p-value of "no difference".
        clear: whether the interval excludes no difference.
    """

    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    clear: bool


def wilson(count: ArrayLike, of: ArrayLike, z: float = Z) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and the upper bound of each rate `count / of`; 0 and 1 where `of` is 0."""
    n, k = np.asarray(of, np.float64), np.asarray(count, np.float64)
    known = np.maximum(n, 1)
    p = k / known
    centre = p + z * z / (2 * known)
    reach = z * np.sqrt(p * (1 - p) / known + z * z / (4 * known * known))
    scale = 1 + z * z / known
    # Nothing and all are their own bounds, which rounding would miss by a hair.
    return np.where(k > 0, (centre - reach) / scale, 0.0), np.where(k < n, (centre + reach) / scale, 1.0)


def rate(count: int, of: int) -> Rate:
    """Return a rate with its interval."""
    if not of:
        return Rate(count, of, None, None, None)
    low, high = wilson(count, of)
    return Rate(count, of, count / of, float(low), float(high))


def mean(total: float, squares: float, of: int) -> Mean:
    """Return the mean of `of` values from their sum and the sum of their squares."""
    if not of:
        return Mean(0, None, None, None)
    value = total / of
    if of < FEW:
        return Mean(of, value, None, None)
    reach = Z * math.sqrt(max(squares - of * value * value, 0.0) / (of - 1) / of)
    return Mean(of, value, value - reach, value + reach)


def rate_change(before: Rate, after: Rate) -> Change:
    """Compare two independent rates: Newcombe's interval of the difference, and the pooled two-proportion z test."""
    if before.value is None or after.value is None:
        return Change(before.value, after.value, None, None, None, None, clear=False)
    assert before.low is not None
    assert before.high is not None
    assert after.low is not None
    assert after.high is not None
    difference = after.value - before.value
    low = difference - math.hypot(after.value - after.low, before.high - before.value)
    high = difference + math.hypot(after.high - after.value, before.value - before.low)
    pooled = (before.count + after.count) / (before.of + after.of)
    error = math.sqrt(pooled * (1 - pooled) * (1 / before.of + 1 / after.of))
    p = two_sided(difference / error) if error else 1.0
    return Change(before.value, after.value, difference, low, high, p, clear=low > 0 or high < 0)


def mean_change(before: Mean, after: Mean) -> Change:
    """Compare two independent means by the normal approximation."""
    if before.value is None or after.value is None or before.high is None or after.high is None:
        return Change(before.value, after.value, None, None, None, None, clear=False)
    difference = after.value - before.value
    reach = math.hypot(before.high - before.value, after.high - after.value)
    p = two_sided(difference / reach * Z) if reach else float(difference == 0)
    low, high = difference - reach, difference + reach
    return Change(before.value, after.value, difference, low, high, p, clear=low > 0 or high < 0)


def two_sided(z: float) -> float:
    """Return the chance that a standard normal value is at least as far from 0 as `z`."""
    return math.erfc(abs(z) / math.sqrt(2))


def tail(count: ArrayLike, of: ArrayLike, chance: ArrayLike) -> NDArray[np.float64]:
    """Bound the chance that `of` trials bring a count as far from `of * chance`, to its side of it, as the one seen.

    `exp(-n KL(count / n, chance))`: Chernoff's bound, which by Hoeffding, Annals of Mathematical Statistics 27 (1956),
    holds as well when the trials have different chances of which `chance` is the mean. It is never too small, however
    few the trials are; 1 without any.
    """
    n = np.maximum(np.asarray(of, np.float64), 1e-12)
    seen, expected = np.clip(np.asarray(count, np.float64) / n, 0, 1), np.clip(np.asarray(chance, np.float64), 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        hit = np.where(seen > 0, seen * np.log(seen / expected), 0.0)
        miss = np.where(seen < 1, (1 - seen) * np.log((1 - seen) / (1 - expected)), 0.0)
    bound: NDArray[np.float64] = np.exp(-n * (hit + miss))
    return bound


def discoveries(p: NDArray[np.float64], share: float = 0.05) -> NDArray[np.bool_]:
    """Tell which of many tests found something, so that about `share` of these at most are noise."""
    n = len(p)
    order = np.argsort(p, kind="stable")
    passed = np.flatnonzero(p[order] <= share * np.arange(1, n + 1) / max(n, 1))
    found = np.zeros(n, np.bool_)
    if len(passed):
        found[order[: passed[-1] + 1]] = True
    return found


def least_evidence(threshold: float, z: float = Z) -> int:
    """Return how many trials without any success it takes for Wilson's upper bound to lie below `threshold`.

    With fewer, nothing can be said to be below it: 73 for 5 %.
    """
    return math.floor(z * z * (1 - threshold) / threshold) + 1
