"""One visitor's searches and interactions in the order in which they happened, as one story."""

from collections.abc import Sequence
from typing import Any

from clickwell.analytics import lake
from clickwell.clock import MS_PER_HOUR
from clickwell.settings import Settings
from clickwell.sinks.standing import exists
from clickwell.sinks.table import INTERACTION_TABLE, SEARCH_TABLE

# A visit ends with half an hour of silence, the time-out that web analytics agreed on.
IDLE_MS = MS_PER_HOUR // 2

_SEARCHES = """
select epoch_ms(timestamp) as timestamp, 'search' as event, user_id, execution_id, retriever_id, ranker_id, query,
       results
from searches where session_id = $session_id order by timestamp, execution_id
"""
_INTERACTIONS = """
select epoch_ms(timestamp) as timestamp, 'interaction' as event, user_id, execution_id, retriever_id, interaction_id,
       interaction_type, feature_id, position, query, duration_ms, device
from interactions where session_id = $session_id
order by timestamp, kafka_partition, kafka_offset, interaction_id, feature_id
"""


def story(settings: Settings, session_id: str) -> dict[str, Any]:
    """Return everything that the lake holds of one session, in order of event time; a search precedes what it led to.

    Returns:
        `session_id`, `user_ids`, `searches`, `interactions`, `visits` (each `started_at`, `ended_at` and the number of
        its `events`) and `events`: each has `timestamp`, `event` (`search` or `interaction`), its 0-based `visit`, and
        its other fields as far as they are known. Times are epoch ms. No events at all for a session nobody knows.

    Raises:
        LakeError: there is no lake, or its storage does not answer.
    """
    events: list[dict[str, Any]] = []
    with lake.connect(settings) as connection:
        for table, query in ((SEARCH_TABLE, _SEARCHES), (INTERACTION_TABLE, _INTERACTIONS)):
            if exists(settings, table):
                events += connection.sql(query, params={"session_id": session_id}).to_arrow_table().to_pylist()
    return told(session_id, events)


def told(session_id: str, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the events of one session in order, and split them where half an hour passed without any."""
    ordered = sorted(events, key=lambda event: event["timestamp"])
    visits: list[dict[str, int]] = []
    for event in ordered:
        at = event["timestamp"]
        if not visits or at - visits[-1]["ended_at"] > IDLE_MS:
            visits.append({"started_at": at, "ended_at": at, "events": 0})
        visits[-1]["ended_at"] = at
        visits[-1]["events"] += 1
        event["visit"] = len(visits) - 1
    return {
        "session_id": session_id,
        "user_ids": list(dict.fromkeys(event["user_id"] for event in ordered if event["user_id"] is not None)),
        "searches": sum(event["event"] == "search" for event in ordered),
        "interactions": sum(event["event"] == "interaction" for event in ordered),
        "visits": visits,
        "events": [{name: value for name, value in event.items() if value is not None} for event in ordered],
    }
