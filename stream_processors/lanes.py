"""The lanes that a worker runs, as its settings name them."""

from collections.abc import Callable
from typing import Any

from clickwell.settings import Settings
from clickwell.stream_processors.engagement import EngagementLane
from clickwell.stream_processors.history import HistoryLane
from clickwell.stream_processors.lane import Lane
from clickwell.stream_processors.popularity import PopularityLane

LANES: dict[str, Callable[[Settings], Lane[Any]]] = {
    PopularityLane.name: lambda settings: PopularityLane(settings.popularity),
    EngagementLane.name: lambda settings: EngagementLane(settings.engagement, settings.popularity.dedup_ms),
    HistoryLane.name: lambda settings: HistoryLane(settings.history, long_view_ms=settings.popularity.long_view_ms),
}


def lanes_of(settings: Settings) -> list[Lane[Any]]:
    """Return the lanes of a worker with these settings."""
    return [LANES[name](settings) for name in settings.worker.lanes]
