"""The histogram of metrics against counting each value for each bucket."""

import math

from hypothesis import given
from hypothesis import strategies as st

from clickwell.metrics import Histogram


@given(st.lists(st.floats(0, 100), max_size=50), st.sets(st.floats(0, 100), min_size=1, max_size=8))
def test_a_histogram_counts_what_is_at_most_its_bound(values, bounds):
    """Each bucket holds every value up to its bound, the last one all of them."""
    bounds = tuple(sorted(bounds))
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    expected = [(str(bound), sum(value <= bound for value in values)) for bound in bounds]
    assert histogram.buckets() == [*expected, ("+Inf", len(values))]
    assert histogram.count == len(values)
    assert math.isclose(histogram.sum, sum(values))
