"""Traffic that goes on while things break: ordinary, repeated, late, early, keyless and poisonous records."""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from confluent_kafka import KafkaError, Message, Producer

from .oracle import INTERACTIONS

DAY_MS = 86_400_000
TYPES = (["click"], ["click"], ["click", "purchase"], ["add_to_cart"], ["skip"], ["long_view", "custom_one"], ["view"])

# Each one is refused for its own reason; see the reasons in `clickwell.schemas.wire`.
POISON: dict[str, bytes | None] = {
    "bad_json": b'{"feature_id":"doc-1","interaction_type":["click"]',
    "first_half": b'{"feature_id":"doc-1",',
    "second_half": b'"interaction_type":["click"]}',
    "two_events": b"\n".join([b'{"feature_id":"doc-1","interaction_type":["click"]}'] * 2),
    "not_an_object": b'["click"]',
    "wrong_types": b'{"feature_id":17,"interaction_type":"click"}',
    "missing_field": b'{"interaction_type":["click"]}',
    "nul": b'{"feature_id":"doc\\u00001","interaction_type":["click"]}',
    "raw_nul": b'{"feature_id":"doc-1","interaction_type":["click"]}\0',
    "lone_surrogate": b'{"feature_id":"doc-\\ud800","interaction_type":["click"]}',
    "nan": b'{"feature_id":"doc-1","interaction_type":["click"],"position":NaN}',
    "huge_int": b'{"feature_id":"doc-1","interaction_type":["click"],"position":1' + b"0" * 4500 + b"}",
    "huge_time": b'{"feature_id":"doc-1","interaction_type":["click"],"timestamp":1' + b"0" * 30 + b"}",
    "1_mb_field": b'{"feature_id":"doc-1","interaction_type":["click"],"metadata":{"x":"' + b"y" * (1 << 20) + b'"}}',
    "year_1970": b'{"feature_id":"doc-1","interaction_type":["click"],"timestamp":86400000}',
    "year_2099": b'{"feature_id":"doc-1","interaction_type":["click"],"timestamp":4070908800000}',
    "deep": b'{"feature_id":"doc-1","interaction_type":["click"],"metadata":{"x":'
    + b"[" * 50_000
    + b"]" * 50_000
    + b"}}",
    "invalid_utf8": b'{"feature_id":"doc-\xff","interaction_type":["click"]}',
    "empty": b"",
    "none": None,
}


class Traffic:
    """Makes records from a seed and sends them; what really reached the log is read from there.

    Args:
        kafka: bootstrap address.
        seed: the same seed makes the same events, apart from their times.
        documents: how many documents there are; a few of them get most of the events.
        poison: share of records that are poison.

    Attributes:
        on_delivery: told what the broker says of each record.
    """

    def __init__(self, kafka: str, seed: int, *, documents: int = 2000, poison: float = 0.002) -> None:
        self.rng = random.Random(seed)
        self.on_delivery: Callable[[KafkaError | None, Message], None] | None = None
        self._documents, self._poison = documents, poison
        self._sent: deque[bytes] = deque(maxlen=3000)
        self._partitions = 0
        self.sent = 0
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 20,
                "compression.type": "lz4",
                "message.max.bytes": 32 << 20,
                "delivery.timeout.ms": 90_000,
                "topic.metadata.refresh.interval.ms": 2000,
                "log_level": 0,
            }
        )

    def send(self, count: int = 1) -> None:
        """Queue records of all kinds."""
        for _ in range(count):
            draw = self.rng.random()
            if draw < self._poison:
                # The large ones are kept rare by sending the small ones more often.
                small = [value for value in POISON.values() if len(value or b"") < 10_000]
                self.produce(self.rng.choice(small), poison=True)
            elif draw < 0.05 and self._sent:
                self.produce(self.rng.choice(self._sent))
            else:
                value = json.dumps(self.event(), ensure_ascii=self.rng.random() < 0.5).encode()
                self._sent.append(value)
                self.produce(value)

    def event(self) -> dict[str, Any]:
        """Return one valid event, within the window or a little outside it."""
        rng, now_ms = self.rng, time.time_ns() // 1_000_000
        rank = int(rng.paretovariate(0.6)) % self._documents
        event: dict[str, Any] = {
            "feature_id": f"doc-{rank}" if rank % 7 else f"документ-{rank}",
            "interaction_type": rng.choice(TYPES),
        }
        if rng.random() < 0.95:
            event["interaction_id"] = f"{rng.getrandbits(80):x}"
        draw = rng.random()
        if draw < 0.6:
            event["timestamp"] = now_ms - int(rng.random() * 7.5 * DAY_MS)
        elif draw < 0.7:
            event["timestamp"] = now_ms + rng.randrange(180_000)
        elif draw < 0.9:
            event["timestamp"] = now_ms - rng.randrange(60_000)
        if rng.random() < 0.4:
            event["metadata"] = {"query": "sko røde", "duration_ms": rng.choice((0, 9_999, 29_999, 30_000, 90_000))}
        if rng.random() < 0.1:
            event["something_unknown"] = [1, {"two": None}]
        return event

    def produce(self, value: bytes | None, *, poison: bool = False, partition: int | None = None) -> None:
        """Queue one record: by its document's hash, without a key, or where another partitioner might put it."""
        draw = self.rng.random()
        key = None
        if partition is None and value and b'"timestamp"' not in value and not poison:
            # Its time is that of its arrival: which copy came first, and so its slot, only one partition's order tells.
            partition = crc32(value) % self._known_partitions()
        elif partition is None and draw < 0.2:
            partition = self.rng.randrange(self._known_partitions())
        elif draw < 0.8:
            key = str(self.rng.random() if poison else json.loads(value or b"")["feature_id"]).encode()
        self.hand(INTERACTIONS, value, key, poison=poison, **({} if partition is None else {"partition": partition}))

    def hand(
        self, topic: str, value: bytes | None, key: bytes | str | None = None, *, poison: bool = False, **place: int
    ) -> None:
        """Queue one record of any topic."""
        headers = [("poison", b"1")] if poison else [("source", b"test")]
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=self.on_delivery, **place)
                break
            except BufferError:
                self._producer.poll(0.1)
        self.sent += 1
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until the broker has taken everything."""
        assert self._producer.flush(100) == 0, "the broker did not take all records"

    def _known_partitions(self) -> int:
        if not self._partitions:
            self._partitions = len(self._producer.list_topics(INTERACTIONS, timeout=30).topics[INTERACTIONS].partitions)
        return self._partitions


class Load(threading.Thread):
    """Sends traffic at a steady rate from a thread until it is left as a context manager.

    Args:
        traffic: what to send.
        rate: records a second.
    """

    def __init__(self, traffic: Traffic, rate: int) -> None:
        super().__init__(name="load", daemon=True)
        self._traffic, self._rate = traffic, rate
        self._stopped = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Send until stopped."""
        began, sent = time.monotonic(), 0
        try:
            while not self._stopped.wait(0.02):
                due = int((time.monotonic() - began) * self._rate) - sent
                self._traffic.send(due)
                sent += due
            self._traffic.flush()
        except BaseException as error:  # noqa: BLE001  # shown by the test that waits for this thread
            self._error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self.join(130)
        if kind is None:
            assert self._error is None, f"the load failed: {self._error!r}"
            assert not self.is_alive(), "the load could not be flushed"
