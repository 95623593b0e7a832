"""The processes of a drill: broker, Valkey, workers, sinks, eraser, API, and a proxy on every way between them."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.process import HOST, free_port
from clickwell.devstack.valkey import ValkeyServer
from clickwell.producers.topics import ensure_topics
from clickwell.settings import Settings
from tests.faults import parts
from tests.faults.harness import PARTITIONS, Stack
from tests.faults.parts import Part
from tests.faults.proxy import Proxy

from .disks import SlowDisks, SmallDisk
from .schedule import LINKS, SINKS, WORKERS

SETTINGS = {
    "SINK__FLUSH_SECONDS": "1",
    "SINK__FLUSH_ROWS": "2000",
    "SINK__MAINTAIN_SECONDS": "45",
    # Workers dead-letter interactions, sinks searches.
    "SINK__DEAD_LETTER_TOPICS": '["searches.v1"]',
    # Longer than a look at the lake takes.
    "PRIVACY__GRACE_SECONDS": "15",
    "API__ACK_SECONDS": "3",
}


class Broker(KafkaServer):
    """A broker with a listener for each client that a network may part from it.

    Args:
        folder: data folder.
        listeners: port that a client is told -> port on which the broker listens for it.
        environment: more variables.
    """

    def __init__(self, folder: Path, listeners: Mapping[int, int], environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._listeners, self._more = listeners, environment

    def prepare(self) -> None:
        """Write the properties, with the listeners."""
        super().prepare()
        more = {
            "listeners": [f"P{told}://{HOST}:{port}" for told, port in self._listeners.items()],
            "advertised.listeners": [f"P{told}://{HOST}:{told}" for told in self._listeners],
            "listener.security.protocol.map": [f"P{told}:PLAINTEXT" for told in self._listeners],
        }
        lines = self._properties.read_text().splitlines()
        lines = [",".join([line, *more.get(line.split("=")[0], [])]) for line in lines]
        # One thread for each listener: they have little to do. A busy machine must not be taken for a dead broker.
        lines += ["num.network.threads=1", "broker.session.timeout.ms=9000"]
        self._properties.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        """Return the command line."""
        return [*_environment(self._more), *super().command()]


class Redis(ValkeyServer):
    """A Valkey in an environment of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._more = environment

    def command(self) -> list[str]:
        """Return the command line."""
        return [*_environment(self._more), *super().command()]


class Stage(Stack):
    """Everything that runs, kept running; as a context manager it is started, and stopped at the end.

    Args:
        folder: data folder; its `log` has the output of each process.

    Attributes:
        rollbacks: raised before and after Redis may forget something, so that it is odd meanwhile.
        links: the proxies, by `client/server`.
    """

    def __init__(self, folder: Path) -> None:
        self.rollbacks = 0
        self.slow = SlowDisks(folder / "slow")
        self.disk = SmallDisk(folder / "disk")
        self.links: dict[str, Proxy] = {name: Proxy(free_port()) for name in LINKS}
        self._open = ExitStack()
        self._open.callback(self.disk.close)
        for link in self.links.values():
            self._open.enter_context(link)
        super().__init__(folder)
        self.api_port = free_port()

    def make_kafka(self) -> Broker:
        """Return the broker, behind its proxies."""
        told = {link.port: link.target for name, link in self.links.items() if name.endswith("/broker")}
        return Broker(self.folder, told, self.slow.environment("broker"))

    def make_redis(self) -> None:
        """Make the server of the counters, behind its proxies, and a client that reaches it without."""
        self.valkey = Redis(self.folder, self.slow.environment("redis"))
        self.client = redis.Redis(port=self.valkey.port, socket_timeout=20)
        for name, link in self.links.items():
            if name.endswith("/redis"):
                link.target = self.valkey.port

    def __enter__(self) -> Self:
        with ExitStack() as failed:
            failed.push(self.__exit__)
            self._start()
            failed.pop_all()
        return self

    def _start(self) -> None:
        super().__enter__()
        ensure_topics(self.settings)
        for name in WORKERS:
            # An agent that raises now and then, as well.
            self.keep(self.worker(name, WORKER__FAILPOINT="raise:agent:200"))
        for name in SINKS:
            self.keep(
                parts.sink(
                    name, self.folder, self.broker_of(name), **self._settings, environment=self.slow.environment(name)
                )
            )
        self.keep(
            parts.eraser(
                self.folder,
                self.broker_of("eraser"),
                self.redis_of("eraser"),
                **self._settings,
                environment=self.slow.environment("eraser"),
            )
        )
        addresses = {"KAFKA__BOOTSTRAP_SERVERS": self.broker_of("api"), "REDIS__URL": self.redis_of("api")["url"]}
        command = ["api", "--host", HOST, "--port", str(self.api_port)]
        self.keep(Part("api", self.folder, command, self._settings | addresses))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._open.close()

    @property
    def lake(self) -> str:
        """Where the lake is."""
        return str(self.disk.folder / "lake")

    @property
    def settings(self) -> Settings:
        """Settings of who reaches the servers without a proxy."""
        kafka = {"bootstrap_servers": self.kafka.address, "partitions": PARTITIONS}
        return Settings.load(self.folder, kafka=kafka, redis=self.redis, lake=self.lake)

    def broker_of(self, name: str) -> str:
        """Return the broker's address for a client."""
        return f"{HOST}:{self.links[f'{name}/broker'].port}"

    def redis_of(self, name: str) -> dict[str, str]:
        """Return the settings of Redis for a client."""
        return {"url": f"redis://{HOST}:{self.links[f'{name}/redis'].port}/0"}

    def worker(self, name: str, **settings: str) -> Part:
        """Return a worker; one without proxies unless there are some for it."""
        proxied = f"{name}/redis" in self.links
        addresses = (self.broker_of(name), self.redis_of(name)) if proxied else (self.kafka.address, self.redis)
        return parts.worker(name, self.folder, *addresses, static=proxied, **(self._settings | settings))

    def part(self, name: str) -> Part:
        """Return one of the processes that are kept running."""
        return next(part for part in self.parts if part.name == name)

    def dismiss(self, part: Part) -> None:
        """Keep a process no longer."""
        part.wanted = False
        with self._lock:
            self.parts.remove(part)

    @property
    def _settings(self) -> dict[str, str]:
        return SETTINGS | {"LAKE": self.lake}


def _environment(more: Mapping[str, str]) -> list[str]:
    return ["/usr/bin/env", *(f"{name}={value}" for name, value in more.items())] if more else []
