"""Starts servers, topics, workers, the sink and the API in their order, keeps them running, stops them in reverse."""

import os
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import clickwell
from clickwell.clock import SystemClock
from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.jars import KAFKA_VERSION, kafka_jars
from clickwell.devstack.process import HOST, Child, Server, free_port, listens, reserve
from clickwell.devstack.state import Component, StackLock, StackState, supervisor_pid
from clickwell.devstack.status import kafka_answers, redis_version, without_password
from clickwell.devstack.valkey import ValkeyServer
from clickwell.errors import KafkaError, RedisError, StackError
from clickwell.producers.topics import ensure_topics
from clickwell.serving.workers import worker_reports
from clickwell.settings import Settings

PARTS = ("kafka", "redis", "worker", "sink", "eraser", "insights", "api")

_KAFKA_PORT = 9092
_REDIS_PORT = 6379
# Seconds that each kind of child gets to end by itself, the last first; the sum stays below 20.
_WORKER_STOP, _REDIS_STOP, _KAFKA_STOP = 10.0, 3.0, 5.0
_WORKER_READY = 60.0
_API_READY = 30.0
# A child that fails at once is started again after 0.5, 1, 2 ... 30 s; one that ran for a minute starts over.
_BACKOFF_FIRST, _BACKOFF_MOST, _STEADY = 0.5, 30.0, 60.0
# Exit codes of a worker that somebody stopped on purpose.
_TOLD_TO_STOP = {0, 130, 143}
_TEND_SECONDS = 0.1


class Worker(Child):
    """One worker process of the stack.

    Args:
        data: folder of the stack.
        number: 1, 2, ...
        metrics_port: where it serves its metrics.
    """

    def __init__(self, data: Path, number: int, metrics_port: int) -> None:
        super().__init__(f"worker-{number}", data / "log" / f"worker-{number}.log")
        self._data = data
        self.metrics_port = metrics_port
        # The same after a restart, so that the group takes the worker back without moving partitions about; different
        # for each folder, as two stacks may share one broker.
        folder = zlib.crc32(str(data.absolute()).encode())
        self.instance_id = f"{socket.gethostname()}-{folder:08x}-{number}"

    def command(self) -> list[str]:
        """Return the command line of the worker."""
        options = ["--data", str(self._data), "--instance-id", self.instance_id]
        options += ["--metrics-port", str(self.metrics_port)]
        return [sys.executable, "-m", "clickwell", "worker", *options]


class Keeper(Child):
    """The sink, the eraser or the insights process of the stack.

    Args:
        name: `sink`, `eraser` or `insights`; its command, too.
        data: folder of the stack.
        metrics_port: where it serves its metrics.
    """

    def __init__(self, name: str, data: Path, metrics_port: int) -> None:
        super().__init__(name, data / "log" / f"{name}.log")
        self._data = data
        self.metrics_port = metrics_port

    def command(self) -> list[str]:
        """Return its command line."""
        options = ["--data", str(self._data), "--metrics-port", str(self.metrics_port)]
        return [sys.executable, "-m", "clickwell", self.name, *options]


