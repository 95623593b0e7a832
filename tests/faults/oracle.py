"""What Redis must hold, counted again from the topic in plain Python: nothing of clickwell is imported here."""

import json
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka import KafkaError as KafkaCode
from confluent_kafka.admin import AdminClient, OffsetSpec

INTERACTIONS, DEAD_LETTERS = "interactions.v1", "dead-letters.v1"
SIGNALS = ("click", "long_view", "add_to_cart", "purchase")
SLOT_MS = 6 * 3_600_000
DAY_MS = 86_400_000
WINDOW = 28
LANES = ("popularity", "engagement")
CELLS = WINDOW + 2

Counts = Mapping[tuple[str, str, int], int]


@dataclass(frozen=True)
class LogRecord:
    """One record as an independent consumer sees it; `poison` is what its sender said about it."""

    partition: int
    offset: int
    received_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    poison: bool

    @cached_property
    def event(self) -> dict[str, Any]:
        """What it says, if it is no poison."""
        return json.loads(self.value or b"")

    @property
    def name(self) -> tuple[object, object]:
        """What a repeat of it has in common with it; its place if nobody could tell a repeat."""
        kind = "interaction_id" if "feature_id" in self.event else "execution_id"
        if not self.event.get(kind):
            return self.partition, self.offset
        return self.event[kind], self.event.get("feature_id") or tuple(self.event.get("results", ()))

    @property
    def own(self) -> bool:
        """Whether clickwell wrote it itself, to carry an erasure out."""
        return (self.value or b"").startswith(b'{"clickwell":')


class NotReadError(AssertionError):
    """The broker did not give what it has in time."""


class TopicReader:
    """Reads a topic to its end, again and again, each time from where it stood.

    Args:
        kafka: bootstrap address.
        topic: its name.

    Attributes:
        records: every record so far, uncommitted and aborted ones too, as workers and sinks count them; of the dead
            letters the committed ones.
    """

    def __init__(self, kafka: str, topic: str) -> None:
        self.records: list[LogRecord] = []
        self._topic, self._next, self._committed = topic, dict[int, int](), topic == DEAD_LETTERS
        self._admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": "oracle",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed" if self._committed else "read_uncommitted",
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )

    def catch_up(self, timeout: float = 60.0) -> list[LogRecord]:
        """Return everything from the beginning to what is now the end."""
        left = set(self._consumer.list_topics(self._topic, timeout=30).topics[self._topic].partitions)
        places = [TopicPartition(self._topic, part, self._next.get(part, OFFSET_BEGINNING)) for part in left]
        # Committed records can be read up to the oldest transaction that is not over: its end is waited for.
        ends = self._ends(left) if self._committed else dict.fromkeys(left, 0)
        self._consumer.assign(places)
        deadline = time.monotonic() + timeout
        while left:
            if time.monotonic() > deadline:
                raise NotReadError(f"{self._topic} could not be read to its end")
            for message in self._consumer.consume(5000, timeout=0.1):
                if error := message.error():
                    if error.code() == KafkaCode._PARTITION_EOF and message.offset() >= ends[message.partition()]:
                        left.discard(message.partition())
                    continue
                headers = tuple(message.headers() or ())
                place = message.partition(), message.offset(), message.timestamp()[1]
                self._next[message.partition()] = message.offset() + 1
                poison = ("poison", b"1") in headers
                self.records.append(LogRecord(*place, message.key(), message.value(), headers, poison))
        self._consumer.unassign()
        return self.records

    def _ends(self, partitions: Iterable[int]) -> dict[int, int]:
        asked = {TopicPartition(self._topic, partition): OffsetSpec.latest() for partition in partitions}
        return {place.partition: told.result(30).offset for place, told in self._admin.list_offsets(asked).items()}

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def read_topic(kafka: str, topic: str) -> list[LogRecord]:
    """Return every record of a topic."""
    reader = TopicReader(kafka, topic)
    try:
        return reader.catch_up()
    finally:
        reader.close()


