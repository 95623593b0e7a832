"""The counts in Redis against a recount of the lake at the same offsets: every document, signal and slot of the window.

The recount is SQL over what the sink has written, so it shares neither code nor state with the workers that counted.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa
import redis

from clickwell.analytics import audit_windows
from clickwell.analytics.audit_windows import WindowDifference
from clickwell.analytics.lake import SIGNALS, complete
from clickwell.analytics.lake import connect as connect_lake
from clickwell.clock import SystemClock
from clickwell.errors import RedisError
from clickwell.kafka import KafkaLog
from clickwell.redis_client import active_generation, connect, redis_errors
from clickwell.schemas.interactions import RETURN_TO_RESULTS_MS
from clickwell.schemas.keys import LOSSES, SHARDS, ledger_field, ledger_key, murmur2_many, ring_key, shard_of
from clickwell.schemas.rings import Generation, Layout, Rings
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.schemas.windows import LANE
from clickwell.settings import Settings
from clickwell.sinks.standing import wait_written
from clickwell.sinks.table import INTERACTION_TABLE, open_table

POPULARITY = "popularity"
# A document that is first counted while Redis is being read shows as a difference; a second look at it does not.
ROUNDS = 3
_SCAN_COUNT = 1000
_KEYS_AT_ONCE = 500

Cell = tuple[str, str, int]
"""Document, signal, start of the slot in epoch ms."""


@dataclass(frozen=True)
class Difference:
    """One count that differs; `slot_start` in epoch ms; `cause` is a sentence."""

    feature_id: str
    signal: str
    slot_start: int
    redis: int
    lake: int
    cause: str


@dataclass(frozen=True)
class Audit:
    """What was compared and what differs.

    Attributes:
        generation: which counters.
        windows: rows of the windows that were compared; 0 if nothing counts windows.
        documents, cells, total: of the lake's recount.
        records: offsets that both have passed, summed over partitions.
    """

    generation: str
    documents: int
    cells: int
    total: int
    records: int
    differences: list[Difference]
    windows: int = 0
    window_differences: list[WindowDifference] = dataclasses.field(default_factory=list)


@dataclass
class Sample:
    """What Redis holds: counts, and the offset up to which each shard has counted each partition."""

    counts: dict[Cell, int]
    next: dict[tuple[int, int], int]


def audit(settings: Settings, *, timeout: float = 60.0) -> Audit:
    """Compare all counts; waits until the lake has got as far as Redis.

    Memory: the cells of the window, twice.

    Raises:
        RedisError: Redis is away or nothing has been counted.
        LakeError: there is no table of interactions, or its storage does not answer.
        DependencyError: the lake did not get as far in time.
        KafkaError: the broker is away.
    """
    topic_id, _ = KafkaLog(settings.kafka).describe(INTERACTIONS.name)
    with connect(settings) as client:
        generation = active_generation(client)
        if generation is None:
            raise RedisError(
                "nothing has been counted yet", fix="`clickwell worker` counts; `clickwell simulate` sends"
            )
        documents = _documents(client, generation)
        suspects: Collection[str] | None = None
        for _ in range(ROUNDS):
            now_ms = SystemClock().now_ms()
            sample = _sample(client, generation, topic_id, documents if suspects is None else suspects, now_ms)
            reached = _reached(sample)
            wait_written(settings, {INTERACTIONS.name: reached}, timeout)
            counted = recount(settings, generation.layout, topic_id, sample.next, now_ms, suspects)
            if suspects is None:
                cells, total = len(counted), sum(counted.values())
                found = len({document for document, _, _ in counted})
            wrong = {
                cell: (sample.counts.get(cell, 0), counted.get(cell, 0))
                for cell in sample.counts.keys() | counted.keys()
                if sample.counts.get(cell, 0) != counted.get(cell, 0)
            }
            suspects = {document for document, _, _ in wrong}
            if not wrong:
                break
        cause = _Causes(settings, client)
        differences = [
            Difference(*cell, *pair, cause.of(*pair)) for cell, pair in sorted(wrong.items(), key=lambda item: item[0])
        ]
        windows, window_differences = _audit_windows(settings, client, generation, timeout)
    return Audit(generation.name, found, cells, total, sum(reached.values()), differences, windows, window_differences)


def _audit_windows(
    settings: Settings, client: redis.Redis, generation: Generation, timeout: float
) -> tuple[int, list[WindowDifference]]:
    if LANE not in generation.lanes:
        return 0, []
    log, now_ms = KafkaLog(settings.kafka), SystemClock().now_ms()
    found, reached = audit_windows.sample(client, generation, now_ms)
    topics = {log.describe(topic.name)[0]: topic.name for topic in (INTERACTIONS, SEARCHES)}
    ends: dict[str, dict[int, int]] = {name: {} for name in topics.values()}
    for (topic_id, partition, _), offset in reached.items():
        if topic_id in topics:
            end = ends[topics[topic_id]]
            end[partition] = max(offset, end.get(partition, 0))
    wait_written(settings, ends, timeout)
    with connect_lake(settings) as lake:
        complete(lake)
        dedup_ms = settings.popularity.dedup_ms
        wanted = audit_windows.recount(lake, generation, reached, dedup_ms=dedup_ms, now_ms=now_ms)
    return sum(map(len, wanted.values())), audit_windows.differences(found, wanted)


def recount(
    settings: Settings,
    layout: Layout,
    topic_id: str,
    until: dict[tuple[int, int], int],
    now_ms: int,
    only: Collection[str] | None = None,
) -> dict[Cell, int]:
    """Count the lake's interactions again as the counters must have them.

    Args:
        settings: where the lake is, and what makes a long view.
        layout: window, slots and signals of the counters.
        topic_id: rows of other topics do not count.
        until: (shard, partition) -> offset before which that shard has counted.
        now_ms: end of the window.
        only: these documents; all when None.
    """
    oldest = layout.slot(now_ms) - layout.window
    names = {
        "topic_id": topic_id,
        "slot_ms": layout.slot_ms,
        "window": layout.window,
        "oldest": oldest,
        "since_ms": oldest * layout.slot_ms,
        "since_day": datetime.fromtimestamp(oldest * layout.slot_ms // 1000, UTC).date().isoformat(),
        "long_view_ms": settings.popularity.long_view_ms,
        "return_ms": RETURN_TO_RESULTS_MS,
        "signals": list(layout.signals),
    }
    with connect_lake(settings) as lake:
        rows = lake.execute(_DOCUMENTS, {name: names[name] for name in ("topic_id", "since_day")}).fetchall()
        documents = [document for (document,) in rows if only is None or document in only]
        shards = (murmur2_many([document.encode() for document in documents]) % SHARDS).tolist()
        kinds = pa.schema([("feature_id", pa.string()), ("shard", pa.int64())])
        lake.register("shards", pa.table([documents, shards], schema=kinds))
        places = [(shard, partition, offset) for (shard, partition), offset in until.items()]
        kinds = pa.schema([(name, pa.int64()) for name in ("shard", "kafka_partition", "until")])
        lake.register(
            "ends", pa.Table.from_pylist([dict(zip(kinds.names, place, strict=True)) for place in places], kinds)
        )
        found = lake.execute(_RECOUNT, names).fetchall()
    return {(document, signal, slot * layout.slot_ms): count for document, signal, slot, count in found}


_DOCUMENTS = """
select distinct feature_id from interactions where kafka_topic_id = $topic_id and event_date >= $since_day::date
"""
# Each signal counts once an event; what was older than the window when it arrived counts nothing.
_RECOUNT = f"""
with events as (
  select feature_id, epoch_ms(timestamp) // $slot_ms as slot,
         unnest({SIGNALS}) as signal
  from interactions join shards using (feature_id) join ends using (shard, kafka_partition)
  where kafka_topic_id = $topic_id and event_date >= $since_day::date and kafka_offset < until
    and epoch_ms(timestamp) >= $since_ms
    and epoch_ms(timestamp) // $slot_ms >= epoch_ms(received_at) // $slot_ms - $window
)
select feature_id, signal, slot, count(*) from events
where list_contains($signals, signal) and slot >= $oldest group by all
"""  # noqa: S608  # a constant


def _documents(client: redis.Redis, generation: Generation) -> list[str]:
    start = len(ring_key("", generation.name))
    with redis_errors():
        keys = client.scan_iter(match=f"cw1:{{s???}}:{generation.name}:c:*", count=_SCAN_COUNT)
        return list({key[start:].decode() for key in keys})


def _sample(
    client: redis.Redis, generation: Generation, topic_id: str, documents: Iterable[str], now_ms: int
) -> Sample:
    """Read each shard's offsets and counts in one instant."""
    by_shard: dict[int, list[str]] = {shard: [] for shard in range(SHARDS)}
    for document in documents:
        by_shard[shard_of(document)].append(document)
    sample = Sample({}, {})
    layout, prefix = generation.layout, ledger_field(POPULARITY, topic_id, 0)[:-1].encode()
    for shard, names in by_shard.items():
        with redis_errors():
            pipe = client.pipeline(transaction=True)
            pipe.hgetall(ledger_key(shard, generation.name))
            for first in range(0, len(names), _KEYS_AT_ONCE):
                pipe.mget([ring_key(name, generation.name) for name in names[first : first + _KEYS_AT_ONCE]])
            ledger, *rings = pipe.execute()
        for field, value in cast("dict[bytes, bytes]", ledger).items():
            if field.startswith(prefix):
                sample.next[shard, int(field.rsplit(b"/", 1)[1])] = int(value.split()[0])
        values = [value for part in rings for value in part]
        for row, signal, slot, count in Rings.of(values, layout).cells(now_ms):
            sample.counts[names[row], signal, slot * layout.slot_ms] = count
    return sample


def _reached(sample: Sample) -> dict[int, int]:
    reached: dict[int, int] = {}
    for (_, partition), offset in sample.next.items():
        reached[partition] = max(offset, reached.get(partition, 0))
    return reached


class _Causes:
    """Says why a count differs, as far as Redis and the table's history tell."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        delta = open_table(settings, INTERACTION_TABLE)
        with redis_errors():
            raw: Any = client.lrange(LOSSES, 0, -1)
        self._redis_lost = [json.loads(loss) for loss in raw if json.loads(loss)["topic"] == INTERACTIONS.name]
        self._lake_lost = any(key.startswith("clickwell.lost.") for entry in delta.history(1000) for key in entry)

    def of(self, redis_count: int, lake_count: int) -> str:
        if redis_count < lake_count and self._redis_lost:
            first = self._redis_lost[0]
            return f"retention took records from offset {first['from']} on before workers had counted them"
        if redis_count > lake_count and self._lake_lost:
            return "retention took records before the sink had written them"
        if redis_count > lake_count:
            return "Redis counts what the lake does not hold: the count was changed, or the lake began too late"
        return "Redis does not count what the lake holds: the count was changed or removed"
