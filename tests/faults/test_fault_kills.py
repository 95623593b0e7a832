"""Workers that are killed, frozen, replaced and interrupted, each time followed by the recount."""

import random
import time

import pytest

from tests.processes import wait_for

from .harness import Stack, storm_seconds

pytestmark = [pytest.mark.fault, pytest.mark.broker]


@pytest.mark.parametrize(
    "name", ["before_apply", "between_shards", "after_apply", "before_dead_letter", "after_dead_letter"]
)
def test_killed_at_a_failpoint(stack: Stack, name: str) -> None:
    """A worker that is killed at the 1st, 2nd and 15th visit of a place leaves exact counts."""
    visits = [f"{name}:{visit}" for visit in (1, 2, 15)]
    with stack.load(seed=1, poison=0.02):
        (worker,) = stack.work(failpoints=visits, static=True)
        wait_for(lambda: len(worker.exits) == len(visits), 60, "three kills")
    assert worker.exits == [-9] * len(visits)
    stack.assert_exact()


def test_killed_before_the_flip(stack: Stack) -> None:
    """Workers that die where a generation is complete leave it to the next one to show it to readers."""
    stack.publish(seed=2, count=5000)
    workers = stack.work(2, failpoints=["before_flip:1"] * 2, static=True)
    wait_for(lambda: any(worker.exits for worker in workers), 60, "a kill")
    stack.assert_exact()
    before = stack.active()
    stack.rebuild()
    stack.assert_exact()
    assert stack.active() != before


def test_killed_at_random(stack: Stack) -> None:
    """Two workers that are killed at random under load, without static membership, leave exact counts."""
    rng = random.Random(3)
    with stack.load(seed=3):
        workers = stack.work(2)
        stack.wait_applied()
        for _ in range(6):
            time.sleep(rng.uniform(0.5, 5))
            victim = rng.choice(workers)
            wait_for(lambda: victim.pid, 10, "the victim")  # noqa: B023
            victim.kill()
    wait_for(lambda: sum(len(worker.exits) for worker in workers) >= 6, 10, "the supervisor to see all six")
    stack.assert_exact()


def test_frozen_beyond_the_session(stack: Stack) -> None:
    """A worker that wakes up after another one took over its partitions counts nothing twice."""
    rng = random.Random(4)
    with stack.load(seed=4, poison=0.01):
        workers = stack.work(2)
        stack.wait_applied()
        for turn in range(2):
            frozen = workers[turn % 2]
            frozen.pause()
            # The survivor gets the partitions when the session of 6 s is over, and works on them for a while.
            time.sleep(rng.uniform(8, 10))
            stack.wait_applied()
            frozen.resume()
            time.sleep(rng.uniform(1, 2))
    stack.assert_exact()


@pytest.mark.timeout(300)
def test_workers_come_and_go(stack: Stack) -> None:
    """A worker that joins and leaves every two seconds, by TERM or KILL in turns, leaves exact counts."""
    with stack.load(seed=5):
        stack.work()
        stack.wait_applied()
        until, turn = time.monotonic() + storm_seconds(), 0
        while time.monotonic() < until:
            (guest,) = stack.work()
            time.sleep(2)
            guest.wanted = False
            guest.terminate() if turn % 2 else guest.kill()
            time.sleep(2)
            turn += 1
    stack.assert_exact(timeout=90)


def test_agent_raises(stack: Stack) -> None:
    """An agent that raises on every 100th chunk loses none of them."""
    with stack.load(seed=6):
        workers = stack.work(2, FAILPOINT="raise:agent:100", CHUNK_RECORDS="20")
        stack.wait_applied(more=10_000, timeout=90)
    stack.assert_exact()
    assert any(worker.said("rewinds: RuntimeError: failpoint agent") for worker in workers)


def test_agent_raises_on_the_last_chunk(stack: Stack) -> None:
    """A lost chunk is noticed even if no later one shows the gap."""
    (worker,) = stack.work(FAILPOINT="raise:agent:3", CHUNK_RECORDS="1000")
    for burst in range(5):
        stack.publish(seed=70 + burst, count=300)
        stack.settle()
    assert worker.said("rewinds: RuntimeError: failpoint agent")
    stack.assert_exact()