def recount(records: Iterable[LogRecord], now_ms: int) -> Counts:
    """Return what a reader at `now_ms` must see, by document, signal and slot."""
    counts: Counter[tuple[str, str, int]] = Counter()
    newest: dict[str, int] = {}
    seen = set()
    for record in records:
        if record.poison or record.own:
            continue
        event = record.event
        slot = event.get("timestamp", record.received_ms) // SLOT_MS
        if slot < record.received_ms // SLOT_MS - WINDOW:
            continue
        signals = set(event["interaction_type"])
        if "click" in signals and event.get("metadata", {}).get("duration_ms", 0) >= 30_000:
            signals.add("long_view")
        signals &= set(SIGNALS)
        document = event["feature_id"]
        if not signals or ("interaction_id" in event and (event["interaction_id"], document) in seen):
            continue
        seen.add((event.get("interaction_id"), document))
        newest[document] = max(slot, newest.get(document, 0))
        counts.update((document, signal, slot) for signal in signals)
    return _visible(counts, newest, now_ms)


def read_rings(client: redis.Redis, generation: str, now_ms: int) -> Counts:
    """Return the same from the rings of a generation in Redis."""
    keys = list(client.scan_iter(match=f"cw1:{{s???}}:{generation}:c:*", count=5000))
    rings = client.mget(keys) if keys else []
    # One that is absent expired, or its generation was replaced, after it was listed.
    return counts_of({key: ring for key, ring in zip(keys, rings, strict=True) if ring is not None}, now_ms)


