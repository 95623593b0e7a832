"""The nine invariants, each checked by an independent recount of the log; some at any moment, all at the end.

1. What a sender was told is taken is in the log.
2. Counts are those of the log below their own offsets, at any moment.
3. The lake holds the log below its own offsets, at any moment: every event once, nothing else.
4. Offsets never go back, unless Redis forgot something.
5. When all is mended the lag becomes 0, in seconds on a machine that has nothing else to do.
6. Nobody who was erased comes back.
7. Each poison is in the dead letters once.
8. One window after the last event all counts are 0, though nothing runs that could take them away.
9. Readers never fail, and answer in time.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import redis
from confluent_kafka import KafkaException
from deltalake import DeltaTable

from clickwell.analytics.audit import audit
from clickwell.analytics.privacy.proof import prove
from clickwell.analytics.privacy.receipts import Receipts
from clickwell.errors import ClickwellError
from clickwell.kafka import KafkaLog
from clickwell.producers.topics import end_offsets
from clickwell.schemas.keys import shard_of
from clickwell.serving.boosts import BoostReader
from clickwell.settings import BoostSettings
from clickwell.sinks.standing import wait_written
from tests.faults import histories, oracle
from tests.faults.lake import TOPICS, assert_lake_is_log
from tests.faults.oracle import LogRecord, TopicReader
from tests.faults.people import covered, requests_of
from tests.processes import wait_for

from .stage import Stage
from .traffic import SHOWN, Senders

LAG_SECONDS = 240.0
# Erasures wait for each other, and each for the workers and sinks.
RECEIPT_SECONDS = 240.0
# A reader waits 50 ms for the socket, at most three times, on a machine that has other things to do.
READ_P99_MS = 250.0
# A look at the log in mid-run is given up when the broker is away for so long.
LOOK_SECONDS = 20.0

# One script, so that offsets and counts are those of one moment.
_SAMPLE = """
local pointer = redis.call('GET', '{cw1}:active')
if not pointer then return {} end
local name = cjson.decode(pointer).name
local ledgers = {}
for shard = 0, 63 do
  ledgers[shard + 1] = redis.call('HGETALL', string.format('cw1:{s%03d}:%s:o', shard, name))
