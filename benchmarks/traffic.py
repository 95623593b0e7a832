"""The traffic that every contestant reads: seeded, as live search traffic looks, with its own count of the answer."""

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
from confluent_kafka import Producer
from entries import SLOT_MS, Cells

from clickwell.kafka import librdkafka_config
from clickwell.producers.topics import end_offsets, ensure_topics
from clickwell.schemas.topics import INTERACTIONS
from clickwell.schemas.wire import headers
from clickwell.settings import Settings

DOCUMENTS = 30_000
POPULARITY = 1 / np.arange(1, DOCUMENTS + 1)
POPULARITY /= POPULARITY.sum()
PEOPLE = 200_000
LONG_VIEW_MS = 30_000
COUNTED = {"click", "long_view", "add_to_cart", "purchase"}

# What people do with results, and how often in 100 events. A fifth of the events count for nothing, as in live traffic.
TYPES = (
    (("click",), 62),
    (("impression",), 12),
    (("skip",), 9),
    (("add_to_cart",), 9),
    (("purchase",), 4),
    (("click", "add_to_cart"), 3),
    (("view", "positive_feedback"), 1),
)
# Telephones that were offline: this share of the events comes up to LATE_MS late, all others within seconds.
LATE_SHARE = 0.01
LATE_MS = 12 * 3_600_000
DEVICES = ("desktop", "mobile", "tablet")
RETRIEVERS = ("site", "app")
WORDS = ("trail", "running", "shoes", "light", "jacket", "wool", "tent", "two", "persons", "blue", "size", "children")
BLOCK = 50_000


def fill(settings: Settings, events: int, *, seed: int, now_ms: int, with_headers: bool) -> tuple[Cells, float]:
    """Make the topics and write the events; return what must be counted, and the mean bytes of a record's value.

    Raises:
        KafkaError: the broker is away or lost some.
    """
    ensure_topics(settings)
    producer = connect(settings, linger_ms=50)
    version, _, *rest = headers("interaction", "", "bench")
    expected: Cells = Counter()
    size = 0
    for event_id, feature_id, value in generate(events, expected, seed=seed, now_ms=now_ms):
        size += len(value)
        sent = [version, ("ce_id", event_id.encode()), *rest] if with_headers else None
        while True:
            try:
                producer.produce(INTERACTIONS.name, value, feature_id, headers=sent)
            except BufferError:
                producer.poll(0.1)
            else:
                break
    producer.flush()
    written = sum(end_offsets(settings, [INTERACTIONS.name])[INTERACTIONS.name].values())
    assert written == events, f"{written:,} of {events:,} events are in the topic"
    return expected, size / events


def connect(settings: Settings, *, linger_ms: int) -> Producer:
    """Return a producer set up as the Emitter's."""
    return Producer(
        {
            **librdkafka_config(settings.kafka),
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": 500_000,
            "log_level": 3,
        }
    )


def documents_of(seed: int) -> list[str]:
    """Return the documents, the most popular first; they are not neighbours in any order that a contestant may use."""
    return [f"doc-{number:08d}" for number in random.Random(seed).sample(range(10**8), DOCUMENTS)]


def generate(events: int, expected: Cells, *, seed: int, now_ms: int) -> Iterator[tuple[str, str, str]]:
    """Yield (interaction_id, feature_id, JSON) and add what each event counts to `expected`."""
    numbers = np.random.default_rng(seed)
    steps = np.cumsum(POPULARITY)
    names = documents_of(seed)
    shares = np.cumsum([share for _, share in TYPES]) / 100
    json_of = ['["' + '","'.join(types) + '"]' for types, _ in TYPES]
    # The whole topic spans a minute of events that end now.
    span_ms = 60_000
    for first in range(0, events, BLOCK):
        size = min(BLOCK, events - first)
        documents = np.searchsorted(steps, numbers.random(size)).clip(max=DOCUMENTS - 1).tolist()
        kinds = np.searchsorted(shares, numbers.random(size)).clip(max=len(TYPES) - 1).tolist()
        # Median 15 s, a third above 30 s.
        durations = numbers.lognormal(np.log(15_000), 1.5, size).astype(int).tolist()
        delays = numbers.exponential(2000, size)
        delays = np.where(numbers.random(size) < LATE_SHARE, numbers.random(size) * LATE_MS, delays)
        times = (now_ms - span_ms + np.arange(first, first + size) * span_ms / events - delays).astype(int).tolist()
        positions = numbers.geometric(0.25, size).tolist()
        people = numbers.integers(PEOPLE, size=size).tolist()
        words = numbers.integers(len(WORDS), size=(size, 3)).tolist()
        picks = numbers.integers(6, size=size).tolist()
        ids = numbers.bytes(24 * size).hex()
        for i in range(size):
            raw = ids[48 * i : 48 * i + 48]
            event_id = f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-a{raw[17:20]}-{raw[20:32]}"
            name, kind = names[documents[i]], kinds[i]
            types = TYPES[kind][0]
            long_view, lasted = False, ""
            if "click" in types:
                long_view, lasted = durations[i] >= LONG_VIEW_MS, f'"duration_ms":{durations[i]},'
            slot = times[i] // SLOT_MS * SLOT_MS
            for signal in types:
                if signal in COUNTED:
                    expected[name, signal, slot] += 1
            if long_view:
                expected[name, "long_view", slot] += 1
            one, two, three = words[i]
            value = (
                f'{{"user_id":"u{people[i]:06d}","session_id":"{raw[32:40]}",'
                f'"retriever_id":"{RETRIEVERS[picks[i] // 3]}","execution_id":"{raw[40:48]}","timestamp":{times[i]},'
                f'"metadata":{{"query":"{WORDS[one]} {WORDS[two]} {WORDS[three]}",{lasted}'
                f'"device":"{DEVICES[picks[i] % 3]}"}},"interaction_id":"{event_id}","feature_id":"{name}",'
                f'"interaction_type":{json_of[kind]},"position":{positions[i] - 1}}}'
            )
            yield event_id, name, value
