"""How far the workers are: what is applied, and waiting until something is."""

import time
from collections.abc import Callable, Mapping

import redis

from clickwell.errors import DependencyError, RedisError
from clickwell.kafka import KafkaLog
from clickwell.redis_client import active_generation, connect, redis_errors
from clickwell.schemas.keys import SHARDS, ledger_field, ledger_key
from clickwell.schemas.rings import Generation
from clickwell.settings import Settings

# Short beside the second within which an event should be visible; one look costs Redis about 0.2 ms.
POLL_SECONDS = 0.05

Targets = Mapping[str, Mapping[int, int]]


def applied(client: redis.Redis, generation: Generation) -> dict[str, int]:
    """Return `lane/topic id/partition` -> the offset below which every shard has applied every record.

    A field that only some shards know counts as 0.

    Raises:
        RedisError: Redis is away.
    """
    pipeline = client.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipeline.hgetall(ledger_key(shard, generation.name))
    with redis_errors():
        ledgers = pipeline.execute()
    fields = {name for ledger in ledgers for name in ledger if name.count(b"/") == 2}
    return {
        name.decode(): min(int(ledger[name].split()[0]) if name in ledger else 0 for ledger in ledgers)
        for name in fields
    }


def wait_applied(
    settings: Settings, targets: Targets, timeout: float, progress: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Wait until every lane that consumes these topics has applied them up to the given next offsets.

    Args:
        settings: where Kafka and Redis are.
        targets: topic -> partition -> offset after the last record that must be applied.
        timeout: seconds to wait at most.
        progress: told after each look how many records are still to be applied, summed over lanes.

    Returns:
        The lanes that were waited for. A topic that no lane consumes is not waited for.

    Raises:
        DependencyError: not applied in time, with the lane that is furthest behind; or no worker has ever reported.
        KafkaError: the broker is away or a topic does not exist.
        RedisError: Redis is away when the time is over.
    """
    log = KafkaLog(settings.kafka)
    names = {log.describe(topic)[0]: topic for topic, partitions in targets.items() if partitions}
    wanted = {topic_id: targets[topic] for topic_id, topic in names.items()}
    deadline = time.monotonic() + timeout
    with connect(settings) as client:
        while True:
            try:
                generation = active_generation(client)
                done = applied(client, generation) if generation else {}
            except RedisError:
                # It may be back in time; the workers wait for it too.
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            behind = behind_of(done, wanted)
            if done and not any(behind.values()):
                return sorted({field.split("/")[0] for field in behind})
            progress(sum(behind.values()))
            if time.monotonic() > deadline:
                raise _too_late(behind, names, timeout)
            time.sleep(POLL_SECONDS)


def behind_of(done: Mapping[str, int], wanted: Mapping[str, Mapping[int, int]]) -> dict[str, int]:
    """Return for each ledger field of interest how many records are still to be applied.

    Args:
        done: what `applied` returned.
        wanted: topic id -> partition -> next offset. A lane consumes a topic if it has any field of it.
    """
    consumers = {tuple(field.split("/")[:2]) for field in done}
    fields: dict[str, int] = {}
    for lane, topic_id in sorted(consumers):
        for partition, target in wanted.get(topic_id, {}).items():
            field = ledger_field(lane, topic_id, partition)
            fields[field] = max(0, target - done.get(field, 0))
    return fields


def _too_late(behind: Mapping[str, int], names: Mapping[str, str], timeout: float) -> DependencyError:
    fix = "`clickwell status` shows whether a worker runs and how far it is"
    if not behind:
        why = "no worker has ever reported on these topics"
        return DependencyError(f"nothing was applied within {timeout:g} s", why=why, fix=fix)
    field, records = max(behind.items(), key=lambda item: item[1])
    lane, topic_id, partition = field.split("/")
    where = f"{names[topic_id]}, partition {partition}"
    return DependencyError(
        f"not everything was applied within {timeout:g} s",
        why=f"{lane} is {records:,} records behind on {where}",
        fix=fix,
    )
