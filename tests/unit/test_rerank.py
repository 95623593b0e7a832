"""The boost formula and the order that follows from it, on snapshots made by hand."""

import asyncio
import json
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickwell.clock import MS_PER_DAY
from clickwell.errors import InputError, SettingsError
from clickwell.schemas.rings import Layout, Rings, encode
from clickwell.serving.formula import BoostByInteractionCount, boosts_of, stage_of
from clickwell.serving.rerank import arerank, rerank
from clickwell.serving.snapshot import Reason, Snapshot, said
from clickwell.settings import PopularitySettings

LAYOUT = Layout.of(PopularitySettings())
NOW_MS = 1_795_000_000_000
SLOT = LAYOUT.slot(NOW_MS)


@dataclass
class Shelf:
    """A reader of counts that stand in the test: document -> signal -> days ago -> count."""

    content: dict
    reason: Reason | None = None

    def read(self, ids):
        values = [
            encode(
                {
                    (signal, SLOT - days * 4): n
                    for signal, by_day in self.content.get(doc, {}).items()
                    for days, n in by_day.items()
                },
                LAYOUT,
            )
            for doc in ids
        ]
        if self.reason:
            return Snapshot.empty(ids, NOW_MS, self.reason, "Redis: gone")
        return Snapshot(ids, Rings.of(values, LAYOUT), NOW_MS, NOW_MS)


class AsyncShelf(Shelf):
    """The same, awaited."""

    async def read(self, ids):
        return super().read(ids)


SHELF = Shelf(
    {
        "hot": {"click": {0: 400, 1: 12}, "purchase": {2: 31}},
        "warm": {"click": {5: 40}},
        "old": {"click": {7: 9}},
    }
)


def order(ranked):
    return [one.feature_id for one in ranked]


@given(
    st.lists(st.floats(0, 1e9), min_size=1, max_size=30),
    st.floats(0.01, 10),
    st.one_of(st.none(), st.floats(0, 1e9)),
)
def test_the_formula_stays_between_one_and_the_multiplier(counts, multiplier, cap):
    """Boosts lie between 1 and the multiplier, grow with the count, and are the written formula."""
    stage = BoostByInteractionCount(boost_multiplier=multiplier, cap=cap)
    n = np.array(counts)
    boosts = boosts_of(n, stage)
    low, high = sorted((1.0, multiplier))
    assert ((boosts >= low - 1e-12) & (boosts <= high + 1e-12)).all()
    top = max(counts) if cap is None else cap
    for count, boost in zip(counts, boosts, strict=True):
        share = math.log1p(min(count, top)) / math.log1p(top) if math.log1p(top) else 0.0
        assert boost == pytest.approx(1 + (multiplier - 1) * share)
    by_count = boosts[np.argsort(n, kind="stable")] * (1 if multiplier >= 1 else -1)
    assert (np.diff(by_count) >= -1e-12).all()


def test_the_stage_of_a_pipelines_json():
    """A stage is read as it stands in JSON, with a list of names or with weights."""
    text = '{"interaction_types": ["click", "purchase"], "time_window_days": 7, "boost_multiplier": 1.2}'
    assert stage_of(json.loads(text)).interaction_types == {"click": 1.0, "purchase": 1.0}
    weighted = stage_of({"interaction_types": {"click": 1, "purchase": 5}})
    assert (weighted.interaction_types["purchase"], weighted.boost_multiplier, weighted.time_window_days) == (5, 1.2, 7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boost_multiplier", 0),
        ("boost_multiplier", math.inf),
        ("time_window_days", 0),
        ("time_window_days", 31),
        ("cap", -1),
        ("interaction_types", []),
        ("interaction_types", ["Click"]),
        ("interaction_types", {"click": -1}),
        ("interaction_types", {"click": math.nan}),
        ("multiplier", 1.2),
    ],
)
def test_a_malformed_stage_is_refused_by_its_fields_name(field, value):
    """A stage that cannot be meant so is refused in one line that names the field."""
    with pytest.raises(SettingsError, match=rf"boost_by_interaction_count\.{field}") as caught:
        stage_of({field: value})
    assert "\n" not in caught.value.message


def test_rerank_multiplies_and_sorts():
    """The most used document gets the whole multiplier; the caller's items come back untouched."""
    results = [{"id": "cold", "score": 1.1}, {"id": "warm", "score": 1.05}, {"id": "hot", "score": 1.0}]
    ranked = rerank(results, SHELF, {"interaction_types": ["click"], "boost_multiplier": 1.2})
    assert order(ranked) == ["hot", "warm", "cold"]
    assert [one.score for one in ranked] == pytest.approx([1.2, 1.05 * (1 + 0.2 * math.log(41) / math.log(413)), 1.1])
    assert ranked[0].item is results[2]
    assert results[2] == {"id": "hot", "score": 1.0}


def test_every_kind_of_result_is_understood():
    """Mappings, objects, pairs and JSON's lists are read alike; ids need not be text."""
    results = [
        {"feature_id": "a", "score": 4},
        {"document_id": "b", "score": 3.0},
        SimpleNamespace(id=7, score=np.float32(2)),
        ("c", 1),
        ["d", 0.5],
    ]
    assert order(rerank(results, SHELF)) == ["a", "b", "7", "c", "d"]


