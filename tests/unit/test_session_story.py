"""One session as a story: order, visits, and what the lake gives."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clickwell.analytics.sessions import IDLE_MS, story, told
from clickwell.producers.files import Lines
from clickwell.producers.publish import Form, publish
from clickwell.settings import Settings
from clickwell.sinks.load import Loader

START = 1_770_000_000_000


@given(st.lists(st.integers(0, 5 * IDLE_MS), max_size=20))
def test_visits_are_split_by_silence(offsets):
    """Events come in order; a visit ends where the next event is more than half an hour away, and only there."""
    events = [{"timestamp": START + at, "event": "interaction", "user_id": None} for at in offsets]
    found = told("s", events)
    times = [event["timestamp"] for event in found["events"]]
    assert times == sorted(START + at for at in offsets)
    visits = [event["visit"] for event in found["events"]]
    for (earlier, later), (before, after) in zip(pairwise(times), pairwise(visits), strict=True):
        assert after - before == (later - earlier > IDLE_MS)
    assert sum(visit["events"] for visit in found["visits"]) == len(offsets) == found["interactions"]
    for number, visit in enumerate(found["visits"]):
        mine = [time for time, place in zip(times, visits, strict=True) if place == number]
        assert (visit["started_at"], visit["ended_at"]) == (mine[0], mine[-1])


def test_a_story_from_the_lake(tmp_path):
    """A search comes before its clicks, other sessions stay out, a later visit has the next number."""
    lines = [
        {"search_id": "q1", "t_ms": START, "session_id": "it's", "user_id": "u1", "query": "shoe", "docs": ["a", "b"],
         "clicks": [{"doc": "b", "pos": 1, "dt_ms": 5, "duration_ms": 40_000}]},
        {"search_id": "q2", "t_ms": START + 2 * IDLE_MS, "session_id": "it's", "user_id": "u2", "query": "boot",
         "docs": ["c"], "clicks": []},
        {"search_id": "q3", "t_ms": START, "session_id": "other", "query": "hat", "docs": ["d"], "clicks": []},
    ]  # fmt: skip
    path = tmp_path / "sessions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = Settings.load(tmp_path)
    with Lines([str(path)], twice=True) as content:
        publish(content, Loader(settings, "run"), Form("sessions", "shop", 30_000))
    found = story(settings, "it's")
    assert [(event["event"], event["visit"], event.get("feature_id")) for event in found["events"]] == [
        ("search", 0, None), ("interaction", 0, "a"), ("interaction", 0, "b"), ("search", 1, None),
    ]  # fmt: skip
    click = found["events"][2]
    assert (click["interaction_type"], click["position"], click["duration_ms"]) == (["click", "long_view"], 1, 40_000)
    assert found["events"][0]["results"] == ["a", "b"]
    assert (found["user_ids"], found["searches"], found["interactions"]) == (["u1", "u2"], 2, 2)
    assert story(settings, "nobody's")["events"] == []
