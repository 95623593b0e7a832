"""Several Valkeys on this machine as one cluster: to show and to test what a cluster does, not for production."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from clickwell.devstack.process import HOST, free_port
from clickwell.devstack.valkey import ValkeyServer
from clickwell.errors import StackError

SLOTS = 16_384
_READY_SECONDS = 30.0
_POLL_SECONDS = 0.05
# Keys that one MIGRATE takes; it holds up both nodes.
_MOVED_AT_ONCE = 10


class ClusterNode(ValkeyServer):
    """One Valkey of a cluster.

    Args:
        data: folder of this node alone.
        timeout_ms: silence after which the others take it for dead.
    """

    def __init__(self, data: Path, timeout_ms: int) -> None:
        super().__init__(data)
        self.bus_port = free_port()
        self._timeout_ms = timeout_ms
        self.client = redis.Redis(host=HOST, port=self.port, socket_timeout=10)

    def command(self) -> list[str]:
        """Return the command line: a part of the cluster goes on serving its slots when another part is gone."""
        options = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-port": str(self.bus_port),
            "cluster-node-timeout": str(self._timeout_ms),
            "cluster-require-full-coverage": "no",
            # A replica that was away for however long is better than nobody: counts it lacks are counted again.
            "cluster-replica-validity-factor": "0",
        }
        return [*super().command(), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def ask(self, *words: str | int) -> Any:
        """Send `CLUSTER ...` to this node."""
        return self.client.execute_command("CLUSTER", *words)  # type: ignore[no-untyped-call]  # redis-py

    @property
    def id(self) -> str:
        """The name that the cluster has for it."""
        return str(self.ask("MYID").decode())

    @property
    def is_primary(self) -> bool:
        """Whether it owns slots, as it sees it itself."""
        role: Any = self.client.role()
        return bool(role[0] == b"master")

    def slots(self) -> list[int]:
        """Return the slots that it owns."""
        own = [(first, last) for first, last, primary, *_ in self.ask("SLOTS") if primary[1] == self.port]
        return [slot for first, last in own for slot in range(first, last + 1)]


class ValkeyCluster:
    """Primaries that share the slots evenly, and replicas of each; a context manager starts and stops them.

    Args:
        data: folder of their files and logs.
        primaries: how many.
        replicas: of each primary.
        timeout_ms: silence after which a node is taken for dead.
    """

    def __init__(self, data: Path, primaries: int = 3, replicas: int = 0, timeout_ms: int = 1500) -> None:
        count = primaries * (1 + replicas)
        self._primaries = primaries
        self.nodes = [ClusterNode(data / f"node-{number}", timeout_ms) for number in range(count)]
        self._running = ExitStack()

    @property
    def url(self) -> str:
        """The address of one node; clients find the others."""
        return self.nodes[0].url

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            for node in self.nodes:
                starting.enter_context(node)
                starting.callback(node.client.close)
            self._join()
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def primaries(self) -> list[ClusterNode]:
        """Return the nodes that run and own slots."""
        return [node for node in self.nodes if node.pid and node.is_primary and node.slots()]

    def owner(self, slot: int) -> ClusterNode:
        """Return the node that owns a slot."""
        return next(node for node in self.primaries() if slot in node.slots())

    def move(self, slot: int, target: ClusterNode, halfway: Callable[[], object] = lambda: None) -> int:
        """Move a slot with its keys to another primary, as `redis-cli --cluster reshard` does.

        Args:
            slot: which.
            target: where to.
            halfway: called when some keys are there and others here.

        Returns:
            How many keys were moved.
        """
        source = self.owner(slot)
        source_id, target_id, moved = source.id, target.id, 0
        target.ask("SETSLOT", slot, "IMPORTING", source_id)
        source.ask("SETSLOT", slot, "MIGRATING", target_id)
        while keys := source.ask("GETKEYSINSLOT", slot, _MOVED_AT_ONCE):
            words = ("MIGRATE", HOST, target.port, "", 0, 10_000, "KEYS", *keys)
            source.client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py
            if not moved:
                halfway()
            moved += len(keys)
        # The new owner hears of it first: there is no moment without one.
        for node in (target, source, *(each for each in self.primaries() if each not in {source, target})):
            node.ask("SETSLOT", slot, "NODE", target_id)
        return moved

    def wait_healthy(self) -> None:
        """Wait until every running node knows an owner of every slot, and each replica follows its primary.

        Raises:
            StackError: it took too long.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while not all(map(_healthy, (node for node in self.nodes if node.pid))):
            if time.monotonic() > deadline:
                raise StackError("the cluster does not become healthy", fix=f"read {self.nodes[0].log}")
            time.sleep(_POLL_SECONDS)

    def _join(self) -> None:
        first, *others = self.nodes
        for number, node in enumerate(self.nodes, 1):
            node.ask("SET-CONFIG-EPOCH", number)
        for node in others:
            first.ask("MEET", HOST, node.port, node.bus_port)
        owners = self.nodes[: self._primaries]
        bounds = [SLOTS * number // self._primaries for number in range(self._primaries + 1)]
        for node, start, end in zip(owners, bounds, bounds[1:], strict=False):
            node.ask("ADDSLOTSRANGE", start, end - 1)
        for number, node in enumerate(self.nodes[self._primaries :]):
            _until_known(node, owners[number % self._primaries].id)
        self.wait_healthy()


def _until_known(replica: ClusterNode, primary_id: str) -> None:
    """Let a node follow a primary, of which it may not have heard yet."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            replica.ask("REPLICATE", primary_id)
        except redis.ResponseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return


def _healthy(node: ClusterNode) -> bool:
    try:
        about = node.ask("INFO")
        text = about.decode() if isinstance(about, bytes) else str(about)
        link: Any = node.client.info("replication")
    except redis.RedisError:
        return False
    covered = "cluster_state:ok" in text and f"cluster_slots_ok:{SLOTS}" in text
    return covered and link.get("master_link_status", "up") == "up"
