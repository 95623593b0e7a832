"""The stack of the fault tests with a cluster of three primaries and three replicas in place of one Valkey."""

from typing import Any

from clickwell.devstack.cluster import ValkeyCluster
from clickwell.redis_client import client_of
from clickwell.redis_routing import slot_of
from clickwell.settings import RedisSettings

from .harness import Stack


class ClusterStack(Stack):
    """A broker, a cluster and workers."""

    def make_redis(self) -> None:
        """Make the cluster and a client of it."""
        self.cluster = ValkeyCluster(self.folder / "cluster", replicas=1)
        self.client = client_of(RedisSettings(**self.redis), socket_timeout=20)

    def start_redis(self) -> None:
        """Start it."""
        self.cluster.__enter__()

    def stop_redis(self) -> None:
        """Stop it."""
        self.cluster.__exit__(None, None, None)

    def empty_redis(self) -> None:
        """Leave it as new, though perhaps with other primaries."""
        for node in self.cluster.nodes:
            if not node.pid:
                node.start()
        self.cluster.wait_healthy()
        for node in self.cluster.primaries():
            node.client.flushall()
            node.client.function_flush()

    @property
    def redis(self) -> dict[str, Any]:
        """Settings of it."""
        return {"url": self.cluster.url, "cluster": True}

    def slot_of_shard(self, shard: int) -> int:
        """Return the slot in which all keys of a shard are."""
        return slot_of(f"{{s{shard:03d}}}")
