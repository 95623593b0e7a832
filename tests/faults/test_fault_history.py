"""What users did, after workers were killed and Redis came back empty, equal to an independent recount of the log."""

import random
import time
from typing import Any

import pytest

from tests.processes import wait_for

from .harness import Stack
from .histories import differences, stored
from .load import Load, Traffic

pytestmark = [pytest.mark.fault, pytest.mark.broker]


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
    wait_for(lambda: not differences(stack.kafka.address, stack.client), 20, "histories that equal the recount")
    assert len(stored(stack.client)) > 100
    before = stack.active()
    stack.rebuild()
    wait_for(lambda: stack.active() != before, 60, "the rebuilt counters")
    assert differences(stack.kafka.address, stack.client) == []