class Api(Child):
    """The HTTP API of the stack.

    Args:
        data: folder of the stack.
        port: where it listens.
    """

    def __init__(self, data: Path, port: int) -> None:
        super().__init__("api", data / "log" / "api.log")
        self._data = data
        self.port = port

    @property
    def address(self) -> str:
        """Where it is reached."""
        return f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Return the command line of the API."""
        options = ["--data", str(self._data), "--host", HOST, "--port", str(self.port)]
        return [sys.executable, "-m", "clickwell", "api", *options]


class Stack:
    """The local stack of one data folder. As a context manager it is started, and stopped at the end.

    A server whose address is in the environment (`CLICKWELL_KAFKA__BOOTSTRAP_SERVERS`, `CLICKWELL_REDIS__URL`) is
    used, not started.

    Args:
        data: folder of the stack; `CLICKWELL_DATA`, else `.clickwell`, when None. What it holds is kept.
        parts: which of `kafka`, `redis`, `worker`, `sink`, `eraser`, `insights` and `api` to run.
        workers: how many workers.
        kafka_port: where Kafka listens; 9092 or, if that is taken, a free port when None.
        redis_port: where Valkey listens; 6379 or, if that is taken, a free port when None.
        api_port: where the API listens; that of the settings or, if it is taken, a free port when None.
        note: told one line when something takes long.
        done: told one line when a part is ready.
        warn: told one line when something is not as asked, or a part had to be started again.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        parts: tuple[str, ...] = PARTS,
        workers: int = 1,
        kafka_port: int | None = None,
        redis_port: int | None = None,
        api_port: int | None = None,
        note: Callable[[str], None] = lambda _: None,
        done: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.data = Settings.load(data).data
        self._parts = parts
        self._workers = workers if "worker" in parts else 0
        self._ports = {"kafka": kafka_port, "redis": redis_port, "api": api_port}
        self._note = note
        self._done = done
        self._warn = warn
        self._lock = StackLock(self.data)
        self._wards: list[_Ward] = []
        self._components: list[Component] = []
        # What other commands read as settings, for the servers that are started or found.
        self._kafka: dict[str, str] = {}
        self._redis: dict[str, str] = {}
        self._started_ms = SystemClock().now_ms()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def settings(self) -> Settings:
        """Settings with the addresses of this stack."""
        return Settings.load(self.data)

    def start(self) -> None:
        """Start every part and wait until it works; when one cannot start, stop the others again.

        Raises:
            StackError: a stack already runs in this folder, or a part cannot start.
            KafkaError: a broker of the user's own does not answer.
            RedisError: a Redis of the user's own does not answer.
        """
        if not self._lock.acquire():
            raise StackError(
                f"a stack already runs in {self.data} (process {supervisor_pid(self.data)})",
                fix=f"`clickwell down --data {self.data}` stops it; another `--data` folder makes another stack",
            )
        try:
            # A stack that was killed has left its addresses, which would look like this one's.
            StackState.remove(self.data)
            if "kafka" in self._parts:
                self._start_kafka()
            if "redis" in self._parts:
                self._start_redis()
            if {"kafka", "worker", "sink", "eraser", "api"} & set(self._parts):
                self._make_topics()
            # All of them take seconds to import and to join their groups, so they do it at the same time.
            if "sink" in self._parts:
                self._start_keeper("sink", "deltalake", "no lake is written: install 'clickwell[sink]'")
            if "eraser" in self._parts:
                self._start_keeper("eraser", "duckdb", "nobody can be erased: install 'clickwell[analytics]'")
            if "insights" in self._parts:
                self._start_keeper("insights", "duckdb", "no alerts are looked for: install 'clickwell[analytics]'")
            began = time.monotonic()
            api, workers = self._spawn_api(), self._spawn_workers()
            if api:
                self._wait_for_api(api, began)
            self._wait_for_workers(workers, began)
            self._write(ready=True)
        except BaseException:
            self.stop()
            raise

    def watch(self, stopping: threading.Event) -> None:
        """Until `stopping` is set, start children again that end; a worker that was told to stop stays stopped."""
        while not stopping.wait(_TEND_SECONDS):
            changes = [ward.tend(self._warn) for ward in self._wards]
            if any(changes):
                self._write(ready=True)

    def stop(self) -> None:
        """Stop workers, then Valkey, then Kafka, in less than 20 s, and remove `stack.json`; safe to repeat."""
        workers = [ward.child for ward in self._wards if isinstance(ward.child, (Worker, Keeper, Api))]
        for worker in workers:
            worker.terminate()
        deadline = time.monotonic() + _WORKER_STOP
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        for ward in reversed(self._wards):
            ward.child.stop(_REDIS_STOP if isinstance(ward.child, ValkeyServer) else _KAFKA_STOP)
        self._wards.clear()
        self._components.clear()
        if self._lock.held:
            StackState.remove(self.data)
            self._lock.release()

    def _start_kafka(self) -> None:
        settings, began = self.settings, time.monotonic()
        if "bootstrap_servers" in settings.kafka.model_fields_set:
            address = settings.kafka.bootstrap_servers
            if not kafka_answers(settings):
                raise KafkaError(
                    f"Kafka at {address} does not answer",
                    fix="start it, or unset CLICKWELL_KAFKA__BOOTSTRAP_SERVERS to have one started here",
                )
            self._kafka = {"bootstrap_servers": address}
            self._add(Component(name="kafka", origin="yours", address=address), "Kafka (yours)", began)
            return
        kafka_jars(self._note)
        server = KafkaServer(self.data, self._port("kafka", _KAFKA_PORT))
        self._start_server(server)
        self._kafka = {"bootstrap_servers": server.address}
        self._add(Component(name="kafka", address=server.address, version=KAFKA_VERSION), "Kafka", began)

    def _start_redis(self) -> None:
        settings, began = self.settings, time.monotonic()
        if "url" in settings.redis.model_fields_set:
            address, version = without_password(settings.redis.url), redis_version(settings)
            if version is None:
                raise RedisError(
                    f"Redis at {address} does not answer",
                    fix="start it, or unset CLICKWELL_REDIS__URL to have one started here",
                )
            self._redis = {"url": settings.redis.url}
            self._add(Component(name="redis", origin="yours", address=address, version=version), "Redis (yours)", began)
            return
        server = ValkeyServer(self.data, self._port("redis", _REDIS_PORT))
        self._start_server(server)
        self._redis = {"url": server.url}
        self._add(Component(name="redis", address=server.address, version=server.version()), "Valkey", began)

    def _make_topics(self) -> None:
        began = time.monotonic()
        outcome = ensure_topics(self.settings)
        created = sum(state == "created" for state in outcome.values())
        self._done(_phase("topics", f"{len(outcome)}, {created} new", began))

    def _spawn_workers(self) -> list[Worker]:
        workers = [Worker(self.data, number + 1, free_port()) for number in range(self._workers)]
        for worker in workers:
            worker.spawn()
            self._wards.append(_Ward(worker))
            self._components.append(Component(name=worker.name, metrics=_metrics(worker.metrics_port)))
        self._write()
        return workers

    def _wait_for_workers(self, workers: list[Worker], began: float) -> None:
        settings, deadline = self.settings, began + _WORKER_READY
        while workers:
            ids = {worker.instance_id for worker in workers}
            reports = [r for r in worker_reports(settings) if r.id in ids and r.at_ms >= self._started_ms]
            # With more workers than partitions some have nothing to do, so the lag of one shows that the group works.
            if len(reports) == len(ids) and any(report.lag for report in reports):
                break
            _check(workers, deadline)
            time.sleep(_TEND_SECONDS)
        for worker in workers:
            lanes = next(report.lag_by_lane() for report in reports if report.id == worker.instance_id)
            self._done(_phase(worker.name, f"{', '.join(lanes) or 'standing by'}, lag {sum(lanes.values()):,}", began))

    def _start_keeper(self, name: str, needs: str, without: str) -> None:
        if find_spec(needs) is None:
            self._warn(f"{without}, or leave out `{name}`")
            return
        keeper = Keeper(name, self.data, free_port())
        keeper.spawn()
        self._wards.append(_Ward(keeper))
        lake = self.settings.lake_uri
        self._components.append(Component(name=name, address=lake, metrics=_metrics(keeper.metrics_port)))
        self._write()
        self._done(f"{name:<13}  {lake}")

    def _spawn_api(self) -> Api | None:
        if "api" not in self._parts:
            return None
        if find_spec("uvicorn") is None or find_spec("duckdb") is None:
            self._warn("no HTTP API is served: install 'clickwell[api]', or leave out `api`")
            return None
        api = Api(self.data, self._port("api", self.settings.api.port))
        api.spawn()
        self._wards.append(_Ward(api))
        self._components.append(Component(name=api.name, address=api.address, metrics=_metrics(api.port)))
        self._write()
        return api

    def _wait_for_api(self, api: Api, began: float) -> None:
        while not listens(api.port):
            if api.exit_code is not None or time.monotonic() - began > _API_READY:
                raise StackError("the API does not start", why=api.last_words(), fix=f"read {api.log}")
            time.sleep(_TEND_SECONDS)
        self._done(_phase("api", api.address, began))

    def _start_server(self, server: Server) -> None:
        # Known before it is started, so that a start that is broken off leaves nothing behind.
        self._wards.append(_Ward(server))
        server.start()

    def _port(self, name: str, usual: int) -> int:
        if given := self._ports[name]:
            return given
        if reserve(usual):
            return usual
        port = free_port()
        self._warn(f"port {usual} is taken, so {name} listens on {port}")
        return port

    def _add(self, component: Component, title: str, began: float) -> None:
        self._components.append(component)
        self._write()
        self._done(_phase(f"{title} {component.version}".strip(), component.address, began))

    def _write(self, *, ready: bool = False) -> None:
        """Write `stack.json` with the processes as they are now."""
        pids = {ward.child.name: ward.child.pid for ward in self._wards}
        components = [part.model_copy(update={"pid": pids.get(part.name)}) for part in self._components]
        StackState(
            kafka=self._kafka,
            redis=self._redis,
            pid=os.getpid(),
            started_ms=self._started_ms,
            clickwell=clickwell.__version__,
            ready=ready,
            components=components,
        ).write(self.data)


