"""The windows in Redis against a recount of the lake at the same offsets: every position, query and document."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import duckdb
import pyarrow as pa
import redis
from xxhash import xxh3_64_intdigest

from clickwell.clock import MS_PER_HOUR
from clickwell.redis_client import redis_errors
from clickwell.schemas.keys import SHARDS, ledger_key, tables_key
from clickwell.schemas.rings import Generation
from clickwell.schemas.windows import BEYOND, LANE, WIDTH_MS, WIDTHS, By, Width, add_table, kept_from, window_of
from clickwell.settings import EngagementSettings
from clickwell.stream_processors.engagement import EngagementLane
from clickwell.stream_processors.generations import log_start_ms

Window = tuple[Width, int, By]
"""Width, start in epoch ms, and what it counts by."""
Windows = dict[Window, dict[tuple[str, str], list[int]]]
Reached = dict[tuple[str, int, int], int]
"""(topic id, partition, shard) -> offset before which the shard has counted the partition."""


@dataclass(frozen=True)
class WindowDifference:
    """One row that differs; counts are exposures, clicks, skips, conversions, by document then those at the top."""

    retriever_id: str
    window_start: int
    width: str
    by: str
    key: str
    redis: list[int]
    lake: list[int]


def sample(client: redis.Redis, generation: Generation, now_ms: int) -> tuple[Windows, Reached]:
    """Read each shard's offsets and the windows that readers see, in one instant.

    Raises:
        RedisError: Redis is away.
    """
    windows: Windows = defaultdict(dict)
    reached: Reached = {}
    oldest = {width: kept_from(generation, width, now_ms) for width in WIDTHS}
    for shard in range(SHARDS):
        index = tables_key(shard, generation.name)
        names: list[bytes] = []
        while True:
            with redis_errors():
                pipe = client.pipeline(transaction=True)
                pipe.smembers(index)
                pipe.hgetall(ledger_key(shard, generation.name))
                for name in names:
                    pipe.hgetall(index.encode() + b":" + name)
                present, ledger, *tables = pipe.execute()
            if present == {*names}:
                break
            names = sorted(present)
        for field, value in ledger.items():
            lane, _, place = field.decode().partition("/")
            if lane == LANE:
                topic_id, partition = place.split("/")
                reached[topic_id, int(partition), shard] = int(value.split()[0])
        for name, table in zip(names, tables, strict=True):
            for width in WIDTHS:
                window = window_of(name, width)
                if window and window[0] >= oldest[width]:
                    add_table(windows[width, window[0] * WIDTH_MS[width], window[1]], table)
    return windows, reached


def recount(
    lake: duckdb.DuckDBPyConnection, generation: Generation, reached: Reached, *, dedup_ms: int, now_ms: int
) -> Windows:
    """Count the lake again as the windows must have it.

    Args:
        lake: connection with `interactions` and `searches`.
        generation: its lane says how to count, and its age which records it has.
        reached: where each shard stands.
        dedup_ms: length of a dedup bucket.
        now_ms: end of the windows.
    """
    shape = generation.lanes[LANE]
    lane = EngagementLane(EngagementSettings.model_validate(shape), dedup_ms)
    # Records before were not read when the generation was begun.
    lake.execute(_TOLD, {"start_ms": log_start_ms(generation, lane, dedup_ms), "days": shape["daily_days"]})
    found = lake.execute("select distinct kind, name from told").fetchall()
    lake.register(
        "shards",
        _table(
            {"kind": pa.int32(), "name": pa.string(), "shard": pa.int64()},
            [(kind, name, xxh3_64_intdigest(name.encode(), kind) % SHARDS) for kind, name in found],
        ),
    )
    place = {"kafka_topic_id": pa.string(), "kafka_partition": pa.int64(), "shard": pa.int64(), "until": pa.int64()}
    lake.register("ends", _table(place, [(*at, offset) for at, offset in reached.items()]))
    sources = sorted(cast("Mapping[str, str]", shape["exposure_by_retriever"]).items())
    lake.register("own", _table({"retriever": pa.string(), "source": pa.string()}, sources))
    ratio = max(1, shape["join_hours"] * MS_PER_HOUR // dedup_ms)
    lake.execute(_SEARCHES, {"ratio": ratio, "dedup_ms": dedup_ms})
    lake.execute(_RESULTS, {"exposure": shape["exposure"]})
    windows: Windows = defaultdict(dict)
    oldest = {width: kept_from(generation, width, now_ms) for width in WIDTHS}
    for width, window, by, retriever, key, *counts in lake.execute(_COUNTS).fetchall():
        if window >= oldest[width]:
            windows[width, window * WIDTH_MS[width], by][retriever, key] = counts if by == "document" else counts[:4]
    return windows


def differences(found: Windows, wanted: Windows) -> list[WindowDifference]:
    """Compare windows; those with rows beyond the limit of a table by their totals."""
    wrong = []
    for window in sorted({*found, *wanted}):
        width, start_ms, by = window
        here, there = found.get(window, {}), wanted.get(window, {})
        if any(key == BEYOND for _, key in here):
            here, there = ({("", BEYOND): _total(rows)} for rows in (here, there))
        for name in sorted({*here, *there}):
            nothing = [0] * (8 if by == "document" else 4)
            pair = here.get(name, nothing), there.get(name, nothing)
            if pair[0] != pair[1]:
                wrong.append(WindowDifference(name[0], start_ms, width, by, name[1], *pair))
    return wrong


def _total(rows: Mapping[tuple[str, str], list[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows.values(), strict=True)]


def _table(kinds: Mapping[str, pa.DataType], rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)], [*kinds])


# One row for each result that an event tells of, with what it tells: 1 listed, 2 impression, 4 click, 8 skip,
# 16 conversion. Events that name no search are searches of their own.
_TOLD = """
create temp table told as
with acts as (
  select *, (case when list_has_any(interaction_type, ['impression', 'view']) then 2 else 0 end
           + case when list_contains(interaction_type, 'click') then 4 else 0 end
           + case when list_contains(interaction_type, 'skip') then 8 else 0 end
           + case when list_has_any(interaction_type, ['add_to_cart', 'purchase']) then 16 else 0 end)::int as bits
  from interactions
), both_kinds as (
  select case when execution_id is not null then 0 when interaction_id is not null then 1 else 2 end::int as kind,
         coalesce(execution_id, interaction_id, concat(kafka_partition, '/', kafka_offset)) as name,
         1 as rank, epoch_ms(timestamp) as time_ms, coalesce(retriever_id, '') as retriever,
         coalesce(query, '') as query, coalesce(position, -1)::bigint as position, feature_id as document, bits,
         epoch_ms(received_at) as received_ms, kafka_topic_id, kafka_partition, kafka_offset
  from acts where bits <> 0
  union all
  select 0, execution_id, 0, epoch_ms(timestamp), coalesce(retriever_id, ''), coalesce(query, ''),
         unnest(range(greatest(len(results), 1))), unnest(case when len(results) = 0 then [null] else results end),
         case when len(results) = 0 then 0 else 1 end, epoch_ms(received_at),
         kafka_topic_id, kafka_partition, kafka_offset
  from searches
)
select * from both_kinds
where received_ms >= $start_ms and time_ms // 86400000 >= received_ms // 86400000 - $days
"""
# Events of one search belong together as long as no bucket of receipts lies between them.
_SEARCHES = """
create temp table parts as
with counted as (
  select told.*, received_ms // $dedup_ms // $ratio as bucket
  from told join shards using (kind, name) join ends using (kafka_topic_id, kafka_partition, shard)
  where kafka_offset < until
), gaps as (
  select *, bucket - lag(bucket) over (partition by kind, name order by bucket) > 1 as gap from counted
)
select *, sum(case when gap then 1 else 0 end) over (partition by kind, name order by bucket) as part from gaps
"""
# What is exposed, each position of a document once: what the source says, and whatever was acted on.
_RESULTS = """
create temp table results as
with heads as (
  select kind, name, part, min({'rank': rank, 'time_ms': time_ms, 'retriever': retriever, 'query': query}) as head
  from parts group by all
), sources as (
  select heads.*, coalesce(source, $exposure) as source from heads left join own on own.retriever = head.retriever
), told_of as (
  select kind, name, part, position, document, bit_or(bits) as bits from parts where document is not null group by all
), relevant as (
  select told_of.* exclude (bits), head,
         bits & (28 + case when source = 'shown' or (source = 'auto' and head.rank = 0) then 1
                           when source = 'implied' then 0 else 2 end) as bits
  from told_of join sources using (kind, name, part)
), placed as (
  select * exclude (position, bits), bits, case when position >= 0 then position else coalesce(
           min(position) filter (position >= 0) over (partition by kind, name, part, document), -1) end as position
  from relevant where bits <> 0
), single as (
  select kind, name, part, any_value(head) as head, document, position, bit_or(bits) as bits from placed
  group by kind, name, part, document, position
)
select head.time_ms as time_ms, head.retriever as retriever, head.query as query, document, position,
       bits & 4 <> 0 as clicked, bits & 16 <> 0 as converted,
       not bool_or(bits & 4 <> 0) over (partition by kind, name, part, document) and bits & 16 = 0 and (bits & 8 <> 0
         or (position >= 0 and position < coalesce(max(position) filter (bits & 4 <> 0) over whole, -1))) as skipped
from single window whole as (partition by kind, name, part)
"""
_COUNTS = """
with windows as (
  select 'hour' as width, time_ms // 3600000 as number, * from results
  union all
  select 'day', time_ms // 86400000, * from results
), keyed as (
  select *, 'position' as told_by, case when position < 0 then '' else position::varchar end as key from windows
  union all
  select *, 'query', query from windows
  union all
  select *, 'document', document from windows
)
select width, number, told_by, retriever, key,
       count(*), count(*) filter (clicked), count(*) filter (skipped), count(*) filter (converted),
       count(*) filter (top), count(*) filter (top and clicked), count(*) filter (top and skipped),
       count(*) filter (top and converted)
from (select *, position between 0 and 2 as top from keyed) group by all
"""
