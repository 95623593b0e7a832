"""What the lake knows of erased events before they go: themselves, and all that has to be known to take them back."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from clickwell.analytics.privacy.retractions import COLUMNS, Event, event_of
from clickwell.schemas.erased import Subjects
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.settings import Settings
from clickwell.sinks import erase
from clickwell.sinks.table import Table

# Erased events looked at together. Each look reads some columns of the whole lake, and all is held in memory: about
# 200 MB.
MOST_EVENTS = 100_000


def erased(settings: Settings, tables: Iterable[Table], subjects: Subjects) -> Iterator[list[Event]]:
    """Yield the events of the subjects, some at a time; an event comes once.

    Raises:
        LakeError: the storage does not answer.
    """
    some: list[Event] = []
    for table in tables:
        topic = table.topic.name
        for name, rows in erase.find(settings, table, subjects):
            some += [event_of(topic, row, name) for row in rows.select(COLUMNS[topic]).to_pylist()]
            if len(some) >= MOST_EVENTS:
                yield some
                some = []
    if some:
        yield some


def with_others(
    settings: Settings, tables: Sequence[Table], subjects: Subjects, found: Sequence[Event], forgotten: Iterable[str]
) -> list[Event]:
    """Return erased events with all others of their searches, and of users whose history is not removed as a whole.

    Args:
        settings: where the lake is.
        tables: of the lake.
        subjects: all of the batch: other events of theirs are marked as erased, too.
        found: some of the erased events.
        forgotten: erasures after which nothing of their users' histories is left.

    Raises:
        LakeError: the storage does not answer.
    """
    whole, rows = set(forgotten), [event.row for event in found]
    executions = {"execution_id": _values(rows, "execution_id")}
    alone = [row for row in rows if row["execution_id"] is None and "interaction_id" in row]
    shared = [event.row for event in found if event.erasure not in whole and "interaction_id" in event.row]
    wanted = {
        INTERACTIONS.name: [
            executions,
            {"interaction_id": _values(alone, "interaction_id")},
            {name: _values(shared, name) for name in ("user_id", "feature_id")},
        ],
        SEARCHES.name: [executions],
    }
    events = {_key(event): event for event in found}
    for table in tables:
        topic = table.topic.name
        for some, erasures in erase.related(settings, table, subjects, wanted[topic], COLUMNS[topic]):
            for row, erasure in zip(some.select(COLUMNS[topic]).to_pylist(), erasures, strict=True):
                event = event_of(topic, row, erasure)
                events[_key(event)] = event
    return list(events.values())


def _key(event: Event) -> Any:
    """Return what tells an event from all others."""
    return (event.row["kafka_topic_id"], event.place) if event.place.offset >= 0 else id(event)


def _values(rows: Iterable[Any], name: str) -> set[str]:
    return {row[name] for row in rows if row[name] is not None}