end
local keys, rings = redis.call('KEYS', 'cw1:{s???}:' .. name .. ':c:*'), {}
for at, key in ipairs(keys) do rings[at] = redis.call('GET', key) end
return {ledgers, keys, rings}
"""


class BrokenError(AssertionError):
    """An invariant does not hold."""


@dataclass
class Findings:
    """What the checks found.

    Attributes:
        events: records of the log that were compared.
        looks: how many checks were made, by what was checked.
        lost, doubled: events that are missing, or counted or stored more often than once.
        problems: one sentence for each invariant that does not hold.
    """

    events: int = 0
    looks: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    problems: list[str] = field(default_factory=list)

    def differ(self, what: str, pairs: dict[Any, tuple[int, int, int]]) -> None:
        """Count cells that are not within bounds: (least, most, found)."""
        wrong = {name: each for name, each in pairs.items() if not each[0] <= each[2] <= each[1]}
        self.lost += sum(max(0, least - found) for least, _, found in wrong.values())
        self.doubled += sum(max(0, found - most) for _, most, found in wrong.values())
        if wrong:
            some = ", ".join(
                f"{name}: {found}, not {least} to {most}" for name, (least, most, found) in [*wrong.items()][:4]
            )
            self.problems.append(f"{what}: {len(wrong)} of {len(pairs)} differ: {some}")


class Checker:
    """Checks a stage.

    Args:
        stage: what is checked.
        senders: what they were told.
        say: told one line when a check takes its time.
    """

    def __init__(self, stage: Stage, senders: Senders, say: Callable[[str], None]) -> None:
        self.found = Findings()
        self._stage, self._senders, self._say = stage, senders, say
        kafka = stage.kafka.address
        self._log = {topic: TopicReader(kafka, topic) for topic in (*TOPICS.values(), "erasures.v1")}
        self._sample = stage.client.register_script(_SAMPLE)
        self._watermarks: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Leave the broker."""
        for reader in self._log.values():
            reader.close()

    def look(self) -> None:
        """Check what must hold at any moment; what cannot be read now is left for the next time."""
        for check in (self._counts, self._lake):
            try:
                check()
            except oracle.NotReadError:
                continue
            self.found.looks[check.__name__.strip("_")] += 1

    def end(self) -> None:
        """Wait until everything has got to the log's end, then check everything, twice: before and after a rebuild."""
        for check in (
            self._settled,
            self._acknowledged,
            self._receipts,
            self._exact,
            self._rebuilt,
            self._nothing_left,
        ):
            began = time.monotonic()
            try:
                check()
            except AssertionError as error:
                self.found.problems.append(f"{check.__name__.strip('_')}: {error}")
            self._say(f"checked in {time.monotonic() - began:.0f} s: {(check.__doc__ or '').rstrip('.')}")

    def _read(self, topic: str) -> list[LogRecord]:
        try:
            return self._log[topic].catch_up(LOOK_SECONDS)
        except KafkaException as error:
            raise oracle.NotReadError(str(error)) from None

    def _counts(self) -> None:
        """Compare counts with the log below their offsets; what is being erased may be there or not."""
        try:
            sample: Any = self._sample()
        except (redis.RedisError, OSError) as error:
            raise oracle.NotReadError(str(error)) from None
        if not sample:
            raise oracle.NotReadError("no counts")
        now_ms = Stage.now_ms()
        ledgers, keys, rings = sample
        found = oracle.counts_of(dict(zip(keys, rings, strict=True)), now_ms)
        next_ = _offsets(ledgers, self._topic_id(oracle.INTERACTIONS))
        below = [
            r
            for r in self._read(oracle.INTERACTIONS)
            if not (r.poison or r.own) and r.offset < next_.get((_shard(r), r.partition), 0)
        ]
        wanted = requests_of(self._read("erasures.v1"))
        most = oracle.recount(below, now_ms)
        least = oracle.recount((r for r in below if not covered(r, wanted)), now_ms)
        cells = most.keys() | found.keys()
        self.found.differ(
            "counts", {cell: (least.get(cell, 0), most.get(cell, 0), found.get(cell, 0)) for cell in cells}
        )

    def _lake(self) -> None:
        """Compare places in the tables with the log below their offsets."""
        try:
            receipts = {each["erasure_id"] for each in Receipts(self._stage.settings).read()}
        except ClickwellError:  # a line is just being written
            raise oracle.NotReadError("the receipts") from None
        for name, topic in TOPICS.items():
            if not DeltaTable.is_deltatable(f"{self._stage.lake}/{name}"):
                continue
            table = DeltaTable(f"{self._stage.lake}/{name}")
            topic_id = self._topic_id(topic)
            columns = table.to_pyarrow_table(columns=["kafka_partition", "kafka_offset"]).to_pydict()
            places = Counter(zip(columns["kafka_partition"], columns["kafka_offset"], strict=True))
            log = [record for record in self._read(topic) if not (record.poison or record.own)]
            ends = {part: table.transaction_version(f"{topic_id}/{part}") or 0 for part in {r.partition for r in log}}
            for part, end in ends.items():
                if end < self._watermarks.get((topic, part), 0):
                    self.found.problems.append(f"the lake's offset of {topic}-{part} went back to {end}")
                self._watermarks[topic, part] = end
            erasures = self._read("erasures.v1")
            asked = requests_of(erasures)
            done = requests_of([r for r in erasures if r.event.get("erasure_id") in receipts])
            self.found.differ(f"the lake's {name}", bounds(log, ends, places, asked, done))

    def _topic_id(self, topic: str) -> str:
        try:
            return KafkaLog(self._stage.settings.kafka).describe(topic)[0]
        except Exception as error:  # noqa: BLE001  # whatever it is, the broker is away
            raise oracle.NotReadError(str(error)) from None

    def _settled(self) -> None:
        """Counters and lake reach the log's end."""
        began = time.monotonic()
        self._stage.settle(LAG_SECONDS)
        ends = end_offsets(self._stage.settings, TOPICS.values())
        try:
            wait_written(self._stage.settings, ends, LAG_SECONDS)
        except ClickwellError as error:
            raise BrokenError(f"{error.message}: {error.why}") from None
        self._say(f"lag 0 after {time.monotonic() - began:.1f} s")

    def _acknowledged(self) -> None:
        """What was acknowledged is in the log."""
        logs = {topic: self._read(topic) for topic in self._log}
        by_place = {(topic, r.partition, r.offset): hash(r.value) for topic, log in logs.items() for r in log}
        gone = [place for place, value in self._senders.places.items() if by_place.get(place) != value]
        names = Counter(
            r.event.get("interaction_id") or r.event.get("execution_id")
            for topic in TOPICS.values()
            for r in logs[topic]
            if not (r.poison or r.own)
        )
        missing = [name for ids in self._senders.acknowledged.values() for name in ids if not names[name]]
        self.found.lost += len(gone) + len(missing)
        self.found.events = sum(len(logs[topic]) for topic in TOPICS.values())
        repeated = sum(names[name] > 1 for name in self._senders.acknowledged["HTTP"])
        told = {who: len(ids) for who, ids in self._senders.acknowledged.items()}
        self._say(f"acknowledged: {len(self._senders.places)} by the broker, {told}; {repeated} came twice by HTTP")
        if gone or missing:
            raise BrokenError(f"acknowledged, but not in the log: {gone[:4]} {missing[:4]}")

    def _receipts(self) -> None:
        """Every erasure has its receipt, and the proof finds nobody."""
        settings = self._stage.settings
        asked = self._senders.asked
        told = Receipts(settings)
        wait_for(lambda: asked <= {each["erasure_id"] for each in told.read()}, RECEIPT_SECONDS, "the receipts")
        wait_for(lambda: "files_gone" in told.path.read_text(), 60, "the end of the old files")
        proof = prove(settings)
        if proof.found or proof.chain or proof.receipts != len(asked):
            raise BrokenError(
                f"{proof.receipts} receipts for {len(asked)} erasures; {proof.found[:4]} {proof.chain[:4]}"
            )

    def _exact(self) -> None:
        """Counts, lake, dead letters and histories are exactly the log without those who were erased."""
        stage = self._stage
        stage.settle(LAG_SECONDS)
        wanted = requests_of(self._read("erasures.v1"))
        log = self._read(oracle.INTERACTIONS)
        left = [record for record in log if not (record.own or covered(record, wanted))]
        now_ms = Stage.now_ms()
        counts = oracle.recount(left, now_ms)
        found = oracle.read_rings(stage.client, oracle.active(stage.client)["name"], now_ms)
        cells = {
            cell: (counts.get(cell, 0), counts.get(cell, 0), found.get(cell, 0))
            for cell in counts.keys() | found.keys()
        }
        self.found.differ("final counts", cells)
        self._letters()
        self._lake()
        assert_lake_is_log(stage.lake, stage.kafka.address, erased=lambda record: covered(record, wanted))
        touched = {record.event.get("user_id") for record in log if not record.own and covered(record, wanted)}
        differ = [
            each
            for each in histories.differences_of(histories.recount(left), histories.stored(stage.client))
            if each[0][0] not in touched
        ]
        if differ:
            raise BrokenError(f"{len(differ)} histories differ: {differ[:3]}")

    def _letters(self) -> None:
        poison = [
            (f"{topic}/{r.partition}/{r.offset}".encode(), r.value)
            for topic in TOPICS.values()
            for r in self._read(topic)
            if r.poison
        ]
        found = Counter((r.key, r.value) for r in oracle.read_topic(self._stage.kafka.address, oracle.DEAD_LETTERS))
        wanted = Counter(poison)
        self.found.differ("dead letters", {one: (wanted[one], wanted[one], found[one]) for one in wanted | found})

    def _rebuilt(self) -> None:
        """Counted again from the log everything is the same, windows included, and the lake agrees."""
        stage = self._stage
        before = stage.active()
        stage.rebuild()
        wait_for(lambda: stage.active() not in {"", before}, LAG_SECONDS, "the rebuilt counts")
        self._exact()
        wanted = requests_of(self._read("erasures.v1"))
        left = [r for r in self._read(oracle.INTERACTIONS) if not (r.own or covered(r, wanted))]
        shown = set(SHOWN)
        recounted, found = oracle.recount_windows(left), oracle.read_windows(stage.client, stage.active())
        differ = {
            name: (recounted.get(name), found.get(name))
            for name in recounted.keys() | found.keys()
            if name[0] not in shown and recounted.get(name) != found.get(name)
        }
        if differ:
            raise BrokenError(f"{len(differ)} windows differ; (log, Redis): {[*differ.items()][:4]}")
        agreed = audit(stage.settings)
        if agreed.differences or agreed.window_differences:
            raise BrokenError(f"the audit finds {agreed.differences[:3]} {agreed.window_differences[:3]}")

    def _nothing_left(self) -> None:
        """Without writers every count is 0 one window later, by the reader's clock and by the server's."""
        stage = self._stage
        stage.kill_workers()
        keys = list(stage.client.scan_iter(match=f"cw1:{{s???}}:{stage.active()}:c:*", count=5000))
        documents = [key.decode().split(":c:", 1)[1] for key in keys]
        assert documents, "nothing was counted"
        after_ms = (oracle.WINDOW + 2) * oracle.SLOT_MS
        patient = stage.settings.model_copy(update={"boosts": BoostSettings(timeout=10, max_age_seconds=1e9)})
        with BoostReader(patient, clock=_Later(after_ms)) as reader:
            boosts = reader.boosts(documents)
        if boosts.reason:
            raise BrokenError(f"the counts could not be read: {boosts.reason}")
        left = {each.feature_id: each.by_signal for each in boosts if any(each.by_signal.values())}
        until = (Stage.now_ms() + after_ms) / 1000
        stay = [key for key in keys if not 0 < stage.client.expiretime(key) <= until]
        if left or stay:
            raise BrokenError(f"after a window there is still {[*left.items()][:4]}; keys that stay: {stay[:4]}")


