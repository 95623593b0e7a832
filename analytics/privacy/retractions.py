"""What erased events counted, so that it can be taken back in the slots and windows in which it was counted. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.erasures import Batch
from clickwell.schemas.controls import Joined, Retraction
from clickwell.schemas.interactions import signals_of
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.settings import Settings
from clickwell.stream_processors.engagement import search_id
from clickwell.stream_processors.history import Entry
from clickwell.stream_processors.outcomes import BITS, SHOWN, UNKNOWN, merge

# What has to be known of the rows of a table.
_PLACE = ("kafka_topic_id", "kafka_partition", "kafka_offset")
_COMMON = ("user_id", "execution_id", "timestamp", "received_at", "retriever_id", "query", *_PLACE)
COLUMNS = {
    INTERACTIONS.name: ("feature_id", "interaction_type", "interaction_id", "duration_ms", "position", *_COMMON),
    SEARCHES.name: ("results", *_COMMON),
}


class Place(NamedTuple):
    """Where an event lies; below 0 in what was loaded around Kafka."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Event:
    """A row of the lake, and the erasure that takes it, if one does; times in epoch ms."""

    place: Place
    row: Mapping[str, Any]
    time_ms: int
    received_ms: int
    erasure: str = ""


def event_of(topic: str, row: Mapping[str, Any], erasure: str = "") -> Event:
    """Return the event of a row with the columns of its topic."""
    partition, offset, received_at = (row[name] for name in ("kafka_partition", "kafka_offset", "received_at"))
    place = Place(topic, -1 if partition is None else partition, -1 if offset is None else offset)
    return Event(place, row, _ms(row["timestamp"]), _ms(received_at or row["timestamp"]), erasure)


def retractions(settings: Settings, batch: Batch, events: Iterable[Event]) -> Iterator[tuple[Place, Retraction]]:
    """Yield what takes each erased event back, beside where the event lies.

    Args:
        settings: how searches are joined.
        batch: of erasures.
        events: erased ones, and all others of the searches that they are about; those of other topics were not counted.
    """
    counted = [each for each in events if each.row["kafka_topic_id"] == batch.topic_ids[each.place.topic]]
    joined = _joined(settings, counted)
    for event in counted:
        row = event.row
        if event.erasure:
            yield (
                event.place,
                Retraction(
                    batch=batch.name,
                    offset=event.place.offset,
                    received_ms=_hour(event.received_ms),
                    timestamp=_hour(event.time_ms),
                    feature_id=row.get("feature_id", ""),
                    interaction_type=tuple(row.get("interaction_type", ())),
                    duration_ms=row.get("duration_ms"),
                    joined=joined.get(event.place),
                ),
            )


def entries(settings: Settings, events: Iterable[Event]) -> dict[Entry, tuple[str, int, int | None]]:
    """Return for each entry of a history that has to be looked at an erasure, the newest erased and remaining time.

    Args:
        settings: which signals are remembered.
        events: interactions that are erased, and all others of the same users.
    """
    erased: dict[Entry, tuple[int, str]] = {}
    left: dict[Entry, int] = {}
    for event in events:
        row = event.row
        if row.get("user_id") is None or "interaction_type" not in row:
            continue
        long_view_ms = settings.popularity.long_view_ms
        for signal in signals_of(row["interaction_type"], row["duration_ms"], long_view_ms=long_view_ms):
            if signal in settings.history.signals:
                entry = row["user_id"], signal, row["feature_id"]
                if event.erasure:
                    erased[entry] = max((event.time_ms, event.erasure), erased.get(entry, (0, "")))
                else:
                    left[entry] = max(event.time_ms, left.get(entry, 0))
    return {entry: (name, at, left.get(entry)) for entry, (at, name) in erased.items()}


def _joined(settings: Settings, events: Iterable[Event]) -> dict[Place, Joined]:
    """Return what is known of the search of each erased event that says something of results."""
    dedup_ms = settings.popularity.dedup_ms
    ratio = max(1, settings.engagement.join_hours * MS_PER_HOUR // dedup_ms)
    searches: dict[int, list[tuple[Event, list[Any]]]] = {}
    for event in events:
        if (facts := _facts(event)) and not _late(settings, event):
            place = event.place.partition, event.place.offset
            search = search_id(event.row["execution_id"], event.row.get("interaction_id"), *place)
            searches.setdefault(search, []).append((event, facts))
    found: dict[Place, Joined] = {}
    for search, told in searches.items():
        for part in _parts(told, lambda event: event.received_ms // dedup_ms // ratio):
            found |= _of_part(search, part)
    return found


def _of_part(search: int, part: list[tuple[Event, list[Any]]]) -> dict[Place, Joined]:
    erased = sorted((event.place, facts) for event, facts in part if event.erasure)
    everything, left = _merged(facts for _, facts in part), _merged(facts for event, facts in part if not event.erasure)
    received = [event.received_ms for event, _ in part]
    return {
        place: Joined(
            search,
            _hour(min(received)),
            _hour(max(received)),
            own=facts[4:],
            left=left,
            told=[everything[0], _hour(everything[1]), *everything[2:]] if place == erased[0][0] else [],
        )
        for place, facts in erased
    }


def _parts(
    told: list[tuple[Event, list[Any]]], bucket_of: Callable[[Event], int]
) -> Iterator[list[tuple[Event, list[Any]]]]:
    """Cut the events of one search where a whole bucket of receipts lies between two: nobody joins them."""
    told = sorted(told, key=lambda each: each[0].received_ms)
    part = told[:1]
    for before, each in pairwise(told):
        if bucket_of(each[0]) - bucket_of(before[0]) > 1:
            yield part
            part = []
        part.append(each)
    yield part


def _facts(event: Event) -> list[Any]:
    """Return what an event says about its search; nothing when it says nothing of results."""
    row = event.row
    head = [event.time_ms, row["retriever_id"] or "", row["query"] or ""]
    if event.place.topic == SEARCHES.name:
        results = enumerate(row["results"] or ())
        return [0, *head, *(each for position, document in results for each in (position, document, SHOWN))]
    bits = 0
    for name in row["interaction_type"]:
        bits |= BITS.get(name, 0)
    position = UNKNOWN if row["position"] is None else row["position"]
    return [1, *head, position, row["feature_id"], bits] if bits else []


def _merged(facts: Iterable[list[Any]]) -> list[Any]:
    whole: list[Any] = []
    for each in facts:
        whole = merge(whole, each) if whole else each
    return whole


def _late(settings: Settings, event: Event) -> bool:
    """Tell whether an event was too old for the windows when it was received."""
    return event.time_ms // MS_PER_DAY < event.received_ms // MS_PER_DAY - settings.engagement.daily_days


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _hour(at_ms: int) -> int:
    return at_ms // MS_PER_HOUR * MS_PER_HOUR
