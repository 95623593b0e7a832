"""Traffic of people who may be erased, and the rule that says which of their events go, in plain Python."""

import json
import time
from collections.abc import Mapping
from typing import Any

from clickwell.schemas.erasure import Erasure

from . import oracle
from .load import Traffic

SUBJECTS = ("user_id", "session_id", "interaction_id")

Erasures = Mapping[tuple[str, str], int]
"""(field, value) -> when the broker had the request, epoch ms."""


class People(Traffic):
    """The traffic of the other fault tests, most of it by people, who always say when; those who were erased are gone.

    Args:
        kafka: bootstrap address.
        seed: the same seed makes the same events, apart from their times.
        users: how many people there are.
    """

    def __init__(self, kafka: str, seed: int, users: int, **options: Any) -> None:
        super().__init__(kafka, seed, **options)
        self.users = users
        self.gone: set[str] = set()
        self.ids: list[str] = []

    def event(self) -> dict[str, Any]:
        """Return one event of somebody who is still there."""
        event = super().event()
        number = self.rng.randrange(self.users)
        user, session = f"user-{number}", f"visit-{number}-{self.rng.randrange(5)}"
        if not {user, session} & self.gone and self.rng.random() < 0.8:
            event |= {"user_id": user, "session_id": session}
            # A copy of an event without a time would have another time, and be another event.
            now_ms = time.time_ns() // 1_000_000
            event["timestamp"] = min(event.get("timestamp", now_ms), now_ms)
            if "interaction_id" in event:
                self.ids.append(event["interaction_id"])
        return event

    def ask(self, name: str, times: int = 1, **subject: str) -> None:
        """Ask for an erasure, as any Kafka client does, maybe more than once."""
        for _ in range(times):
            self.hand("erasures.v1", Erasure(erasure_id=name, **subject).to_bytes())

    def sent_by_the_gone(self) -> list[bytes]:
        """Return events that were sent by people who have gone since."""
        return [value for value in self._sent if json.loads(value).get("user_id") in self.gone]


def requests_of(records: list[oracle.LogRecord]) -> Erasures:
    """Return when the broker had each request."""
    found: dict[tuple[str, str], int] = {}
    for record in records:
        for kind in SUBJECTS:
            if kind in record.event:
                found.setdefault((kind, record.event[kind]), record.received_ms)
    return found


def covered(record: oracle.LogRecord, erasures: Erasures) -> bool:
    """Tell whether one of the erasures takes an event: what happened, or was received, before the request."""
    if record.poison:
        return False
    event = record.event
    return any(
        event.get("timestamp", record.received_ms) < at_ms or record.received_ms < at_ms
        for kind in SUBJECTS
        if (at_ms := erasures.get((kind, event.get(kind)))) is not None
    )
