"""What an API process tells Prometheus."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Protocol

from clickwell import metrics
from clickwell.exposition import registry_of
from clickwell.metrics import Histogram, Sample
from clickwell.serving.api.capture import Capture
from clickwell.serving.api.shared import Shared
from clickwell.serving.reports import ReaderStats


class Reader(Protocol):
    """What is told of a reader of Redis."""

    @property
    def stats(self) -> ReaderStats:
        """How its answers were."""
        ...

    @property
    def seconds(self) -> Histogram:
        """How long they took."""
        ...


class Measures:
    """Counts what one app does, and says how its parts are when it is asked.

    Args:
        readers: name -> reader of Redis.
    """

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self.registry = registry_of("api", self.samples)
        self._readers = readers
        self._requests: dict[tuple[str, str, str], Histogram] = {}
        self._events: Counter[tuple[str, str]] = Counter()
        self._rejected: Counter[tuple[str, str]] = Counter()
        self._unshared = Counter({"events": 0, "quotas": 0})
        self._capture: Capture | None = None

    def watch(self, capture: Capture, shared: Shared) -> None:
        """Count what a capture does, and what it could not share."""
        self._capture = capture

        def count(kind: str, verdict: str, events: int) -> None:
            self._events[kind, verdict] += events

        def refuse(kind: str, reasons: Mapping[str, int]) -> None:
            for reason, events in reasons.items():
                self._rejected[kind, reason] += events

        def miss(what: str, number: int) -> None:
            self._unshared[what] += number

        capture.counted, capture.refused, shared.unshared = count, refuse, miss

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        series = method, route, str(status)
        histogram = self._requests.get(series)
        if histogram is None:
            histogram = self._requests[series] = metrics.API_REQUEST_SECONDS.histogram()
        histogram.observe(seconds)

    def samples(self) -> Iterator[Sample]:
        """Yield what there is to tell; called from any thread."""
        for series, histogram in self._requests.copy().items():
            yield metrics.API_REQUEST_SECONDS(histogram, *series)
        for metric, counts in ((metrics.API_EVENTS, self._events), (metrics.API_REJECTED, self._rejected)):
            for labels, events in counts.copy().items():
                yield metric(events, *labels)
        for what, number in self._unshared.copy().items():
            yield metrics.API_UNSHARED(number, what)
        if self._capture is not None:
            yield metrics.API_PENDING(self._capture.pending)
        for name, reader in self._readers.items():
            yield metrics.READ_SECONDS(reader.seconds, name)
            stats = asdict(reader.stats)
            yield metrics.READS(stats["reads"], name)
            for reason in ("unavailable", "unreadable", "absent", "stale"):
                yield metrics.NEUTRAL_READS(stats[reason], name, reason)
