"""Searches and interactions joined: what counts as shown and clicked, and what is left out and counted. No servers."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from clickwell.analytics.impressions import COLUMNS, HASTY, join
from clickwell.producers.records import interaction_record, search_record
from clickwell.schemas.keys import normal_query
from clickwell.settings import Settings
from clickwell.sinks.load import Loader

DAY = 86_400_000
BASE, NOW = int(datetime(2025, 3, 1, tzinfo=UTC).timestamp() * 1000), 1_760_000_000_000


@pytest.fixture
def lake_of(tmp_path: Path):
    """A function that writes searches and interactions into a new lake and returns its settings."""

    def write(searches, interactions):
        settings = Settings.load(tmp_path)
        loader = Loader(settings, "test")
        for event in searches:
            loader.send(search_record({"timestamp": BASE, "query": "q", "retriever_id": "r"} | event, NOW))
        for number, event in enumerate(interactions):
            own = {"interaction_id": f"i{number}", "timestamp": BASE + 5000, "interaction_type": ["click"]}
            loader.send(interaction_record(own | event, NOW))
        loader.flush()
        return settings

    return write


def rows_of(joined):
    """The rows as dictionaries, by (execution, document)."""
    rows = joined.relation.to_arrow_table().to_pylist()
    return {(row["execution_id"], row["feature_id"]): row for row in rows}


def test_each_result_of_a_search_is_one_row_with_what_came_of_it(lake_of):
    """Clicked, skipped, derived signals and strengths stand at the place of the list; columns are as documented."""
    settings = lake_of(
        [{"execution_id": "e1", "results": ["a", "b", "c", "d"], "ranker_id": "x", "metadata": {"device": "phone"}}],
        [
            {"execution_id": "e1", "feature_id": "b", "metadata": {"duration_ms": 40_000}},
            {"execution_id": "e1", "feature_id": "b", "interaction_type": ["purchase"], "timestamp": BASE + 9000},
            {"execution_id": "e1", "feature_id": "c", "metadata": {"duration_ms": 100}},
        ],
    )
    joined = join(settings)
    assert joined.relation.columns == list(COLUMNS)
    rows = rows_of(joined)
    assert [rows["e1", name]["position"] for name in "abcd"] == [0, 1, 2, 3]
    assert [rows["e1", name]["clicked"] for name in "abcd"] == [False, True, True, False]
    assert [rows["e1", name]["skipped"] for name in "abcd"] == [True, False, False, False]
    assert [rows["e1", name]["strength"] for name in "abcd"] == [0, 3, HASTY, 0]
    assert rows["e1", "b"]["signals"] == ["click", "long_view", "purchase"]
    assert rows["e1", "b"]["last_at"].timestamp() * 1000 == BASE + 9000
    assert rows["e1", "c"]["signals"] == ["click", "return_to_results"]
    assert {(row["device"], row["ranker_id"]) for row in rows.values()} == {("phone", "x")}
    assert (joined.counts.searches, joined.counts.impressions, joined.counts.clicks) == (1, 4, 2)


def test_what_cannot_be_joined_is_counted_by_its_reason(lake_of):
    """Clicks without a search, outside its list or without an execution change no row; the list's place wins."""
    settings = lake_of(
        [{"execution_id": "e1", "results": ["a", "b", "a"]}],
        [
            {"feature_id": "a"},
            {"execution_id": "e9", "feature_id": "a"},
            {"execution_id": "e1", "feature_id": "z"},
            {"execution_id": "e1", "feature_id": "b", "position": 7},
            {"execution_id": "e8", "feature_id": "b", "interaction_type": ["impression"]},
        ],
    )
    joined = join(settings, retriever="r")
    counts = joined.counts
    assert rows_of(joined)["e1", "b"]["position"] == 1
    assert (counts.impressions, counts.clicks, counts.repeated_impressions) == (2, 1, 1)
    assert (counts.clicks_without_execution, counts.clicks_without_search, counts.clicks_outside_list) == (1, 1, 1)
    assert (counts.position_disagreements, counts.impressions_without_position) == (1, 0)
    assert join(settings).counts.impressions_without_position == 1
    assert join(settings, retriever="other").counts.impressions == 0


def test_impression_events_stand_in_for_a_search(lake_of):
    """A log without searches has the exposure that its impression events tell, with their positions."""
    seen = [
        {"execution_id": "e1", "feature_id": name, "position": place, "interaction_type": ["impression"]}
        for place, name in enumerate("ab")
    ]
    about = {"metadata": {"query": "Red  Shoes", "ranker_id": "x"}, "retriever_id": "r"}
    settings = lake_of([], [each | about for each in [*seen, seen[0], {"execution_id": "e1", "feature_id": "a"}]])
    joined = join(settings)
    rows = rows_of(joined)
    assert [(rows["e1", name]["position"], rows["e1", name]["clicked"]) for name in "ab"] == [(0, True), (1, False)]
    assert {(row["query"], row["query_key"], row["ranker_id"]) for row in rows.values()} == {
        ("Red  Shoes", "red shoes", "x")
    }
    assert joined.counts.repeated_impressions == 1


def test_pages_of_one_search_go_on_counting(lake_of):
    """The second list of an execution begins where the first ended."""
    settings = lake_of(
        [
            {"execution_id": "e1", "results": ["a", "b"]},
            {"execution_id": "e1", "results": ["c", "d"], "timestamp": BASE + 1000},
        ],
        [{"execution_id": "e1", "feature_id": "d"}],
    )
    rows = rows_of(join(settings))
    assert [rows["e1", name]["position"] for name in "abcd"] == [0, 1, 2, 3]
    assert [rows["e1", name]["skipped"] for name in "abcd"] == [True, True, True, False]


def test_a_range_of_days_takes_what_follows_its_last_search(lake_of):
    """Searches of the range only, with their clicks even past midnight."""
    settings = lake_of(
        [{"execution_id": f"e{day}", "results": ["a"], "timestamp": BASE + (day + 1) * DAY - 1} for day in range(3)],
        [{"execution_id": f"e{day}", "feature_id": "a", "timestamp": BASE + (day + 1) * DAY} for day in range(3)],
    )
    joined = join(settings, since=date(2025, 3, 2), until=date(2025, 3, 2))
    assert [(row["execution_id"], row["clicked"]) for row in rows_of(joined).values()] == [("e1", True)]
    assert joined.counts.clicks_without_search == 1  # the click of e0, whose search is before the range


def test_normal_form_of_queries():
    """Case, width and blanks do not make another query."""
    assert normal_query("  Straße\t\uff21BC ") == "strasse abc"
