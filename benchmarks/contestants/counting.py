"""What every contestant but clickwell counts, and where its counts and its progress stand in Redis.

Free of clickwell: Quix Streams runs in an environment of its own.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

SLOT_MS = 6 * 3_600_000
LONG_VIEW_MS = 30_000
COUNTED = {"click", "long_view", "add_to_cart", "purchase"}
APPLIED = "applied"


def count(events: Iterable[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Return (key, field) -> count: one hash a document, one field a signal and slot."""
    counts: Counter[tuple[str, str]] = Counter()
    for event in events:
        signals = set(event["interaction_type"])
        if "click" in signals and (event["metadata"].get("duration_ms") or 0) >= LONG_VIEW_MS:
            signals.add("long_view")
        slot = event["timestamp"] // SLOT_MS
        for signal in signals & COUNTED:
            counts[f"counts:{event['feature_id']}", f"{signal}:{slot}"] += 1
    return counts


def fill(pipeline: Any, counts: Counter[tuple[str, str]], events: int) -> None:
    """Add the counts to a pipeline, and how many events they stand for."""
    for (key, field), n in counts.items():
        pipeline.hincrby(key, field, n)
    pipeline.incrby(APPLIED, events)
