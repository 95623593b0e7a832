"""Two brokers that keep every record twice, and a controller of their own, so that either may die."""

from pathlib import Path

from confluent_kafka.admin import AdminClient

from clickwell.devstack.broker import KafkaServer, new_cluster
from clickwell.devstack.process import HOST, free_port, listens
from tests.processes import wait_for

from . import oracle
from .harness import Stack

# Each internal topic on both brokers too, or a group could not go on without one of them.
INTERNAL = {
    "offsets.topic.replication.factor": 2,
    "transaction.state.log.replication.factor": 2,
    "share.coordinator.state.topic.replication.factor": 2,
}


class Controller(KafkaServer):
    """The node that decides who leads; it has no records."""

    def answers(self) -> bool:
        """Tell whether it listens."""
        return listens(self.port)


class Brokers:
    """Controller and brokers, with as much of `KafkaServer` as the stack uses."""

    def __init__(self, folder: Path) -> None:
        cluster, at = new_cluster(), free_port()
        quorum = {"controller.quorum.voters": f"1@{HOST}:{at}"}
        there = f"CONTROLLER://{HOST}:{at}"
        alone = {"process.roles": "controller", "listeners": there, "advertised.listeners": there}
        self.controller = Controller(folder / "controller", at, cluster=cluster, properties=quorum | alone)
        self.nodes = []
        for number in (2, 3):
            port = free_port()
            own = {"process.roles": "broker", "node.id": number, "listeners": f"PLAINTEXT://{HOST}:{port}"}
            properties = quorum | own | INTERNAL
            self.nodes.append(KafkaServer(folder / f"broker-{number}", port, cluster=cluster, properties=properties))

    @property
    def address(self) -> str:
        """Both addresses."""
        return ",".join(node.address for node in self.nodes)

    def start(self) -> None:
        """Start all three, or those that do not run."""
        servers = [server for server in (self.controller, *self.nodes) if not server.pid]
        for server in servers:
            server.spawn()
        for server in servers:
            server.wait_ready()

    def stop(self) -> None:
        """Stop the brokers while the controller can still hear of it."""
        for server in (*self.nodes, self.controller):
            server.stop()

    def kill(self) -> None:
        """Kill all three."""
        for server in (*self.nodes, self.controller):
            server.kill()

    def answers(self) -> bool:
        """Tell whether all three answer."""
        return all(server.answers() for server in (self.controller, *self.nodes))


class TwoBrokerStack(Stack):
    """Two brokers, a Valkey and workers."""

    replication = 2

    def make_kafka(self) -> Brokers:
        """Return the brokers."""
        return Brokers(self.folder)

    def leader_of_most(self) -> KafkaServer:
        """Return the broker that leads most partitions."""
        led = [part.leader for part in self._partitions()]
        return self.kafka.nodes[max((2, 3), key=led.count) - 2]

    def wait_in_sync(self) -> None:
        """Wait until both brokers have every record."""
        wait_for(lambda: all(len(part.isrs) == 2 for part in self._partitions()), 60, "replicas in sync")

    def _partitions(self) -> list:
        client = AdminClient({"bootstrap.servers": self.kafka.address, "log_level": 0})
        topics = client.list_topics(timeout=20).topics
        return [part for name in (oracle.INTERACTIONS, "searches.v1") for part in topics[name].partitions.values()]
