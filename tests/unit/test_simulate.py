"""The simulator: seeded, valid, and true to its own click model."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.producers.shop import CANDIDATES, POSITIONS, RANKERS, Shop
from clickwell.producers.simulate import PEAK_HOUR, Traffic, events_per_search
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import parse

NOW = 1_790_000_000_000


@pytest.fixture(scope="module")
def shop():
    return Shop(1000, seed=3)


def events_of(traffic, searches, days=7.0):
    records = list(chain.from_iterable(traffic.history(searches, days, NOW)))
    return [
        parse(Search if record.kind == "search" else Interaction, record.value, received_ms=NOW) for record in records
    ], records


def test_same_seed_and_start_same_events(shop):
    """Everything depends on shop, seed and start only; another start has other ids, or it would be a repeat."""
    first, again, other, later = (
        list(chain.from_iterable(Traffic(Shop(1000, seed=3), seed=seed, start_ms=start).history(300, 7, NOW)))
        for seed, start in ((1, NOW), (1, NOW), (2, NOW), (1, NOW + 1))
    )
    assert first == again
    assert first != other
    assert not {record.id for record in first} & {record.id for record in later}


def test_all_events_are_valid_and_told_after_they_happened(shop):
    """A worker accepts every event, ids are unique, keys are right, and nothing lies in the future."""
    events, records = events_of(Traffic(shop, start_ms=NOW), 2000)
    assert len({record.id for record in records}) == len(records)
    for event, record in zip(events, records, strict=True):
        assert NOW - 7 * MS_PER_DAY - MS_PER_HOUR < event.timestamp <= NOW
        assert record.key.decode() == (event.execution_id if isinstance(event, Search) else event.feature_id)
    signals = Counter(name for event in events if isinstance(event, Interaction) for name in event.interaction_type)
    assert signals.keys() == {"click", "long_view", "add_to_cart", "purchase", "skip"}
    assert signals["click"] > signals["add_to_cart"] > signals["purchase"] > 0


def test_clicks_follow_the_truth(shop):
    """The number of clicks at each position is theta times the mean gamma shown there, within five standard errors."""
    events, _ = events_of(Traffic(shop, start_ms=NOW), 20_000)
    truth = shop.truth
    rows = {query: row for row, query in enumerate(shop.queries)}
    columns = [
        {shop.feature_ids[document]: place for place, document in enumerate(truth.candidates[row])}
        for row in range(len(shop.queries))
    ]
    expected, variance, seen = np.zeros(POSITIONS), np.zeros(POSITIONS), np.zeros(POSITIONS)
    for event in events:
        if isinstance(event, Search):
            row = rows[event.query]
            gamma = truth.gamma[row, [columns[row][feature_id] for feature_id in event.results]]
            expected += truth.theta * gamma
            variance += truth.theta * gamma * (1 - truth.theta * gamma)
        elif "click" in event.interaction_type:
            seen[event.position] += 1
    assert np.all(np.abs(seen - expected) < 5 * np.sqrt(variance))


def test_traffic_rises_and_falls_over_the_day(shop):
    """Twelve hours from the peak there is less than half the traffic."""
    events, _ = events_of(Traffic(shop, start_ms=NOW), 10_000)
    hours = Counter(event.timestamp // MS_PER_HOUR % 24 for event in events if isinstance(event, Search))
    assert hours[(PEAK_HOUR + 12) % 24] < hours[PEAK_HOUR] / 2


def test_the_shop_is_well_formed(shop):
    """Shapes are as stated, probabilities are such, and both rankers put documents at several positions."""
    truth = shop.truth
    assert truth.gamma.shape == truth.candidates.shape == (len(shop.queries), CANDIDATES)
    assert shop.shown.shape == (len(shop.queries), len(RANKERS), POSITIONS)
    assert truth.theta[0] == 1
    assert np.all(np.diff(truth.theta) < 0)
    assert np.all((truth.gamma > 0) & (truth.gamma < 1))
    assert np.any(shop.shown[:, 0] != shop.shown[:, 1])
    results = shop.results("waterproof trail shoe")
    assert len({result["feature_id"] for result in results}) == POSITIONS
    assert all("trail shoe" in result["title"] for result in results)
    assert [result["score"] for result in results] == sorted((r["score"] for r in results), reverse=True)


def test_a_search_leads_to_a_few_events(shop):
    """The estimate by which the rate is kept agrees with what is generated."""
    events, _ = events_of(Traffic(shop, start_ms=NOW), 5000)
    assert len(events) / 5000 == pytest.approx(events_per_search(shop), rel=0.1)
