"""Every metric of clickwell, declared once. `clickwell.exposition` serves them, docs/metrics.md lists them.

Nothing is counted for Prometheus alone: workers, sinks, the eraser and the API keep plain counters for each chunk,
commit or request, and a function beside each turns them into samples when somebody asks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Part = Literal["worker", "sink", "eraser", "insights", "api"]


class Histogram:
    """Counts values by size; one writer, any number of readers.

    Args:
        bounds: upper bounds of the buckets, ascending; larger values have a bucket of their own.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bucket's bound, and how many values were at most that large."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts.copy(), strict=True):
            total += count
            found.append((bound, float(total)))
        return found


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as Prometheus knows it; a counter's ends in `_total`.
        kind: what its values do.
        help: one sentence.
        labels: names of its labels; the values of each are few.
        part: which process has it; None: all of them.
        buckets: of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    part: Part | None = None
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """What it is counted in, by its name."""
        stem = self.name.removesuffix("_total")
        units = ("seconds", "bytes", "records", "events", "rows", "files", "commits", "letters")
        return next((unit for unit in units if stem.endswith(unit)), "1")

    def __call__(self, value: "float | Histogram", *labels: object) -> "Sample":
        """Return a sample of it."""
        assert len(labels) == len(self.labels)
        return Sample(self, tuple(map(str, labels)), value)

    def histogram(self) -> Histogram:
        """Return an empty histogram of its buckets."""
        return Histogram(self.buckets)