def test_no_results_are_no_results():
    """An empty list stays empty."""
    assert rerank([], SHELF) == []


def test_a_result_without_an_id_is_refused():
    """A result that names no document is a mistake of the caller, told by its place."""
    with pytest.raises(InputError, match="result 1 has none of feature_id"):
        rerank([{"id": "a", "score": 1}, {"score": 1}], SHELF)


def test_equal_scores_keep_their_order():
    """Documents that nobody used keep the order in which they came."""
    assert order(rerank([(f"n{i}", 0.5) for i in range(20)], SHELF)) == [f"n{i}" for i in range(20)]


@pytest.mark.parametrize("score", [None, math.nan])
def test_without_scores_the_given_order_stands_in(score):
    """If one score is missing all are replaced by 1 / (rank + 1)."""
    ranked = rerank([{"id": "a", "score": 900.0}, {"id": "b", "score": score}, {"id": "hot"}], SHELF)
    assert [(one.feature_id, one.score) for one in ranked] == [("a", 1.0), ("b", 0.5), ("hot", pytest.approx(0.4))]


def test_negative_scores_are_raised_by_a_boost_too():
    """With logits below zero a boost still moves its document up."""
    ranked = rerank([("cold", -2.0), ("hot", -2.2)], SHELF)
    assert order(ranked) == ["hot", "cold"]
    assert ranked[0].score == pytest.approx(-2.2 / 1.2)


def test_a_multiplier_below_one_demotes():
    """Signals that speak against a document push it down."""
    assert order(rerank([("hot", 1.0), ("cold", 0.95)], SHELF, {"boost_multiplier": 0.8})) == ["cold", "hot"]


def test_the_window_is_the_stages_own():
    """Clicks of five days ago are outside of a three-day stage, those of seven days ago in a week's."""
    assert {o.feature_id: o.boost for o in rerank([("warm", 1.0)], SHELF, {"time_window_days": 3})} == {"warm": 1.0}
    assert rerank([("old", 1.0)], SHELF, {"time_window_days": 7})[0].boost == pytest.approx(1.2)


def test_stages_multiply_and_explain_themselves():
    """Two stages multiply; the reason tells counts, ranks and both windows."""
    stages = [
        {"interaction_types": {"click": 1, "purchase": 5}, "time_window_days": 7, "boost_multiplier": 1.2},
        {"interaction_types": ["click"], "time_window_days": 1, "boost_multiplier": 1.5},
    ]
    ranked = rerank([("cold", 1.0), ("warm", 0.9), ("hot", 0.8)], SHELF, stages, explain=True)
    hot = ranked[0]
    assert (hot.feature_id, hot.boost, hot.why.rank_before, hot.why.rank_after) == ("hot", pytest.approx(1.8), 2, 0)
    assert hot.why.score_before == 0.8
    assert hot.why.sentence == "x1.80  412 clicks, 31 purchases in 7 days, 412 clicks in 1 day"
    assert [(s.count, s.by_signal, s.window_days) for s in hot.why.stages] == [
        (412 + 5 * 31, {"click": 412, "purchase": 31}, 7),
        (412, {"click": 412}, 1),
    ]
    cold = next(one for one in ranked if one.feature_id == "cold")
    assert cold.why.sentence == "x1.00  no clicks or purchases in 7 days, no clicks in 1 day"


def test_without_redis_the_scores_stay():
    """If the counters cannot be read, the list comes back by its own scores, and the reason says so."""
    ranked = rerank([("a", 1.0), ("hot", 2.0)], Shelf({}, Reason.UNAVAILABLE), explain=True)
    assert [(one.feature_id, one.score, one.boost) for one in ranked] == [("hot", 2.0, 1.0), ("a", 1.0, 1.0)]
    assert ranked[0].why.sentence == "x1.00  Redis: gone"


def test_signals_without_a_ring_are_named():
    """A stage that asks for what nobody counts learns it instead of a silent zero."""
    boosts = SHELF.read(["hot"]).boosts(stage_of({"interaction_types": ["click", "skip"]}))
    assert (boosts.uncounted, boosts[0].by_signal) == (("skip",), {"click": 412, "skip": 0})


def test_longer_windows_than_kept_are_told():
    """A stage of thirty days over counters of seven says that seven were counted."""
    boosts = SHELF.read(["hot"]).boosts(stage_of({"time_window_days": 30}))
    assert boosts.window_days == LAYOUT.window * LAYOUT.slot_ms / MS_PER_DAY == 7
    assert boosts.why(0) == "412 clicks in 7 days"


def test_arerank_is_rerank():
    """Both kinds of reader give the same order and reasons."""
    results = [("cold", 1.1), ("warm", 1.05), ("hot", 1.0)]
    assert asyncio.run(arerank(results, AsyncShelf(SHELF.content), explain=True)) == rerank(
        results, SHELF, explain=True
    )


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"click": 1}, "1 click"),
        ({"click": 1234, "purchase": 0}, "1,234 clicks"),
        ({"long_view": 2, "add_to_cart": 1}, "2 long views, 1 cart addition"),
        ({"click": 0, "add_to_cart": 0}, "no clicks or cart additions"),
    ],
)
def test_counts_are_said_in_words(counts, sentence):
    """Counts read as a person would say them."""
    assert said(counts) == sentence
