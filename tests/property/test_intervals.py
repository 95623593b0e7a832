"""Intervals and tests of rates, against slow and naive models of them."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clickwell.analytics.intervals import (
    Z,
    discoveries,
    least_evidence,
    mean,
    mean_change,
    rate,
    rate_change,
    tail,
    wilson,
)

COUNTS = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS)
def test_wilson_bounds_are_where_the_score_test_turns(count_of):
    """The bounds are the chances that lie z standard errors, of their own, away from what was seen."""
    count, of = count_of
    low, high = (float(bound) for bound in wilson(count, of))
    assert 0 <= low <= high <= 1
    if of:
        assert low - 1e-9 <= count / of <= high + 1e-9
        for bound in (low, high):
            if 0 < bound < 1:
                error = math.sqrt(bound * (1 - bound) / of)
                assert math.isclose(abs(count / of - bound), Z * error, rel_tol=1e-6, abs_tol=1e-9)


@given(COUNTS)
def test_no_evidence_is_not_zero(count_of):
    """A rate of nothing has no value; any other lies in its interval."""
    count, of = count_of
    one = rate(count, of)
    assert (one.value is None) == (of == 0)


@given(COUNTS, COUNTS)
def test_a_change_and_its_reverse_are_mirrored(one, other):
    """Comparing backwards turns the signs and nothing else."""
    there, back = rate_change(rate(*one), rate(*other)), rate_change(rate(*other), rate(*one))
    assert there.clear == back.clear
    if there.difference is not None:
        assert there.low <= there.difference + 1e-12
        assert there.difference <= there.high + 1e-12
        assert math.isclose(there.difference, -back.difference, abs_tol=1e-12)
        assert math.isclose(there.low, -back.high, abs_tol=1e-12)


LISTS = st.lists(st.integers(0, 20), min_size=10, max_size=30)


@given(LISTS, LISTS)
def test_means_come_from_sums(first, second):
    """Sum and sum of squares give the mean and the interval that the values themselves give."""
    found = mean(sum(first), sum(x * x for x in first), len(first))
    error = float(np.std(first, ddof=1)) / math.sqrt(len(first))
    assert math.isclose(found.value, np.mean(first), abs_tol=1e-9)
    assert math.isclose(found.high - found.value, Z * error, abs_tol=1e-6)
    change = mean_change(found, mean(sum(second), sum(x * x for x in second), len(second)))
    assert math.isclose(change.difference, np.mean(second) - np.mean(first), abs_tol=1e-9)


@given(COUNTS, st.floats(0.01, 0.99))
def test_the_tail_is_never_too_small(count_of, chance):
    """The bound is at least the exact binomial chance of a count as far out as the one seen."""
    count, of = count_of
    pmf = [math.comb(of, k) * chance**k * (1 - chance) ** (of - k) for k in range(of + 1)]
    exact = sum(pmf[: count + 1]) if count <= of * chance else sum(pmf[count:])
    assert float(tail(count, of, chance)) >= exact - 1e-9 or of == 0


@given(st.lists(st.floats(0, 1), max_size=30))
def test_discoveries_are_those_of_the_step_up_rule(p):
    """Found is what lies at or below the largest p-value that lies below its line."""
    below = [value for rank, value in enumerate(sorted(p), 1) if value <= 0.05 * rank / len(p)]
    found = discoveries(np.array(p))
    assert found.sum() == sum(value <= max(below) for value in p) if below else not found.any()


def test_least_evidence_is_what_the_dashboard_says():
    """73 results without a click are the fewest that can be below 5 %."""
    assert least_evidence(0.05) == 73
    assert float(wilson(0, 73)[1]) < 0.05 <= float(wilson(0, 72)[1])
