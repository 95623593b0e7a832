"""Preferences and the personal order: the formula, the neutral cases, and what an explanation says."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickwell.clock import MS_PER_DAY
from clickwell.errors import UsageError
from clickwell.schemas.catalog import attributes_of, decode, encode
from clickwell.serving.exclusion import Consumed
from clickwell.serving.personalize import personalized
from clickwell.serving.profile import Profile, factor_of, profile_of
from clickwell.settings import ProfileSettings

NOW = 1_770_000_000_000
SETTINGS = ProfileSettings(half_life_days=10, prior=5)
CATALOG = {
    "a": {"brand": ("Ridgeline",), "tags": ("light", "warm")},
    "b": {"brand": ("Norrvik",), "tags": ("light",)},
    "c": {"brand": ("Ridgeline",)},
    "d": {},
}
documents = st.sampled_from(["a", "b", "c", "d", "unknown"])
histories = st.lists(
    st.builds(
        Consumed,
        documents,
        st.sampled_from(["click", "purchase", "negative_feedback", "own_signal"]),
        st.integers(NOW - 90 * MS_PER_DAY, NOW + 1000),
    ),
    max_size=12,
    unique_by=lambda item: item[:2],
)
lists = st.lists(st.tuples(documents, st.floats(-100, 100)), max_size=6)


def profile(*items):
    return profile_of("u", [Consumed(*item) for item in items], CATALOG, SETTINGS, NOW)


def test_weights_decay_by_half_lives_and_divide_among_values():
    """A purchase ten days ago weighs half of 5; a document with two tags gives each half of that."""
    found = profile(("a", "purchase", NOW - 10 * MS_PER_DAY), ("b", "click", NOW))
    assert found.documents == {"a": 2.5, "b": 1.0}
    assert found.attributes == {"brand": {"Ridgeline": 2.5, "Norrvik": 1.0}, "tags": {"light": 2.25, "warm": 1.25}}
    assert found.confidence == pytest.approx(3.5 / 8.5)
    assert list(found.attributes["brand"]) == ["Ridgeline", "Norrvik"]


def test_the_fit_is_the_mean_cosine_times_the_confidence():
    """What a candidate's values add up to is the formula of the page."""
    found = profile(("a", "purchase", NOW))
    brand, tags, document = 1.0, 1 / math.sqrt(2), 0.0
    fit, matches = found.fit("x", {"brand": ("Ridgeline",), "tags": ("light",)})
    assert fit == pytest.approx(0.5 * (brand + tags + document) / 3)
    assert [(match.attribute, match.value) for match in matches] == [("brand", "Ridgeline"), ("tags", "light")]
    assert found.fit("a", CATALOG["a"])[0] == pytest.approx(0.5)


def test_what_was_disliked_sinks():
    """Negative feedback on one document lowers those of its brand."""
    found = profile(("a", "negative_feedback", NOW))
    ranked = personalized([("c", 1.0), ("b", 0.999)], ["c", "b"], found, CATALOG, 0.25)
    assert [one.feature_id for one in ranked] == ["b", "c"]
    assert ranked[1].boost < 1


@given(histories)
def test_a_fit_lies_between_minus_one_and_one(items):
    """Whatever somebody did, no candidate fits better than 1 or worse than -1."""
    found = profile_of("u", items, CATALOG, SETTINGS, NOW)
    for document, attributes in CATALOG.items():
        fit, matches = found.fit(document, attributes)
        assert -1 <= fit <= 1
        assert fit == pytest.approx(sum(match.fit for match in matches), abs=1e-12)


@given(lists, st.floats(0, 10))
def test_without_a_history_nothing_changes(results, strength):
    """Scores and order are exactly those given, whatever the strength, also where scores do not fall."""
    ranked = personalized(results, [document for document, _ in results], Profile("u"), CATALOG, strength)
    assert [one.item for one in ranked] == results
    assert [one.score for one in ranked] == [score for _, score in results]
    assert all(one.boost == 1 for one in ranked)


@given(histories, lists)
def test_without_strength_nothing_changes(items, results):
    """Strength 0 is off for everybody."""
    found = profile_of("u", items, CATALOG, SETTINGS, NOW)
    ranked = personalized(results, [document for document, _ in results], found, CATALOG, 0)
    assert [one.item for one in ranked] == results


@given(st.floats(-1, 1), st.floats(0, 100))
def test_a_factor_is_positive_and_mirrored(fit, strength):
    """A bad fit divides by what a good one of the same size multiplies with."""
    assert factor_of(fit, strength) > 0
    assert factor_of(fit, strength) * factor_of(-fit, strength) == pytest.approx(1)


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf])
def test_a_strength_that_is_no_strength_is_refused(strength):
    """It would turn the order around, or make it meaningless."""
    with pytest.raises(UsageError):
        personalized([], [], Profile("u"), {}, strength)


def test_the_explanation_names_what_fits():
    """A sentence for people, and the matches behind it."""
    ranked = personalized(
        [("b", 1.0), ("c", 1.0)], ["b", "c"], profile(("a", "purchase", NOW)), CATALOG, 1, explain=True
    )
    assert ranked[0].feature_id == "c"
    assert ranked[0].why.sentence == "x1.17  brand Ridgeline +0.17"
    assert (ranked[0].why.rank_before, ranked[0].why.rank_after) == (1, 0)
    (stranger,) = personalized([("b", 1.0)], ["b"], Profile("u"), CATALOG, 1, explain=True)
    assert stranger.why.sentence == "x1.00  no history"


@pytest.mark.parametrize(
    ("row", "attributes"),
    [
        ({"brand": "Ridgeline"}, {"brand": ("Ridgeline",)}),
        ({"brand": " "}, {}),
        ({"brand": None, "tags": [None, {}, []]}, {}),
        ({"tags": ["a", "a", 3, True], "other": "x"}, {"tags": ("a", "3", "True")}),
        ({"tags": [str(n) for n in range(100)]}, {"tags": tuple(str(n) for n in range(64))}),
        ({"brand": "x" * 300}, {"brand": ("x" * 256,)}),
    ],
)
def test_attributes_of_a_row(row, attributes):
    """Text, numbers and lists of them are values; the rest is left out; what is kept reads back."""
    found = attributes_of(row, ("brand", "tags"))
    assert found == attributes
    assert decode(encode(found)) == found


@pytest.mark.parametrize("value", [b"", b"[1]", b'"a"', b'{"brand":"x"}', b"\xff"])
def test_foreign_attributes_are_refused(value):
    """What is not of the form raises instead of becoming a preference."""
    with pytest.raises(ValueError):
        decode(value)


def test_every_order_of_ties_is_the_given_one():
    """Equal scores of equal fits keep their order."""
    found = profile(("a", "purchase", NOW))
    for ids in itertools.permutations(["b", "d", "unknown"]):
        results = [(document, 1.0) for document in ids]
        ranked = personalized([*results, ("c", 0.1)], [*ids, "c"], found, {"c": CATALOG["c"]}, 0.25)
        assert [one.feature_id for one in ranked] == [*ids, "c"]
