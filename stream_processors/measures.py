"""What a worker tells Prometheus: its counters, its lag, and the Redis that it writes to."""

from collections.abc import Callable, Iterator

import redis

from clickwell import metrics
from clickwell.metrics import Sample
from clickwell.redis_client import connect
from clickwell.redis_cluster import Cluster
from clickwell.settings import Settings
from clickwell.stream_processors.engine import Engine
from clickwell.stream_processors.generations import Generations
from clickwell.stream_processors.part import NOWHERE, TP
from clickwell.stream_processors.resume import Resume

# Prometheus itself gives up after 10 s.
REDIS_SECONDS = 1.0


class Measures:
    """Turns what the parts of a worker know into samples; called from another thread than theirs.

    Args:
        engine, generations, resume: the parts.
        end_of: the log's end of a partition, as far as the worker knows it.
        settings: where Redis is.
    """

    def __init__(
        self,
        engine: Engine,
        generations: Generations,
        resume: Resume,
        end_of: Callable[[TP], int],
        *,
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._generations = generations
        self._resume = resume
        self._end_of = end_of
        timeout = min(REDIS_SECONDS, settings.redis.timeout)
        quick = settings.redis.model_copy(update={"timeout": timeout})
        self._redis = connect(settings.model_copy(update={"redis": quick}))

    def samples(self) -> Iterator[Sample]:
        """Yield what the worker has done and how far it is."""
        stats = self._engine.stats
        yield metrics.WORKER_RECORDS(stats.records)
        yield metrics.WORKER_APPLIED(stats.applied)
        yield metrics.WORKER_LETTERS(stats.dead_letters)
        yield metrics.WORKER_SUPPRESSED(stats.suppressed)
        yield metrics.WORKER_RETRACTED(stats.retracted)
        yield metrics.WORKER_REWINDS(stats.rewinds)
        yield metrics.WORKER_LOST(self._resume.lost)
        yield metrics.WORKER_REBUILDS(self._generations.finished)
        for metric, counts in (
            (metrics.WORKER_COUNTED, stats.counted),
            (metrics.WORKER_LATE, stats.late),
            (metrics.WORKER_DUPLICATES, stats.duplicates),
            (metrics.WORKER_REJECTED, stats.rejected),
        ):
            # A copy: the worker's thread goes on counting.
            for label, count in counts.copy().items():
                yield metric(count, label)
        yield metrics.WORKER_APPLY_SECONDS(self._engine.apply_seconds)
        yield metrics.WORKER_FRESHNESS(self._engine.freshness)
        yield from self._lag()
        yield from self._memory()

    def _lag(self) -> Iterator[Sample]:
        for part in list(self._engine.parts.values()):
            if part.position != NOWHERE:
                for lane, done in part.done.items():
                    yield metrics.WORKER_LAG(part.lag(done, self._end_of(part.tp)), lane, part.topic, part.partition)

    def _memory(self) -> Iterator[Sample]:
        try:
            servers = self._redis.primaries() if isinstance(self._redis, Cluster) else [self._redis]
            about = {_address(server): server.info() for server in servers}
        except (redis.RedisError, OSError):
            yield metrics.REDIS_UP(0)
            return
        yield metrics.REDIS_UP(1)
        for node, info in about.items():
            yield metrics.REDIS_USED(info["used_memory"], node)
            yield metrics.REDIS_LIMIT(info.get("maxmemory", 0), node)
            yield metrics.REDIS_POLICY(1, node, info.get("maxmemory_policy", "unknown"))
            yield metrics.REDIS_EVICTED(info.get("evicted_keys", 0), node)


def _address(server: redis.Redis) -> str:
    options = server.connection_pool.connection_kwargs
    return f"{options['host']}:{options['port']}" if "host" in options else options.get("path", "")
