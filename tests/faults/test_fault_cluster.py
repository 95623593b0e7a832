"""A Redis Cluster whose slots move and whose primaries die under load, each time followed by the recount."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Self

import pytest

from clickwell.analytics.audit import audit
from clickwell.redis_routing import slot_of
from clickwell.schemas.keys import ACTIVE
from clickwell.serving.boosts import BoostReader

from .cluster_stack import ClusterStack
from .harness import wait_for
from .lake import Sink

pytestmark = [pytest.mark.fault, pytest.mark.broker]

DOCUMENTS = [f"doc-{rank}" for rank in range(100)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    """Return a broker and a cluster that belong to this module alone."""
    with ClusterStack(tmp_path_factory.mktemp("cluster")) as stack:
        yield stack


class Reader(threading.Thread):
    """Asks for the boosts of a result list again and again, as searches do."""

    def __init__(self, stack: ClusterStack) -> None:
        super().__init__(name="reader", daemon=True)
        self._boosts = BoostReader(stack.settings)
        self.reasons: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Read until stopped."""
        try:
            while not self._stopped.wait(0.005):
                self.reasons[str(self._boosts.boosts(DOCUMENTS).reason)] += 1
        except BaseException as error:  # noqa: BLE001  # shown by the test that waits for this thread
            self.error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join(30)
        self._boosts.close()


def test_slots_move_and_primaries_die(stack: ClusterStack) -> None:
    """Slots that move, half of their keys here and half there, and primaries that are killed: exact counts."""
    cluster = stack.cluster
    slots = [slot_of(ACTIVE), *(stack.slot_of_shard(shard) for shard in range(0, 64, 13))]
    with stack.load(seed=71), Reader(stack) as reader:
        workers = stack.work(2)
        stack.wait_applied(3000)
        for number, slot in enumerate(slots):
            others = [node for node in cluster.primaries() if node is not cluster.owner(slot)]
            before = stack.applied()
            assert cluster.move(slot, others[number % len(others)], halfway=lambda: time.sleep(0.5)) > 0
            wait_for(lambda: stack.applied() > before, 30, "progress after the move")  # noqa: B023
        for _ in range(2):
            victim = cluster.owner(slot_of(ACTIVE))
            before = stack.applied()
            victim.kill()
            wait_for(lambda: stack.applied() > before + 1000, 60, "progress after the failover")  # noqa: B023
            assert cluster.owner(slot_of(ACTIVE)) is not victim
            victim.start()
            cluster.wait_healthy()
    stack.assert_exact(90)
    assert [worker.exits for worker in workers] == [[], []]
    assert reader.error is None
    assert reader.reasons["None"] > 100, reader.reasons


def test_a_new_primary_joins(stack: ClusterStack) -> None:
    """A primary without data and functions that gets slots under load is taught the functions and counts exactly."""
    cluster = stack.cluster
    with stack.load(seed=72):
        stack.work(2)
        stack.wait_applied(2000)
        target = cluster.primaries()[0]
        target.client.function_flush()
        for shard in range(1, 64, 21):
            slot = stack.slot_of_shard(shard)
            if cluster.owner(slot) is not target:
                cluster.move(slot, target)
        stack.wait_applied(2000)
    stack.assert_exact()


def test_everything_else_works_on_a_cluster(stack: ClusterStack) -> None:
    """Commands, audit, rebuild and erasure do on three nodes what they do on one."""
    settings = stack.settings
    stack.publish(seed=73, count=3000)
    stack.work()
    sink = Sink("sink", stack.folder, stack.kafka.address)
    sink.spawn()
    try:
        stack.assert_exact()
        found = audit(settings)
        assert (found.differences, found.window_differences) == ([], [])
        assert found.total > 1000
    finally:
        sink.kill()