def counts_of(rings: Mapping[bytes, bytes], now_ms: int) -> Counts:
    """Return the counts that rings hold, by their keys."""
    counts, newest = {}, {}
    for key, ring in rings.items():
        document = key.decode().split(":c:", 1)[1]
        header, *cells = struct.unpack(f"<{len(ring) // 4}I", ring)
        newest[document] = last = header & 0xFFFFFF
        bits = [bit for bit in range(8) if header >> 24 + bit & 1]
        assert len(cells) == CELLS * len(bits), key
        for at, count in enumerate(cells):
            slot = last - (last - at % CELLS) % CELLS
            if count:
                counts[document, SIGNALS[bits[at // CELLS]], slot] = count
    return _visible(counts, newest, now_ms)


# Events that are older than this when they are received are in no window.
WINDOW_DAYS = 90


def recount_windows(records: Iterable[LogRecord]) -> dict[tuple[str, int], list[int]]:
    """Return exposures, clicks, skips and conversions by document and day; here each event is a search of its own."""
    kinds = {"click": 1, "skip": 2, "purchase": 3, "add_to_cart": 3}
    facts: dict[object, tuple[str, int, set[int]]] = {}
    for record in records:
        if record.poison or record.own:
            continue
        event = record.event
        told = {kinds[name] for name in event["interaction_type"] if name in kinds}
        if not told and not {"view", "impression"} & {*event["interaction_type"]}:
            continue
        name = event.get("interaction_id", (record.partition, record.offset))
        at = event.get("timestamp", record.received_ms)
        if at // DAY_MS < record.received_ms // DAY_MS - WINDOW_DAYS:
            continue
        facts[name] = event["feature_id"], min(at, facts.get(name, ("", at))[1]), told
    windows: dict[tuple[str, int], list[int]] = {}
    for document, at, told in facts.values():
        row = windows.setdefault((document, at // DAY_MS), [0, 0, 0, 0])
        row[0] += 1
        for kind in told:
            row[kind] += kind != 2 or told == {2}
    return windows


def read_windows(client: redis.Redis, generation: str) -> dict[tuple[str, int], list[int]]:
    """Return what the windows of all shards sum to, by document and day."""
    windows: dict[tuple[str, int], list[int]] = {}
    for shard in range(64):
        index = f"cw1:{{s{shard:03d}}}:{generation}:w"
        for name in client.smembers(index):
            by, _, window = name.decode().partition(":")
            day = int(window[1:]) // (24 if window[0] == "h" else 1)
            for field, value in client.hgetall(f"{index}:{name.decode()}").items() if by == "document" else ():
                row = windows.setdefault((field.split(b"\0")[1].decode(), day), [0, 0, 0, 0])
                row[:] = [a + b for a, b in zip(row, struct.unpack("<8i", value)[:4], strict=True)]
    return {name: row for name, row in windows.items() if any(row)}


def _visible(counts: Counts, newest: Mapping[str, int], now_ms: int) -> Counts:
    """Leave out what has left the window, or what a document's own newer slots have pushed out."""
    oldest = now_ms // SLOT_MS - WINDOW
    return {
        (document, signal, slot): count
        for (document, signal, slot), count in counts.items()
        if slot >= oldest and slot > newest[document] - CELLS
    }


def assert_exact(kafka: str, client: redis.Redis, *, letters_once: bool = True) -> int:
    """Compare every document, signal and slot, and every dead letter; return how many records the log holds."""
    log = read_topic(kafka, INTERACTIONS)
    while True:
        now_ms = time.time_ns() // 1_000_000
        found = read_rings(client, active(client)["name"], now_ms)
        # Rings expire when a slot ends; a comparison across that moment is done again.
        if time.time_ns() // 1_000_000 // SLOT_MS == now_ms // SLOT_MS:
            break
    wanted = recount(log, now_ms)
    wrong = {cell: (wanted.get(cell, 0), found.get(cell, 0)) for cell in wanted.keys() | found.keys()}
    wrong = {cell: pair for cell, pair in wrong.items() if pair[0] != pair[1]}
    assert not wrong, (
        f"{len(wrong)} of {len(wanted)} cells differ, {sum(found.values()) - sum(wanted.values()):+d} in all; "
        f"(cell, (log, Redis)): {sorted(wrong.items())[:8]}"
    )
    windows, wanted_windows = read_windows(client, active(client)["name"]), recount_windows(log)
    differ = {
        name: (wanted_windows.get(name), windows.get(name))
        for name in windows.keys() | wanted_windows.keys()
        if windows.get(name) != wanted_windows.get(name)
    }
    assert not differ, f"{len(differ)} windows differ; (name, (log, Redis)): {sorted(differ.items())[:8]}"
    assert_dead_letters(kafka, [(INTERACTIONS, record) for record in log if record.poison], once=letters_once)
    return len(log)


def assert_dead_letters(kafka: str, poison: Iterable[tuple[str, LogRecord]], *, once: bool = True) -> None:
    """Check that each poison of a topic is dead-lettered once, or at least once, byte for byte, and nothing else is."""
    wanted = Counter((f"{topic}/{r.partition}/{r.offset}".encode(), r.value) for topic, r in poison)
    found = Counter((letter.key, letter.value) for letter in read_topic(kafka, DEAD_LETTERS))
    if not once:
        found = Counter(dict.fromkeys(found, 1))
    assert found == wanted, (
        f"dead letters: missing {[key for key, _ in wanted - found][:8]}, "
        f"superfluous {[key for key, _ in found - wanted][:8]}"
    )


def active(client: redis.Redis) -> Any:
    """Return the generation that readers use."""
    pointer = client.get("{cw1}:active")
    assert pointer, "no generation is active"
    return json.loads(pointer)


def offsets(client: redis.Redis) -> dict[int, list[int]]:
    """Return the next offset of each shard and lane, by partition; nothing while no complete generation is active."""
    building, pointer = client.mget("{cw1}:building", "{cw1}:active")
    if building or not pointer:
        return {}
    name = json.loads(pointer)["name"]
    pipeline = client.pipeline(transaction=False)
    for shard in range(64):
        pipeline.hgetall(f"cw1:{{s{shard:03d}}}:{name}:o")
    ledgers = []
    for ledger in pipeline.execute():
        fields = {field.decode(): value for field, value in ledger.items() if field.count(b"/") == 2}
        ledgers.append({field: int(value.split()[0]) for field, value in fields.items()})
    topics = {field.split("/")[1] for ledger in ledgers for field in ledger if field.startswith("popularity/")}
    found: dict[int, list[int]] = {}
    for ledger in ledgers:
        for field, offset in ledger.items():
            lane, topic, partition = field.split("/")
            if lane in LANES and topic in topics:
                found.setdefault(int(partition), []).append(offset)
    return {partition: shards for partition, shards in found.items() if len(shards) == 64 * len(LANES)}
