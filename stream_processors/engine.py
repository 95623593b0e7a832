"""The part of a worker that makes counting exact: one state machine for each assigned partition.

Nothing that Faust or aiokafka does is trusted. A partition accepts a chunk only if it continues where the last accepted
one ended; whatever they drop, repeat, reorder or deliver too late is either old (dropped) or a gap (seek back). Redis
decides what was applied: on any answer but "applied", and on any doubt, the partition *rewinds*, which means it forgets
what it believed, reloads every stored offset and seeks to the lowest.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from clickwell.dead_letters import DeadLetters, Source
from clickwell.errors import ClickwellError, DecodeError, LayoutError, SettingsError, TopicRecreatedError
from clickwell.metrics import WORKER_APPLY_SECONDS, WORKER_FRESHNESS
from clickwell.privacy import missing_key
from clickwell.schemas.decode import Batch, Decoder, EventDecoder, Record
from clickwell.schemas.decode_searches import SearchDecoder
from clickwell.schemas.keys import SHARDS
from clickwell.schemas.marks import UnknownKeyError
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.stream_processors.lane import Lane, Work
from clickwell.stream_processors.ledger import Call, Ledger, Outcome
from clickwell.stream_processors.part import IMPATIENCE, NOWHERE, TP, Part
from clickwell.tracing import Tracing, requests_of

log = logging.getLogger(__name__)

# The rows of so many records fit into a core's own cache; with many more, decoding and grouping take twice the time.
DECODED_AT_ONCE = 2000
# After the log was asked it is tried less and less often: each time what is on its way is thrown away, and on a machine
# that is too busy to bring it in that time it would never come.
MOST_PATIENCE = 40.0
# A partition without new records passes dedup buckets by the clock, this far behind it, so that neither a clock that is
# wrong by hours nor records that this worker has not heard of yet can meet ids that were forgotten too early.
IDLE_BUCKETS = 24


@dataclass
class Stats:
    """What a worker has done since it started.

    Attributes:
        records: records taken from the log; after a rewind some are taken again.
        rejected: of them, those that are no events, by reason.
        applied: events that all lanes have applied.
        counted, late, duplicates: of them, by lane, see `Work`.
        suppressed: events of erased subjects that were left out.
        retracted: events that were taken back.
    """

    records: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    applied: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    dead_letters: int = 0
    suppressed: int = 0
    retracted: int = 0
    rewinds: int = 0


class Standing(Protocol):
    """Where a partition stands in the generation that is to be written; see `clickwell.stream_processors.resume`."""

    async def load(self, topic: str, partition: int) -> Part:
        """Return the partition with its generation, topic id and erasures, and the next offsets of every lane."""
        ...

    async def first_record(self, topic: str, partition: int, offset: int) -> int:
        """Return the offset of the first record that really exists at or after `offset`, or the log's end."""
        ...


