"""Real servers and real workers for one test, and a supervisor that starts workers again when they die."""

import json
import os
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.valkey import ValkeyServer
from clickwell.producers.topics import ensure_topics
from clickwell.settings import Settings
from tests.processes import clickwell, wait_for

from . import oracle, parts
from .load import Load, Traffic
from .parts import Part

PARTITIONS = 4


class Stack:
    """A broker, a Valkey and what works with them. `fresh` empties it for the next test.

    Args:
        folder: data folder.
    """

    replication = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[Part] = []
        self.kafka = self.make_kafka()
        self.make_redis()
        self.admin = AdminClient({"bootstrap.servers": self.kafka.address, "log_level": 0})
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._made = 0

    def __enter__(self) -> Self:
        self.kafka.start()
        self.start_redis()
        self._supervisor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._supervisor.join()
        self.kill_workers()
        self.client.close()
        self.stop_redis()
        self.kafka.stop()

    def make_kafka(self) -> Any:
        """Return the broker."""
        return KafkaServer(self.folder)

    def make_redis(self) -> None:
        """Make the server of the counters and a client of it."""
        self.valkey = ValkeyServer(self.folder)
        self.client = redis.Redis(port=self.valkey.port, socket_timeout=20)

    def start_redis(self) -> None:
        """Start it."""
        self.valkey.start()

    def stop_redis(self) -> None:
        """Stop it."""
        self.valkey.stop()

    def empty_redis(self) -> None:
        """Leave it as new."""
        if not self.valkey.answers():
            self.valkey.kill()
            self.valkey.start()
        self.client.flushall()
        self.client.function_flush()
        self.client.config_set("maxmemory-policy", "noeviction")

    @property
    def redis(self) -> dict[str, Any]:
        """Settings of it."""
        return {"url": self.valkey.url}

    @property
    def settings(self) -> Settings:
        """Settings with the addresses of the servers."""
        kafka = {"bootstrap_servers": self.kafka.address, "partitions": PARTITIONS, "replication": self.replication}
        return Settings.load(self.folder, kafka=kafka, redis=self.redis)

    def fresh(self) -> None:
        """Empty topics and Redis; no workers."""
        self.kill_workers()
        if not self.kafka.answers():
            self.kafka.kill()
            self.kafka.start()
        self.empty_redis()
        self.delete_topics()
        ensure_topics(self.settings)

    def delete_topics(self, *names: str) -> None:
        """Delete topics, all unless some are named, and wait until the broker has forgotten them."""

        def present() -> list[str]:
            topics = self.admin.list_topics(timeout=20).topics
            return [name for name in topics if name in names or (not names and name.endswith(".v1"))]

        for future in self.admin.delete_topics(present()).values() if present() else []:
            future.result()
        wait_for(lambda: not present(), 20, "the end of the topics")
        # The broker's own view lags a little behind what it tells.
        time.sleep(0.3)

    def work(
        self,
        count: int = 1,
        *,
        failpoints: Sequence[str] = (),
        static: bool = False,
        redis_port: int | None = None,
        **settings: str,
    ) -> list[Part]:
        """Start workers that are kept alive; keyword arguments are worker settings such as `CHUNK_RECORDS="50"`."""
        redis = self.redis | ({"url": f"redis://127.0.0.1:{redis_port}/0"} if redis_port else {})
        chosen = {f"WORKER__{name}": value for name, value in settings.items()}
        workers = []
        for _ in range(count):
            self._made += 1
            name, addresses = f"worker-{self._made}", (self.kafka.address, redis)
            workers.append(parts.worker(name, self.folder, *addresses, failpoints, static=static, **chosen))
        self.keep(*workers)
        return workers

    def keep(self, *started: Part) -> None:
        """Start processes, and start them again whenever they end."""
        for part in started:
            part.spawn()
        with self._lock:
            self.parts += started

    def kill_workers(self) -> None:
        """Kill all that is kept alive for good."""
        with self._lock:
            for part in self.parts:
                part.wanted = False
                part.kill()
            self.parts = []

    def load(self, seed: int, rate: int = 1500, poison: float = 0.002) -> Load:
        """Return traffic for a `with` statement."""
        return Load(Traffic(self.kafka.address, seed, poison=poison), rate)

    def publish(self, seed: int, count: int) -> None:
        """Send this many records and wait until the broker has them."""
        traffic = Traffic(self.kafka.address, seed)
        traffic.send(count)
        traffic.flush()

    def rebuild(self) -> None:
        """Begin to count again from the log."""
        addresses = {f"CLICKWELL_REDIS__{name.upper()}": str(value) for name, value in self.redis.items()}
        environment = {"CLICKWELL_KAFKA__BOOTSTRAP_SERVERS": self.kafka.address, **addresses}
        done = clickwell("rebuild", "--no-wait", "--data", self.folder, env=os.environ | environment)
        assert done.returncode == 0, done.stderr

    def active(self) -> str:
        """Return the name of the generation that readers use, empty if there is none."""
        pointer = self.client.get("{cw1}:active")
        return json.loads(pointer)["name"] if pointer else ""

    def generations(self) -> set[str]:
        """Return the names of all generations that have any key."""
        # Histories, under `h`, and the catalogue belong to none.
        names = {key.decode().split(":")[2] for key in self.client.scan_iter(match="cw1:*", count=5000)}
        return names - {"h", "catalog"}

    @staticmethod
    def now_ms() -> int:
        """Return the present time."""
        return time.time_ns() // 1_000_000

    def ends(self) -> dict[int, int]:
        """Return the log's end of each partition."""
        consumer = Consumer({"bootstrap.servers": self.kafka.address, "group.id": "ends", "log_level": 0})
        try:
            parts = consumer.list_topics(oracle.INTERACTIONS, timeout=20).topics[oracle.INTERACTIONS].partitions
            return {
                part: consumer.get_watermark_offsets(TopicPartition(oracle.INTERACTIONS, part), timeout=20)[1]
                for part in parts
            }
        finally:
            consumer.close()

    def lowest(self) -> dict[int, int]:
        """Return the offset that every shard has reached, by partition; nothing while Redis is away or rebuilt."""
        try:
            return {partition: min(shards) for partition, shards in oracle.offsets(self.client).items()}
        except (redis.RedisError, OSError):
            return {}

    def applied(self) -> int:
        """Return how many records every shard has passed."""
        return sum(self.lowest().values())

    def wait_applied(self, more: int = 1, timeout: float = 60.0) -> None:
        """Wait until so many more records are applied."""
        before = self.applied()
        wait_for(lambda: self.applied() >= before + more, timeout, f"{more} more records to be applied")

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until every shard of every partition stands at the log's end, and no generation is being built."""
        try:
            # The end moves on while an eraser writes fences and retractions.
            wait_for(lambda: self.lowest() == self.ends(), timeout, "lag 0")
        except AssertionError as error:
            raise AssertionError(f"{error} at {self.ends()}; stored: {self.lowest()}{self.story()}") from None

    def assert_exact(self, timeout: float = 60.0, *, letters_once: bool = True) -> int:
        """Wait for lag 0, then compare with the recount; return how many records the log holds."""
        self.settle(timeout)
        try:
            return oracle.assert_exact(self.kafka.address, self.client, letters_once=letters_once)
        except AssertionError as error:
            raise AssertionError(f"{error}{self.story()}") from None

    def story(self) -> str:
        """Return the exit codes and the last lines of each process, for a failure's message."""
        return "".join(part.story() for part in self.parts)

    def _supervise(self) -> None:
        while not self._stopped.wait(0.05):
            with self._lock:
                for part in self.parts:
                    part.tend()


def storm_seconds() -> float:
    """Return how long the storm of workers blows, unless the environment asks for another time."""
    return float(os.environ.get("CLICKWELL_TEST_STORM_SECONDS", "20"))


def ended(part: Part, timeout: float) -> int:
    """Wait for the end of a process that nobody starts again, and return its exit code."""
    part.wanted = False
    wait_for(lambda: part.exit_code is not None, timeout, f"the end of {part.name}")
    assert part.exit_code is not None
    return part.exit_code


def cut_log(folder: Path, rng: random.Random) -> None:
    """Cut 2 to 60 kB off the end of Valkey's append-only file, as a power failure does."""
    # The last of them, while it is being written anew.
    log = max((folder / "valkey" / "appendonlydir").glob("*.incr.aof"), key=lambda file: file.stat().st_mtime_ns)
    size = log.stat().st_size
    with log.open("r+b") as file:
        file.truncate(max(0, size - rng.randrange(2_000, 60_000)))
