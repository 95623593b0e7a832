"""Everything at once."""

import random
import time

import pytest
from confluent_kafka.admin import NewPartitions

from . import oracle
from .harness import Stack, storm_seconds
from .test_fault_redis import cut_log

pytestmark = [pytest.mark.fault, pytest.mark.broker]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [51])
def test_storm(stack: Stack, seed: int) -> None:
    """A minute of kills, freezes, cuts, flushes, joins, leaves, raising agents and broker crashes ends exact."""
    rng = random.Random(seed)
    with stack.load(seed=seed, poison=0.005):
        stack.work(2, FAILPOINT="raise:agent:60", CHUNK_RECORDS="100")
        stack.wait_applied()
        until, said = time.monotonic() + storm_seconds(), []
        while time.monotonic() < until:
            fault = rng.choice(FAULTS)
            said.append(f"{time.strftime('%H:%M:%S')} {fault.__name__}")
            fault(stack, rng)
            time.sleep(rng.uniform(0.2, 3))
    print("\n".join(said))
    try:
        stack.assert_exact(timeout=120)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(said)) from None


def kill(stack: Stack, rng: random.Random) -> None:
    """Kill a worker."""
    rng.choice(stack.workers).kill()


def stop(stack: Stack, rng: random.Random) -> None:
    """Ask a worker to end; the supervisor starts it again."""
    rng.choice(stack.workers).terminate()


def freeze(stack: Stack, rng: random.Random) -> None:
    """Freeze a worker for a moment or beyond its session."""
    worker = rng.choice(stack.workers)
    worker.pause()
    time.sleep(rng.choice((1, 8)))
    worker.resume()


def join(stack: Stack, rng: random.Random) -> None:
    """Let a third worker come or go."""
    if len(stack.workers) < 3:
        stack.work()
    else:
        stack.workers[-1].wanted = False
        stack.workers[-1].kill()
        stack.workers.pop()


def cut(stack: Stack, rng: random.Random) -> None:
    """Crash Redis and cut its log."""
    stack.valkey.kill()
    cut_log(stack.folder, rng)
    stack.valkey.start()


def flush(stack: Stack, rng: random.Random) -> None:
    """Empty Redis, sometimes of its functions too."""
    stack.client.flushall()
    if rng.random() < 0.5:
        stack.client.function_flush()


def rebuild(stack: Stack, rng: random.Random) -> None:
    """Begin to count again."""
    stack.rebuild()


def crash_broker(stack: Stack, rng: random.Random) -> None:
    """Crash the broker."""
    stack.kafka.kill()
    time.sleep(rng.uniform(0, 2))
    stack.kafka.start()


def add_partition(stack: Stack, rng: random.Random) -> None:
    """Add a partition."""
    count = len(stack.ends()) + 1
    stack.admin.create_partitions([NewPartitions(oracle.INTERACTIONS, count)])[oracle.INTERACTIONS].result()


FAULTS = (kill, kill, kill, stop, freeze, join, cut, cut, flush, rebuild, crash_broker, add_partition)
