"""Where a partition goes on: the offsets stored beside the counters, checked against what the log still holds."""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from clickwell.erasures import ErasureLog
from clickwell.errors import KafkaError, TopicRecreatedError
from clickwell.kafka import KafkaLog
from clickwell.schemas.erased import Erased
from clickwell.schemas.keys import FRESH, LOSSES, SHARDS, ledger_field, ledger_key
from clickwell.schemas.rings import Generation
from clickwell.stream_processors.generations import Generations, log_start_ms
from clickwell.stream_processors.lane import Lane
from clickwell.stream_processors.ledger import Call, Ledger
from clickwell.stream_processors.part import Part

log = logging.getLogger(__name__)


class Resume:
    """Loads stored offsets; begins a generation where Redis knows none; declares what retention took."""

    def __init__(
        self,
        client: "Redis",
        ledger: Ledger,
        generations: Generations,
        kafka: KafkaLog,
        lanes: Sequence[Lane[Any]],
        erasures: ErasureLog,
        *,
        dedup_ms: int,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._generations = generations
        self._kafka = kafka
        self._lanes = lanes
        self._erasures = erasures
        self._dedup_ms = dedup_ms
        self.lost = 0

    async def load(self, topic: str, partition: int) -> Part:
        """Return a partition with generation, topic id and erasures, and for each lane the next offset of each shard.

        Shards that know nothing of the partition begin where the log that the lane needs begins.

        Raises:
            TopicRecreatedError: the stored offsets belong to an earlier topic of the same name.
            LayoutError: the counters have another shape than the settings ask for.
        """
        generation, _ = await self._generations.target()
        if generation is None:
            generation = await self.begin()
        topic_id, _ = await asyncio.to_thread(self._kafka.describe, topic)
        part = Part(topic, partition, generation.name, topic_id)
        lanes = [lane for lane in self._lanes if topic in lane.topics]
        done = {lane.name: await self._stored(generation, part, lane) for lane in lanes}
        earliest = await asyncio.to_thread(self._kafka.earliest, topic, partition)
        # Asked for after the offsets were read: what is stored was once in the log, so its end cannot lie before it.
        ends = await asyncio.to_thread(self._kafka.latest, topic, [partition])
        furthest = max(map(max, done.values()))
        if furthest > ends[partition]:
            raise KafkaError(
                f"the log of {topic}-{partition} ends at {ends[partition]}, but {furthest} records of it are counted",
                why="a broker lost acknowledged records, or is still recovering them",
                fix="if they are gone for good, run `clickwell rebuild`",
            )
        least = min(map(min, done.values()))
        if least < earliest:
            done = {lane.name: await self._declare_loss(part, lane, done[lane.name], earliest) for lane in lanes}
            self.lost += earliest - least
        part.done = done
        part.erased = await asyncio.to_thread(self._erased, generation, part, max(least, earliest))
        return part

    def _erased(self, generation: Generation, part: Part, position: int) -> Erased:
        return self._erasures.erased(
            part.topic, part.topic_id, part.partition, position, lambda batch: batch.place < generation.erasures
        )

    async def _stored(self, generation: Generation, part: Part, lane: Lane[Any]) -> list[int]:
        """Return the next offset of each shard of one lane; those that are not known yet are opened."""
        field = part.field_of(lane.name)
        stored = await self._ledger.load(generation.name, field)
        missing = [shard for shard, offset in enumerate(stored) if offset is None]
        if missing or not await self._all_begun(generation, lane):
            await self._forget_other_topics(generation, lane)
            places = await self._places(lane) if len(lane.topics) > 1 else [(part.topic, part.topic_id, part.partition)]
            start_ms = log_start_ms(generation, lane, self._dedup_ms)
            for topic, topic_id, partition in places:
                start = await asyncio.to_thread(self._kafka.at, topic, partition, start_ms)
                log.info("%s begins %s-%d at offset %d", lane.name, topic, partition, start)
                if 0 < start == await asyncio.to_thread(self._kafka.earliest, topic, partition):
                    log.warning("%s: Kafka's log begins at offset %d; what it held before is not known", field, start)
                name = ledger_field(lane.name, topic_id, partition)
                await self._ledger.open(generation.name, name, range(SHARDS), start)
            stored = await self._ledger.load(generation.name, field)
        done = [offset for offset in stored if offset is not None]
        if len(done) < SHARDS:
            raise ConnectionError("Redis lost shards that were just opened")
        return done

    async def _all_begun(self, generation: Generation, lane: Lane[Any]) -> bool:
        """Say whether the ledger knows every partition of a lane whose partitions need what others remember.

        Nothing may be forgotten before those have passed it that have not begun yet. Others need not know.
        """
        if len(lane.topics) == 1:
            return True
        fields = {ledger_field(lane.name, topic_id, partition) for _, topic_id, partition in await self._places(lane)}
        return fields <= {*await self._fields(ledger_key(SHARDS - 1, generation.name), lane)}

    async def _places(self, lane: Lane[Any]) -> list[tuple[str, str, int]]:
        """Return topic, topic id and number of each partition that a lane reads."""
        places = []
        for topic in lane.topics:
            topic_id, partitions = await asyncio.to_thread(self._kafka.describe, topic)
            places += [(topic, topic_id, partition) for partition in range(partitions)]
        return places

    async def first_record(self, topic: str, partition: int, offset: int) -> int:
        """Return the offset of the first record that really exists at or after `offset`, or the log's end."""
        return await asyncio.to_thread(self._kafka.first_record, topic, partition, offset)

    async def begin(self) -> Generation:
        """Begin a generation that is complete when it has reached the present ends of the log, or join another's."""
        # A server that has no generation may have lost its functions too.
        await self._ledger.install()
        erasures = await asyncio.to_thread(self._erasures.steps_end)
        return await self._generations.begin(await self._targets(), erasures)

    async def _targets(self) -> dict[str, int]:
        """Return the present end of the log for each ledger field: what a new generation must reach."""
        targets: dict[str, int] = {}
        for topic in sorted({topic for lane in self._lanes for topic in lane.topics}):
            topic_id, partitions = await asyncio.to_thread(self._kafka.describe, topic)
            ends = await asyncio.to_thread(self._kafka.latest, topic, range(partitions))
            for lane in self._lanes:
                if topic in lane.topics:
                    targets |= {ledger_field(lane.name, topic_id, partition): end for partition, end in ends.items()}
        return targets

    async def _forget_other_topics(self, generation: Generation, lane: Lane[Any]) -> None:
        """Refuse counters of a topic that was deleted and created again; drop the freshness of topics that are gone.

        With the latter, readers would take the counters for stale for ever.
        """
        topics = {(await asyncio.to_thread(self._kafka.describe, topic))[0]: topic for topic in lane.topics}
        others = {field.split("/")[1] for field in await self._fields(ledger_key(0, generation.name), lane)} - {*topics}
        if others:
            present = ", ".join(f"{topic} is {topic_id}" for topic_id, topic in topics.items())
            raise TopicRecreatedError(
                f"a topic was deleted and created again: now {present}, "
                f"the {lane.name} counters were built from {', '.join(sorted(others))}",
                why="offsets of the old topic mean nothing in the new one, so going on would count wrongly",
                fix="run `clickwell rebuild` to count again from the new topic",
            )
        for stamp in await self._fields(FRESH, lane):
            if stamp.split("/")[1] not in topics:
                await self._client.hdel(FRESH, stamp)

    async def _fields(self, key: str, lane: Lane[Any]) -> list[str]:
        """Return the fields of a lane in a hash whose fields begin with lanes."""
        raw = await self._client.hkeys(key)
        names = [name.decode() if isinstance(name, bytes) else name for name in raw]
        return [name for name in names if name.startswith(f"{lane.name}/")]

    async def _declare_loss(self, part: Part, lane: Lane[Any], done: list[int], earliest: int) -> list[int]:
        """Move a lane's shards that stand before the log's start up to it, and record the range that is lost."""
        behind = [shard for shard, offset in enumerate(done) if offset < earliest]
        if not behind:
            return done
        loss = {
            "lane": lane.name,
            "topic": part.topic,
            "partition": part.partition,
            "from": min(done),
            "to": earliest,
            "shards": len(behind),
            "at_ms": time.time_ns() // 1_000_000,
        }
        # First the record, then the step over the gap: a range may stand there twice, but none goes unsaid.
        await self._client.rpush(LOSSES, json.dumps(loss))
        field, nothing = part.field_of(lane.name), lane.arguments(None)
        calls = [Call(lane.function, field, shard, done[shard], earliest, 0, nothing) for shard in behind]
        await self._ledger.apply(part.generation, calls)
        log.error(
            "%s-%d, %s: retention removed offsets %d to %d before they were counted",
            part.topic,
            part.partition,
            lane.name,
            min(done),
            earliest - 1,
        )
        return [max(offset, earliest) for offset in done]
