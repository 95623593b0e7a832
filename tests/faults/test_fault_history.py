"""What users did, after workers were killed and Redis came back empty, equal to an independent recount of the log."""

import json
import random
import time
from typing import Any

import pytest
import redis

from . import oracle
from .harness import Stack, wait_for
from .load import Load, Traffic

pytestmark = [pytest.mark.fault, pytest.mark.broker]

SIGNALS = {"click", "long_view", "add_to_cart", "purchase"}
Histories = dict[tuple[str, str], dict[str, int]]


class PeopleTraffic(Traffic):
    """The same traffic, nine tenths of it by known users; some of it older than anybody remembers."""

    def event(self) -> dict[str, Any]:
        """Return one valid event."""
        event = super().event()
        if self.rng.random() < 0.9:
            event["user_id"] = f"user {self.rng.randrange(40)}:ö"
        if self.rng.random() < 0.02:
            event["timestamp"] = time.time_ns() // 1_000_000 - self.rng.randrange(80, 100) * 86_400_000
        return event


def recount(kafka: str) -> Histories:
    """Return the newest time of each document, by user and signal, as the log has it."""
    found: Histories = {}
    for record in oracle.read_topic(kafka, oracle.INTERACTIONS):
        if record.poison:
            continue
        event = json.loads(record.value or b"")
        at = event.get("timestamp", record.received_ms)
        if "user_id" not in event or at < record.received_ms - 90 * 86_400_000:
            continue
        signals = {*event["interaction_type"]}
        if "click" in signals and event.get("metadata", {}).get("duration_ms", 0) >= 30_000:
            signals.add("long_view")
        for signal in signals & SIGNALS:
            times = found.setdefault((event["user_id"], signal), {})
            times[event["feature_id"]] = max(at, times.get(event["feature_id"], 0))
    # The newest 1,000; the set is sorted as Redis sorts it.
    for name, times in found.items():
        newest = sorted(times.items(), key=lambda item: (item[1], item[0].encode()))[-1000:]
        found[name] = {document: at for document, at in newest if at > time.time_ns() // 1_000_000 - 89 * 86_400_000}
    return found


def stored(client: redis.Redis) -> Histories:
    """Return the same from Redis."""
    found: Histories = {}
    for key in client.scan_iter(match="cw1:{s???}:h:*", count=5000):
        _, _, _, signal, user = key.decode().split(":", 4)
        found[user, signal] = {
            document.decode(): int(at)
            for document, at in client.zrange(key, 0, -1, withscores=True)
            if at > time.time_ns() // 1_000_000 - 89 * 86_400_000
        }
    return found


def differences(stack: Stack) -> list[Any]:
    """Return which (user, signal) Redis remembers otherwise than the log says."""
    wanted, found = recount(stack.kafka.address), stored(stack.client)
    return [
        (name, wanted.get(name), found.get(name))
        for name in wanted.keys() | found.keys()
        if wanted.get(name, {}) != found.get(name, {})
    ]


def test_histories_survive_kills_and_an_empty_redis(stack: Stack) -> None:
    """Workers killed at random, a rebuild, and FLUSHALL under load: every user's history is what the log says."""
    rng = random.Random(7)
    with Load(PeopleTraffic(stack.kafka.address, seed=41), rate=1000):
        workers = stack.work(2, static=True)
        stack.wait_applied()
        for turn in range(3):
            time.sleep(rng.uniform(0.5, 2))
            victim = rng.choice(workers)
            wait_for(lambda: victim.pid, 10, "the victim")  # noqa: B023
            victim.kill()
            if turn == 1:
                stack.client.flushall()
        stack.wait_applied(timeout=120)
    stack.assert_exact(timeout=120)
    wait_for(lambda: not differences(stack), 20, "histories that equal the recount")
    assert len(stored(stack.client)) > 100
    before = stack.active()
    stack.rebuild()
    wait_for(lambda: stack.active() != before, 60, "the rebuilt counters")
    assert differences(stack) == []