class Sample(NamedTuple):
    """What a metric is now, for one choice of its labels."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Histogram


Samples = Callable[[], Iterable[Sample]]

METRICS: list[Metric] = []


def _declared(part: Part | None, kind: Any, name: str, text: str, *labels: str, buckets: Any = ()) -> Metric:
    metric = Metric(f"clickwell_{name}", kind, text, labels, part, buckets)
    METRICS.append(metric)
    return metric


# From one script in Redis to a server that is hardly there.
_CALL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From one read of Redis on the same machine, for which the bar is a millisecond, to a reader's time-out.
_READ = (0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
# From an event that is visible at once to one that waited out an outage.
_AGE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)

BUILD = _declared(None, "gauge", "build_info", "1, with the version and the part that runs.", "version", "part")

API_REQUEST_SECONDS = _declared(
    "api",
    "histogram",
    "api_request_seconds",
    "Time from a request's head to its answer.",
    *("method", "route", "status"),
    buckets=(*_CALL[:7], 0.15, *_CALL[7:]),
)
API_EVENTS = _declared("api", "counter", "api_events_total", "Events by what they were told.", "kind", "verdict")
API_REJECTED = _declared(
    "api", "counter", "api_rejected_events_total", "Events that were no valid events, by reason.", "kind", "reason"
)
API_UNSHARED = _declared(
    "api",
    "counter",
    "api_unshared_total",
    "Events and quotas that a server decided about by itself, as Redis did not answer.",
    "what",
)
API_PENDING = _declared("api", "gauge", "api_pending_events", "Events that the broker has not confirmed.")
READ_SECONDS = _declared(
    "api", "histogram", "read_seconds", "Time that a reader of Redis took to answer.", "reader", buckets=_READ
)
READS = _declared("api", "counter", "reads_total", "Answers of readers of Redis.", "reader")
NEUTRAL_READS = _declared(
    "api", "counter", "neutral_reads_total", "Answers that are neutral or not up to date.", "reader", "reason"
)
WORKER_RECORDS = _declared("worker", "counter", "worker_records_total", "Records taken from the log, of any kind.")
WORKER_APPLIED = _declared("worker", "counter", "worker_applied_events_total", "Events that all lanes have applied.")
WORKER_COUNTED = _declared(
    "worker", "counter", "worker_counted_events_total", "Events that changed a counter, by lane.", "lane"
)
WORKER_LATE = _declared(
    "worker", "counter", "worker_late_events_total", "Events too old for the counters when received.", "lane"
)
WORKER_DUPLICATES = _declared(
    "worker", "counter", "worker_duplicate_events_total", "Events whose id was seen before.", "lane"
)
WORKER_REJECTED = _declared(
    "worker", "counter", "worker_rejected_records_total", "Records that are no valid events, by reason.", "reason"
)
WORKER_LETTERS = _declared("worker", "counter", "worker_dead_letters_total", "Dead letters written.")
WORKER_SUPPRESSED = _declared(
    "worker", "counter", "worker_suppressed_events_total", "Events of erased subjects that were left out."
)
WORKER_RETRACTED = _declared("worker", "counter", "worker_retracted_events_total", "Events that were taken back.")
WORKER_REWINDS = _declared(
    "worker", "counter", "worker_rewinds_total", "Times that a partition went back to its stored offsets."
)
WORKER_LOST = _declared(
    "worker", "counter", "worker_lost_records_total", "Records that retention removed before they were counted."
)
WORKER_REBUILDS = _declared(
    "worker", "counter", "worker_rebuilds_total", "Generations of counters that this worker showed to readers."
)
WORKER_LAG = _declared(
    "worker",
    "gauge",
    "worker_lag_records",
    "Records of an assigned partition that a lane has not applied.",
    *("lane", "topic", "partition"),
)
WORKER_APPLY_SECONDS = _declared(
    "worker", "histogram", "worker_apply_seconds", "Time that Redis took for one chunk's calls.", buckets=_CALL
)
WORKER_FRESHNESS = _declared(
    "worker",
    "histogram",
    "worker_freshness_seconds",
    "Age of a chunk's oldest event, by the broker's clock, when readers of Redis see it.",
    buckets=_AGE,
)
REDIS_UP = _declared("worker", "gauge", "redis_up", "Whether Redis answers this worker.")
REDIS_USED = _declared("worker", "gauge", "redis_memory_used_bytes", "Memory that Redis uses.", "node")
REDIS_LIMIT = _declared("worker", "gauge", "redis_memory_limit_bytes", "Its maxmemory; 0 without one.", "node")
REDIS_POLICY = _declared(
    "worker",
    "gauge",
    "redis_memory_policy",
    "1, with the maxmemory-policy; only noeviction is right.",
    "node",
    "policy",
)
REDIS_EVICTED = _declared(
    "worker", "counter", "redis_evicted_keys_total", "Keys that Redis evicted: each may be a wrong count.", "node"
)

SINK_ROWS = _declared("sink", "counter", "sink_rows_total", "Rows written into the lake.", "table")
SINK_REPEATS = _declared("sink", "counter", "sink_repeated_rows_total", "Repeats that were left out.", "table")
SINK_SUPPRESSED = _declared(
    "sink", "counter", "sink_suppressed_rows_total", "Events of erased subjects that were left out.", "table"
)
SINK_REJECTED = _declared(
    "sink", "counter", "sink_rejected_records_total", "Records that are no valid events, by reason.", "table", "reason"
)
SINK_LETTERS = _declared("sink", "counter", "sink_dead_letters_total", "Dead letters written.", "table")
SINK_COMMITS = _declared("sink", "counter", "sink_commits_total", "Commits of rows with their offsets.", "table")
SINK_FILES = _declared("sink", "counter", "sink_files_total", "Parquet files written.", "table")
SINK_CONFLICTS = _declared(
    "sink", "counter", "sink_commit_conflicts_total", "Commits that another writer was faster than.", "table"
)
SINK_REWINDS = _declared(
    "sink", "counter", "sink_rewinds_total", "Times that a sink went back to the stored offsets.", "table"
)
SINK_LOST = _declared(
    "sink", "counter", "sink_lost_records_total", "Records that retention removed before they were written.", "table"
)
SINK_LAG = _declared(
    "sink", "gauge", "sink_lag_records", "Records of an assigned partition not in the lake.", "table", "partition"
)
SINK_WRITE_SECONDS = _declared(
    "sink", "histogram", "sink_write_seconds", "Time that one commit with its files took.", "table", buckets=_CALL
)
SINK_FRESHNESS = _declared(
    "sink",
    "histogram",
    "sink_freshness_seconds",
    "Age of a commit's oldest event, by the broker's clock, when readers of the lake see it.",
    "table",
    buckets=_AGE,
)
LAKE_FILES = _declared("sink", "gauge", "lake_files", "Parquet files of the table's present version.", "table")

ERASURES_OPEN = _declared("eraser", "gauge", "erasures_open", "Requests of erasure without a receipt.")
ERASURE_AGE = _declared(
    "eraser", "gauge", "erasure_oldest_age_seconds", "Age of the oldest of them; 0 when there is none."
)
ERASURES_DONE = _declared("eraser", "counter", "erasures_done_total", "Erasures whose receipt was written.")
ERASURES_INVALID = _declared(
    "eraser", "counter", "erasures_invalid_records_total", "Records of the erasures topic that are none."
)

ALERT_OPEN = _declared(
    "insights",
    "gauge",
    "alert_open",
    "Whether an alert about relevance is open (1); alerts that closed lately are 0.",
    *("rule", "retriever_id"),
)
ALERTS_CHECKED = _declared(
    "insights", "gauge", "alerts_checked_timestamp_seconds", "Full hour up to which alerts were last checked."
)
