"""What users did, counted again from the log in plain Python, and what Redis remembers of it."""

import time
from collections.abc import Iterable
from typing import Any

import redis

from . import oracle

SIGNALS = {"click", "long_view", "add_to_cart", "purchase"}
Histories = dict[tuple[str, str], dict[str, int]]


def recount(records: Iterable[oracle.LogRecord]) -> Histories:
    """Return the newest time of each document, by user and signal, as the log has it."""
    found: Histories = {}
    for record in records:
        if record.poison or record.own:
            continue
        event = record.event
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


def differences(kafka: str, client: redis.Redis) -> list[Any]:
    """Return which (user, signal) Redis remembers otherwise than the log says."""
    return differences_of(recount(oracle.read_topic(kafka, oracle.INTERACTIONS)), stored(client))


def differences_of(wanted: Histories, found: Histories) -> list[Any]:
    """Return which (user, signal) differ, with both."""
    return [
        (name, wanted.get(name), found.get(name))
        for name in wanted.keys() | found.keys()
        if wanted.get(name, {}) != found.get(name, {})
    ]
