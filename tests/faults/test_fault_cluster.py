"""A Redis Cluster whose slots move and whose primaries die under load, each time followed by the recount."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from clickwell.analytics import consumed
from clickwell.analytics.audit import Difference, audit
from clickwell.analytics.privacy.eraser import Eraser
from clickwell.analytics.privacy.proof import prove
from clickwell.devstack.status import look
from clickwell.errors import RedisError
from clickwell.producers import catalog
from clickwell.producers.erasures import request_erasure
from clickwell.redis_client import active_generation, connect
from clickwell.redis_routing import slot_of
from clickwell.schemas.erasure import Erasure
from clickwell.schemas.keys import ACTIVE
from clickwell.serving.api.keys import Scope, create, list_keys
from clickwell.serving.boosts import AsyncBoostReader, BoostReader
from clickwell.serving.counts import rows_of, summary
from clickwell.serving.interactions import InteractionReader
from clickwell.serving.snapshot import Boosts
from clickwell.serving.trending import top
from clickwell.serving.windows import read_windows
from clickwell.settings import Settings
from clickwell.stream_processors import worker
from tests.processes import wait_for

from . import parts
from .cluster_stack import ClusterStack
from .load import Traffic

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
    slots = [slot_of(ACTIVE), *(stack.slot_of_shard(shard) for shard in range(0, 64, 22))]
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


def test_readers_audit_rebuild_and_erasure(stack: ClusterStack, tmp_path: Path) -> None:
    """Everything else that asks Redis gets from three nodes what it would get from one."""
    settings = stack.settings
    send(stack)
    stack.work()
    stack.keep(parts.sink("sink", stack.folder, stack.kafka.address))
    eraser = Eraser(settings, threading.Event())
    stack.assert_exact()
    found = audit(settings)
    assert (found.differences, found.window_differences) == ([], [])
    wait_for(lambda: boosts_of(settings).reason is None, 20, "fresh counts")
    assert_readers_agree(stack, found.total)
    assert_people_are_known(settings, tmp_path)
    before = stack.active()
    stack.rebuild()
    wait_for(lambda: stack.active() != before, 60, "the rebuilt counts")
    wait_for(lambda: stack.generations() == {stack.active()}, 20, "the end of the old ones")
    request_erasure(settings, Erasure(erasure_id="e1", user_id="user-1"))
    wait_for(eraser.step, 20, "the request")
    while eraser.step():
        pass
    with InteractionReader(settings) as people:
        assert (people.list("user-1").items, len(people.list("user-2").items)) == ((), 20)
    proof = prove(settings)
    assert (proof.found, proof.receipts) == ([], 1)
    assert not audit_of_counts(stack)


def send(stack: ClusterStack) -> None:
    """Send ordinary traffic, and 20 clicks of each of three users."""
    traffic = Traffic(stack.kafka.address, seed=73, poison=0)
    traffic.send(2000)
    for number in range(60):
        event = {"feature_id": f"doc-{number // 3}", "interaction_type": ["click"], "user_id": f"user-{number % 3}"}
        traffic.produce(json.dumps(event | {"timestamp": stack.now_ms() - 1000}).encode())
    traffic.flush()


def boosts_of(settings: Settings) -> Boosts:
    """Return the boosts of a list, read with a reader of its own."""
    with BoostReader(settings) as reader:
        return reader.boosts(DOCUMENTS)


def assert_readers_agree(stack: ClusterStack, total: int) -> None:
    """Compare what the readers say with each other and with the recount's total."""
    settings = stack.settings
    generation = active_generation(stack.client)
    assert generation
    assert sum(summary(stack.client, generation)["total"].values()) == total
    clicks = [row.count for row in rows_of(stack.client, generation, feature_id="doc-3") if row.signal == "click"]
    boosts = boosts_of(settings)
    assert boosts[3].by_signal["click"] == sum(clicks) > 0

    async def read() -> Boosts:
        async with AsyncBoostReader(settings) as reader:
            return await reader.boosts(DOCUMENTS)

    assert asyncio.run(read()).values.tolist() == boosts.values.tolist()
    assert len(top(settings, 10)) == 10
    assert any(row.exposures for row in read_windows(stack.client, generation))
    status = look(settings)
    assert status.workers
    assert all(part.up for part in status.components)


def assert_people_are_known(settings: Settings, folder: Path) -> None:
    """Check histories, also those filled from the lake, the catalogue, and keys of the API."""
    path = folder / "catalog.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"doc-{n}", "brand": f"brand {n % 4}"}) for n in range(200)))
    assert catalog.load(settings, [str(path)]).described == 200
    assert consumed.fill(settings)["entries"] == 60
    with InteractionReader(settings) as people:
        assert len(people.list("user-1").items) == 20
        assert set(people.profile("user-1").attributes["brand"]) == {f"brand {n}" for n in range(4)}
    with connect(settings) as client:
        key, _ = create(client, frozenset({Scope.READ}))
        assert [each.id for each in list_keys(client)] == [key.id]


def audit_of_counts(stack: ClusterStack) -> list[Difference]:
    """Return how counts and lake differ once the workers have passed the log's end."""
    stack.settle()
    return audit(stack.settings).differences


def test_a_node_that_is_taken_for_a_server_is_refused(stack: ClusterStack) -> None:
    """Whoever is told of one node and not of the cluster hears which setting is missing."""
    alone = stack.settings.redis.model_copy(update={"cluster": False})

    async def check() -> None:
        client = worker.connect(alone, timeout=2)
        try:
            await worker.check_redis(client, alone)
        finally:
            await client.aclose()

    with pytest.raises(RedisError, match="is a node of a cluster") as refused:
        asyncio.run(check())
    assert "CLICKWELL_REDIS__CLUSTER=true" in str(refused.value.fix)
