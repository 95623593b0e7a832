"""Where a partition goes on: the offsets stored beside the counters, checked against what the log still holds."""

import asyncio
import json
import logging
import time

from redis.asyncio import Redis

from clickwell.erasures import ErasureLog
from clickwell.errors import KafkaError, TopicRecreatedError
from clickwell.kafka import KafkaLog
from clickwell.schemas.erased import Erased
from clickwell.schemas.keys import FRESH, LOSSES, SHARDS, ledger_field, ledger_key
from clickwell.schemas.rings import Generation
from clickwell.stream_processors.engine import Part
from clickwell.stream_processors.generations import Generations, history_start_ms
from clickwell.stream_processors.ledger import Call, Ledger
from clickwell.stream_processors.popularity import PopularityLane

log = logging.getLogger(__name__)


class Resume:
    """Loads stored offsets; begins a generation where Redis knows none; declares what retention took."""

    def __init__(
        self,
        client: "Redis",
        ledger: Ledger,
        generations: Generations,
        kafka: KafkaLog,
        lane: PopularityLane,
        erasures: ErasureLog,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._generations = generations
        self._kafka = kafka
        self._lane = lane
        self._erasures = erasures
        self.lost = 0

    async def load(self, part: Part) -> list[int]:
        """Set the part's generation, field and erasures, and return the next offset of each shard.

        Shards that know nothing of the partition begin at the start of the history that the window needs.

        Raises:
            TopicRecreatedError: the stored offsets belong to an earlier topic of the same name.
            LayoutError: the counters have another shape than the settings ask for.
        """
        generation, _ = await self._generations.target()
        if generation is None:
            generation = await self.begin(part.topic)
        topic_id, _ = await asyncio.to_thread(self._kafka.describe, part.topic)
        part.generation = generation.name
        part.name = ledger_field(self._lane.name, topic_id, part.partition)
        stored = await self._ledger.load(generation.name, part.name)
        missing = [shard for shard, offset in enumerate(stored) if offset is None]
        if missing:
            await self._refuse_recreated(generation, part, topic_id)
            await self._forget_other_topics(topic_id)
            start_ms = history_start_ms(generation, self._lane.dedup_ms)
            start = await asyncio.to_thread(self._kafka.at, part.topic, part.partition, start_ms)
            log.info("%s-%d: %d shards begin at offset %d", part.topic, part.partition, len(missing), start)
            await self._ledger.open(generation.name, part.name, missing, start)
            stored = await self._ledger.load(generation.name, part.name)
        done = [offset for offset in stored if offset is not None]
        if len(done) < SHARDS:
            raise ConnectionError("Redis lost shards that were just opened")
        earliest = await asyncio.to_thread(self._kafka.earliest, part.topic, part.partition)
        # Asked for after the offsets were read: what is stored was once in the log, so its end cannot lie before it.
        ends = await asyncio.to_thread(self._kafka.latest, part.topic, [part.partition])
        if max(done) > ends[part.partition]:
            raise KafkaError(
                f"the log of {part.topic}-{part.partition} ends at {ends[part.partition]}, "
                f"but {max(done)} records of it are counted",
                why="a broker lost acknowledged records, or is still recovering them",
                fix="if they are gone for good, run `clickwell rebuild`",
            )
        if min(done) < earliest:
            done = await self._declare_loss(part, done, earliest)
        part.erased = await asyncio.to_thread(self._erased, generation, part, topic_id, min(done))
        return done

    async def first_record(self, part: Part, offset: int) -> int:
        """Return the offset of the first record that really exists at or after `offset`, or the log's end."""
        return await asyncio.to_thread(self._kafka.first_record, part.topic, part.partition, offset)

    async def begin(self, topic: str) -> Generation:
        """Begin a generation that is complete at the log's present end, or join the one that is being built."""
        erasures = await asyncio.to_thread(self._erasures.steps_end)
        return await self._generations.begin(await self.targets(topic), erasures)

    def _erased(self, generation: Generation, part: Part, topic_id: str, position: int) -> Erased:
        return self._erasures.erased(
            part.topic, topic_id, part.partition, position, lambda batch: batch.place < generation.erasures
        )

    async def targets(self, topic: str) -> dict[str, int]:
        """Return the present end of the log for each ledger field: what a new generation must reach."""
        topic_id, partitions = await asyncio.to_thread(self._kafka.describe, topic)
        ends = await asyncio.to_thread(self._kafka.latest, topic, range(partitions))
        return {ledger_field(self._lane.name, topic_id, partition): end for partition, end in ends.items()}

    async def _refuse_recreated(self, generation: Generation, part: Part, topic_id: str) -> None:
        """Another topic id in the ledger means that the topic was deleted and created again under its name."""
        prefix = f"{self._lane.name}/"
        raw = await self._client.hkeys(ledger_key(0, generation.name))
        fields = [name.decode() if isinstance(name, bytes) else name for name in raw]
        others = {name.split("/")[1] for name in fields if name.startswith(prefix)} - {topic_id}
        if others:
            raise TopicRecreatedError(
                f"topic {part.topic} was deleted and created again: its id is {topic_id}, "
                f"the counters were built from {', '.join(sorted(others))}",
                why="offsets of the old topic mean nothing in the new one, so going on would count wrongly",
                fix="run `clickwell rebuild` to count again from the new topic",
            )

    async def _forget_other_topics(self, topic_id: str) -> None:
        """Drop the freshness of topics that are gone, or readers would take the counters for stale for ever."""
        stamps = await self._client.hkeys(FRESH)
        for raw in stamps:
            name = raw.decode() if isinstance(raw, bytes) else raw
            lane, other, _ = name.split("/")
            if lane == self._lane.name and other != topic_id:
                await self._client.hdel(FRESH, name)

    async def _declare_loss(self, part: Part, done: list[int], earliest: int) -> list[int]:
        """Move shards that stand before the log's start up to it, and record the range that is lost."""
        behind = [shard for shard, offset in enumerate(done) if offset < earliest]
        loss = {
            "topic": part.topic,
            "partition": part.partition,
            "from": min(done),
            "to": earliest,
            "shards": len(behind),
            "at_ms": time.time_ns() // 1_000_000,
        }
        # First the record, then the step over the gap: a range may stand there twice, but none goes unsaid.
        await self._client.rpush(LOSSES, json.dumps(loss))
        nothing = self._lane.arguments(None)
        calls = [Call(shard, done[shard], earliest, 0, nothing) for shard in behind]
        await self._ledger.apply(part.generation, part.name, calls)
        self.lost += earliest - min(done)
        log.error(
            "%s-%d: retention removed offsets %d to %d before they were counted",
            part.topic,
            part.partition,
            min(done),
            earliest - 1,
        )
        return [max(offset, earliest) for offset in done]