class Engine:
    """Feeds chunks of all assigned partitions to the lanes, which stand and fall together.

    A chunk is decoded once and its calls of all lanes go to Redis in one exchange. A doubt about one lane rewinds the
    partition for all: those that stand ahead then skip what they have.

    Args:
        lanes: each reads some of the topics.
        dedup_ms: length of a dedup bucket, of the broker's time.
        open_rows: puts names back into rows that were sealed.
        dead_letter_topics: whose bad records are dead-lettered here; others leave that to somebody else.
        seek: moves the consumer; called with {(topic, partition): offset}.
        fatal: told of an error that no retry can mend; must end the process.
        tracing: makes a span of each chunk that holds records of traced requests.
    """

    def __init__(
        self,
        lanes: Sequence[Lane[Any]],
        ledger: Ledger,
        standing: Standing,
        dead_letters: DeadLetters,
        seek: Callable[[Mapping[TP, int]], Awaitable[None]],
        fatal: Callable[[ClickwellError], None],
        *,
        dedup_ms: int,
        idle_seconds: float,
        open_rows: Callable[[Sequence[Any]], None] | None = None,
        dead_letter_topics: Collection[str] = (INTERACTIONS.name,),
        tracing: Tracing | None = None,
    ) -> None:
        self.parts: dict[TP, Part] = {}
        self.stats = Stats()
        self.apply_seconds, self.freshness = WORKER_APPLY_SECONDS.histogram(), WORKER_FRESHNESS.histogram()
        self.redis_answered_at = time.monotonic()
        topics = {topic for lane in lanes for topic in lane.topics}
        self._lanes = {topic: [lane for lane in lanes if topic in lane.topics] for topic in topics}
        self._dedup_ms = dedup_ms
        self._ledger = ledger
        self._standing = standing
        self._dead_letters = dead_letters
        self._seek = seek
        self._fatal = fatal
        self._idle_seconds = idle_seconds
        self._dead_letter_topics = dead_letter_topics
        self._decoders: dict[str, EventDecoder[Any]] = {INTERACTIONS.name: Decoder(), SEARCHES.name: SearchDecoder()}
        for decoder in self._decoders.values():
            decoder.open_rows = open_rows
        self._rewinds: set[asyncio.Task[None]] = set()
        self._tracing = tracing

    async def assign(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Take over exactly these partitions and return the positions that are known by now.

        May be called again at any time. Does not wait for an unreachable Redis: such a partition accepts nothing and
        keeps trying.
        """
        # New objects even for partitions that stay: whatever is in flight for the old ones can no longer matter.
        self.parts = {tp: Part(*tp, progress_at=time.monotonic()) for tp in sorted(tps)}
        rewinds = [self._start_rewind(part, "assigned") for part in self.parts.values()]
        if rewinds:
            await asyncio.wait(rewinds, timeout=IMPATIENCE)
        return {part.tp: part.position for part in self.parts.values() if part.position != NOWHERE}

    async def feed(self, tp: TP, records: Sequence[Record]) -> None:
        """Take one chunk: consecutive records of one partition. Never raises; a failure rewinds the partition."""
        part = self.parts.get(tp)
        if part is None or records[-1].offset < part.position:
            return
        if records[0].offset > part.position:
            self._miss(part, records[0].offset)
            return
        if records[0].offset < part.position:
            records = [record for record in records if record.offset >= part.position]
        part.seeking_since, part.gap, part.patience = 0.0, None, IMPATIENCE
        epoch = part.epoch
        try:
            with self._traced(part, records):
                for bucket, run in self._runs(records):
                    if not await self._feed_run(part, epoch, bucket, run):
                        return
        except UnknownKeyError as error:
            self._fatal(missing_key(str(error)))
        except SettingsError as error:
            self._fatal(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, only a reload is safe
            self.fail(tp, error)

    def fail(self, tp: TP, error: Exception) -> None:
        """Rewind a partition after an exception in its path."""
        if part := self.parts.get(tp):
            log.debug("%s-%d failed", *tp, exc_info=error)
            # redis-py's repr does not tell what the server said.
            self._start_rewind(part, f"{type(error).__name__}: {error}")

    async def tick(self, end_of: Callable[[TP], int]) -> None:
        """Advance idle shards, notice a lost Redis, and rewind partitions that wait for a chunk that will not come.

        Args:
            end_of: the log's end of a partition, as far as the consumer knows it.
        """
        now = time.monotonic()
        for part in list(self.parts.values()):
            waiting_since = part.seeking_since or (part.progress_at if end_of(part.tp) > part.position else now)
            if part.seeking_since and end_of(part.tp) <= part.position:
                part.seeking_since, part.patience = 0.0, IMPATIENCE
            elif part.idle and now - waiting_since > part.patience:
                if part.seeking_since:
                    part.patience = min(2 * part.patience, MOST_PATIENCE)
                # After a seek that brought nothing the log is asked: it may have no records there.
                self._start_rewind(part, "no chunk came", probe=bool(part.seeking_since))
            elif part.idle and not part.seeking_since:
                # Ids stay until every partition has passed them; one that nobody writes to must not hold them for ever.
                caught_up = 0 < end_of(part.tp) <= part.position
                bucket = self._bucket(time.time_ns() // 1_000_000) - IDLE_BUCKETS if caught_up else 0
                part.applying = asyncio.create_task(self._apply(part, part.epoch, part.position, bucket, None))

    def rewind_all(self, why: str) -> None:
        """Reload every partition, for example because another generation is to be written now."""
        for part in self.parts.values():
            self._start_rewind(part, why)

    async def settle(self) -> None:
        """Wait for the calls in flight; for a graceful stop."""
        running = [part.applying for part in self.parts.values() if part.applying]
        if running:
            await asyncio.wait(running)

    def _traced(self, part: Part, records: Sequence[Record]) -> AbstractContextManager[None]:
        if self._tracing is None:
            return nullcontext()
        requests = requests_of(getattr(record, "headers", None) for record in records)
        return self._tracing.batch(f"apply {part.topic}", requests, partition=part.partition, records=len(records))

    def _bucket(self, received_ms: int) -> int:
        return received_ms // self._dedup_ms

    def _runs(self, records: Sequence[Record]) -> Iterator[tuple[int, Sequence[Record]]]:
        """Cut records where the dedup bucket changes, which it rarely does."""
        times = [record.timestamp for record in records]
        bucket = self._bucket(min(times))
        if bucket == self._bucket(max(times)):
            yield bucket, records
            return
        for bucket, run in groupby(records, lambda record: self._bucket(record.timestamp)):
            yield bucket, list(run)

    def _decode(self, part: Part, records: Sequence[Record]) -> Iterator[Batch[Any]]:
        """Decode a little at a time, without what is erased."""
        decoder, erased = self._decoders[part.topic], part.erased
        for first in range(0, len(records), DECODED_AT_ONCE):
            batch, suppressed = erased.apply(decoder.decode(records[first : first + DECODED_AT_ONCE]))
            self.stats.suppressed += suppressed
            self.stats.retracted += len(batch.retractions)
            yield batch

    async def _feed_run(self, part: Part, epoch: int, bucket: int, records: Sequence[Record]) -> bool:
        bad: list[tuple[Record, DecodeError]] = []
        lanes = self._lanes[part.topic]
        works: dict[str, Work] = {lane.name: lane.begin(part.topic, part.partition) for lane in lanes}
        ahead = {name: done for name, done in part.done.items() if max(done) > records[0].offset}
        rows = 0
        for batch in self._decode(part, records):
            bad += batch.bad
            rows += len(batch.rows)
            for lane in lanes:
                if batch.rows:
                    lane.add(works[lane.name], batch, ahead.get(lane.name))
                for offset, retraction in batch.retractions:
                    lane.take_back(works[lane.name], offset, retraction, ahead.get(lane.name))
        for lane in lanes:
            lane.finish(works[lane.name])
        if bad and part.topic in self._dead_letter_topics:
            source = Source(part.topic, part.topic_id, part.partition)
            self.stats.dead_letters += await self._dead_letters.send(source, bad)
        # Again after each wait: the timer may have begun the next call before this task went on.
        while part.applying is not None and not part.applying.done():
            await part.applying
        # No await from here to the new task: between check and use nobody may rewind.
        if part.epoch != epoch or self.parts.get(part.tp) is not part:
            return False
        part.position = records[-1].offset + 1
        part.oldest_ms, part.received_ms = records[0].timestamp, records[-1].timestamp
        self.stats.records += len(records)
        self.stats.rejected.update(error.reason for _, error in bad)
        part.applying = asyncio.create_task(self._apply(part, epoch, part.position, bucket, works, rows))
        # Let the call reach the socket, so that Redis works while the next chunk is decoded.
        await asyncio.sleep(0)
        return True

    async def _apply(
        self, part: Part, epoch: int, next_offset: int, bucket: int, works: Mapping[str, Work] | None, rows: int = 0
    ) -> None:
        """Bring the shards of one partition to `next_offset` in every lane; on any doubt rewind."""
        try:
            everything = works is None or time.monotonic() - part.all_at > self._idle_seconds
            todo = [
                (lane, shard)
                for lane in self._lanes[part.topic]
                for shard in (range(SHARDS) if works is None or everything else works[lane.name].shards)
                # A tick also calls shards that need not move: the comparison is what finds a lost Redis.
                if part.done[lane.name][shard] < next_offset or works is None
            ]
            while todo:
                calls = [self._call(part, lane, shard, next_offset, bucket, works) for lane, shard in todo]
                began = time.monotonic()
                with nullcontext() if self._tracing is None else self._tracing.step("redis", calls=len(calls)):
                    replies = await self._ledger.apply(part.generation, calls)
                self.redis_answered_at = time.monotonic()
                self.apply_seconds.observe(self.redis_answered_at - began)
                if part.epoch != epoch:
                    return
                if any(reply.outcome is Outcome.REWIND for reply in replies):
                    self._start_rewind(part, "Redis stands elsewhere")
                    return
                again = []
                for (lane, shard), call, reply in zip(todo, calls, replies, strict=True):
                    if reply.outcome is Outcome.APPLIED:
                        part.done[lane.name][shard] = call.next
                    else:
                        assert works is not None
                        lane.amend(works[lane.name], shard, reply.known)
                        again.append((lane, shard))
                todo = again
            if everything:
                part.all_at = time.monotonic()
            if works:
                self._count(part, works, rows)
        except Exception as error:  # noqa: BLE001  # what was applied is unknown, so only a reload is safe
            if part.epoch == epoch:
                self.fail(part.tp, error)

    @staticmethod
    def _call(
        part: Part, lane: Lane[Any], shard: int, next_offset: int, bucket: int, works: Mapping[str, Work] | None
    ) -> Call:
        share = works[lane.name].shards.get(shard) if works else None
        done = part.done[lane.name][shard]
        # A shard that a crash left ahead of the others has no share and stays where it is.
        following = max(next_offset, done)
        return Call(lane.function, part.field_of(lane.name), shard, done, following, bucket, lane.arguments(share))

    def _count(self, part: Part, works: Mapping[str, Work], rows: int) -> None:
        part.progress_at = time.monotonic()
        self.freshness.observe(max(0.0, time.time_ns() / 1e9 - part.oldest_ms / 1000))
        self.stats.applied += rows
        for name, work in works.items():
            self.stats.counted[name] += work.counted
            self.stats.late[name] += work.late
            self.stats.duplicates[name] += work.duplicates

    def _miss(self, part: Part, first: int) -> None:
        """Deal with a chunk that begins beyond the position: records before it are missing."""
        if part.position == NOWHERE:
            return
        gap = (part.position, first)
        if not part.seeking_since:
            part.gap = gap
            self._start_rewind(part, f"expected offset {part.position}, got {first}")
        elif part.gap == gap:
            # The same again after the seek: the log may have no records there, as after a transaction's marker.
            part.gap = None
            self._start_rewind(part, f"offsets {part.position} to {first - 1} are missing twice", probe=True)

    def _start_rewind(self, part: Part, why: str, *, probe: bool = False) -> asyncio.Task[None]:
        """Stop accepting at once, then reload and seek in a task of its own."""
        # Before the first await: a queued chunk that still fits the old position must not slip in.
        part.position = NOWHERE
        part.epoch += 1
        # Of no generation, so that nobody who compares it begins yet another rewind meanwhile.
        part.generation = ""
        task = asyncio.create_task(self._rewind(part, part.epoch, why, probe=probe))
        self._rewinds.add(task)
        task.add_done_callback(self._rewinds.discard)
        return task

    async def _rewind(self, part: Part, epoch: int, why: str, *, probe: bool) -> None:
        log.info("%s-%d rewinds: %s", part.topic, part.partition, why)
        self.stats.rewinds += 1
        delay = 0.05
        while part.epoch == epoch and self.parts.get(part.tp) is part:
            try:
                found = await self._standing.load(part.topic, part.partition)
                position = found.least
                if probe:
                    position = await self._standing.first_record(part.topic, part.partition, position)
                self.redis_answered_at = time.monotonic()
                # Another rewind, or another owner of the partition, began meanwhile: theirs counts, nothing of this.
                if part.epoch != epoch or self.parts.get(part.tp) is not part:
                    return
                part.epoch = epoch = epoch + 1
                part.generation, part.topic_id = found.generation, found.topic_id
                part.done, part.erased, part.all_at = found.done, found.erased, 0.0
                part.position, part.seeking_since = position, time.monotonic()
                await self._seek({part.tp: position})
            except (TopicRecreatedError, LayoutError, SettingsError) as error:
                self._fatal(error)
                return
            except Exception as error:  # noqa: BLE001  # a server that is away comes back; the watchdog ends the rest
                log.warning("%s-%d waits to rewind: %s", part.topic, part.partition, error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, 2.0)
            else:
                return