class _Ward:
    """A child and what is known about its restarts."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._since = time.monotonic()
        self._failures = 0
        self._due: float | None = None

    def tend(self, warn: Callable[[str], None]) -> bool:
        """Start the child again if it has ended and its time has come; tell whether something changed."""
        now, code = time.monotonic(), self.child.exit_code
        if code is None or (isinstance(self.child, (Worker, Keeper, Api)) and code in _TOLD_TO_STOP):
            return False
        if self._due is None:
            self._failures = 0 if now - self._since > _STEADY else self._failures + 1
            delay = min(_BACKOFF_FIRST * 2 ** min(self._failures, 10), _BACKOFF_MOST)
            self._due = now + delay
            reason = (
                f"was killed (signal {-code})"
                if code < 0
                else f"ended with exit code {code}: {self.child.last_words()}"
            )
            warn(f"{self.child.name} {reason}; it starts again in {delay:g} s")
            return True
        if now < self._due:
            return False
        self._since, self._due = now, None
        try:
            self.child.spawn()
        except StackError as error:
            warn(error.message)
            self._due = now + _BACKOFF_MOST
        return True


def _check(workers: list[Worker], deadline: float) -> None:
    """Raise when a worker that is waited for has ended, or the time is over."""
    for worker in workers:
        if worker.exit_code is not None:
            raise StackError(
                f"{worker.name} ended while it started (exit code {worker.exit_code})",
                why=worker.last_words(),
                fix=f"read {worker.log}",
            )
    if time.monotonic() > deadline:
        raise StackError(
            f"the workers did not report within {_WORKER_READY:.0f} s",
            why=workers[0].last_words(),
            fix=f"read {workers[0].log}",
        )


def _metrics(port: int) -> str:
    return f"http://{HOST}:{port}/metrics"


def _phase(what: str, where: str, began: float) -> str:
    return f"{what:<13}  {where:<24}  {time.monotonic() - began:.1f} s"