@dataclass(frozen=True)
class _Later:
    """A clock that is ahead."""

    ms: int

    def now_ms(self) -> int:
        """Return the time."""
        return Stage.now_ms() + self.ms


def judge_reader(report: str, found: Findings) -> dict[str, Any]:
    """Judge what the reader tells, and return it."""
    told = json.loads(report)
    if told["errors"]:
        found.problems.append(f"the reader failed: {told['errors'][:3]}")
    if told["p99_ms"] > READ_P99_MS:
        found.problems.append(f"the reader's p99 was {told['p99_ms']:.0f} ms, above {READ_P99_MS:.0f}")
    return told


def _offsets(ledgers: Iterable[list[bytes]], topic_id: str) -> dict[tuple[int, int], int]:
    """Return the next offset of the popularity lane by (shard, partition)."""
    found = {}
    for shard, ledger in enumerate(ledgers):
        for name, value in zip(ledger[::2], ledger[1::2], strict=True):
            lane, _, rest = name.decode().partition("/")
            topic, _, partition = rest.partition("/")
            if lane == "popularity" and topic == topic_id and partition.isdecimal():
                found[shard, int(partition)] = int(value.split()[0])
    return found


def _shard(record: LogRecord) -> int:
    return shard_of(record.event["feature_id"])


def bounds(
    log: list[LogRecord], ends: dict[int, int], places: Counter[tuple[int, int]], asked: Any, done: Any
) -> dict[Any, tuple[int, int, int]]:
    """Return for each event how often it may be in a table that stands at `ends`, at least and at most, and is."""
    copies: dict[Any, list[LogRecord]] = defaultdict(list)
    for record in log:
        if record.offset < ends[record.partition]:
            copies[record.name].append(record)
    bounds: dict[Any, tuple[int, int, int]] = {}
    for name, group in copies.items():
        found = sum(places.pop((record.partition, record.offset), 0) for record in group)
        least = 0 if covered(group[0], asked) else 1
        bounds[name] = (least, 0 if not least and covered(group[0], done) else 1, found)
    # What is left is of no event below the offsets.
    return bounds | {place: (0, 0, count) for place, count in places.items()}
