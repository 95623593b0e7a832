"""What a sink tells Prometheus."""

from collections.abc import Iterable, Iterator

from clickwell import metrics
from clickwell.metrics import Sample
from clickwell.sinks.lane import Lane


def samples(lanes: Iterable[Lane]) -> Iterator[Sample]:
    """Yield what each lane has written and how far it is."""
    for lane in lanes:
        stats, table = lane.stats, lane.table
        yield metrics.SINK_ROWS(stats.rows, table)
        yield metrics.SINK_REPEATS(stats.repeats, table)
        yield metrics.SINK_SUPPRESSED(stats.suppressed, table)
        yield metrics.SINK_LETTERS(stats.dead_letters, table)
        yield metrics.SINK_COMMITS(stats.commits, table)
        yield metrics.SINK_FILES(stats.files, table)
        yield metrics.SINK_CONFLICTS(stats.conflicts, table)
        yield metrics.SINK_REWINDS(stats.rewinds, table)
        yield metrics.SINK_LOST(stats.lost, table)
        yield metrics.LAKE_FILES(lane.live_files, table)
        yield metrics.SINK_WRITE_SECONDS(stats.write_seconds, table)
        yield metrics.SINK_FRESHNESS(stats.freshness, table)
        # A copy: the lane goes on counting.
        for reason, count in stats.rejected.copy().items():
            yield metrics.SINK_REJECTED(count, table, reason)
        for partition, records in lane.lag().items():
            yield metrics.SINK_LAG(records, table, partition)
