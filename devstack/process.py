"""A process that cannot outlive this one, and a server that listens on a port of 127.0.0.1."""

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from clickwell.devstack import child
from clickwell.errors import StackError

HOST = "127.0.0.1"

# Below the range from which systems draw the local ports of connections (Linux 32768, macOS 49152): a client that
# knocks at a stopped server's port can otherwise be given that very port, and the server never gets it back.
_FREE_PORTS = range(20_000, 32_768)
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.02
_LOG_BYTES = 16 << 20
# Ports that this process has reserved, and the locked files that tell other stacks so while it lives.
_reserved: dict[int, IO[str]] = {}

# The kernel ties a child to the *thread* that made it. This one lives as long as the process.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="clickwell-spawner")


class Child(ABC):
    """One process of the stack. It dies with this process, even if that is killed.

    Args:
        name: what people call it; also the name of its log file.
        log: file that its stdout and stderr are appended to; one older file is kept beside it.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line."""

    @property
    def pid(self) -> int | None:
        """Process id, None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last run (negative: the signal), None while it runs or before the first run."""
        return self._process.poll() if self._process else None

    def spawn(self) -> None:
        """Start the process and return at once.

        Raises:
            StackError: the log cannot be written.
        """
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
                self.log.replace(self.log.with_suffix(".old.log"))
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                launcher = [sys.executable, "-I", "-S", child.__file__, str(os.getpid())]
                # A session of its own: Ctrl-C must reach the supervisor alone, which stops the parts in their order.
                self._process = _spawner.submit(
                    subprocess.Popen,
                    [*launcher, *self.command()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                ).result()
        except OSError as error:
            raise StackError(
                f"{self.name} cannot be started: {error}", fix=f"make {self.log.parent} writable"
            ) from None

    def terminate(self) -> None:
        """Ask the process to end and return at once."""
        # A paused process hears nothing before it is resumed.
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def stop(self, timeout: float = 10.0) -> None:
        """End the process: ask, wait at most `timeout` seconds, then kill. Does nothing when it does not run."""
        self.terminate()
        self.join(timeout)

    def join(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the process to end, then kill it."""
        if self._process:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill the process as a crash would (SIGKILL) and wait until it is gone."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def last_words(self) -> str:
        """Return what the present run wrote to the log last: its error, else a line that is not of a traceback."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
        except OSError:
            return ""
        told = [line for line in lines if line and not line.startswith(("at ", "... "))]
        errors = [line for line in told if line.startswith("error:")]
        return (errors or told or [""])[-1].removeprefix("error: ")

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class Server(Child):
    """A child that listens on 127.0.0.1. As a context manager it is started, and stopped at the end.

    Args:
        name: what people call it.
        data: folder under which its files and its log live; they are kept.
        port: where it listens; a free one when None. It stays the same over restarts.
    """

    def __init__(self, name: str, data: Path, port: int | None) -> None:
        super().__init__(name, data / "log" / f"{name}.log")
        self.port = port or free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"{HOST}:{self.port}"

    @abstractmethod
    def prepare(self) -> None:
        """Make the files that it needs to start."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether it answers a request now."""

    def spawn(self) -> None:
        """Start the process and return at once.

        Raises:
            StackError: the port is taken, or its files cannot be written.
        """
        if not is_free(self.port):
            raise StackError(
                f"port {self.port} is taken, {self.name} cannot listen there",
                why="another program listens on it; `clickwell status` shows whether it is a stack of yours",
                fix=f"stop that program, or choose another port with `--{self.name}-port`",
            )
        try:
            self.prepare()
        except OSError as error:
            raise StackError(f"{self.name} cannot write its files: {error}", fix="choose a `--data` folder") from None
        super().spawn()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            StackError: it cannot start; nothing is left running.
        """
        self.spawn()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def wait_ready(self, timeout: float = _READY_SECONDS) -> None:
        """Wait until the server answers.

        Raises:
            StackError: it ended, or did not answer within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.answers():
            if self.exit_code is not None:
                raise StackError(
                    f"{self.name} ended while it started (exit code {self.exit_code})",
                    why=self.last_words(),
                    fix=f"read {self.log}",
                )
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer within {timeout:.0f} s", fix=f"read {self.log}")
            time.sleep(_POLL_SECONDS)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port of 127.0.0.1."""
    with socket.socket() as probe:
        # Connections of a stopped server linger for a minute; they do not stand in the way of the next one.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def reserve(port: int) -> bool:
    """Tell whether a port is free and no other stack is about to listen on it; for as long as this process lives."""
    if port not in _reserved:
        lock = (Path(tempfile.gettempdir()) / f"clickwell-{os.getuid()}-{port}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        _reserved[port] = lock
    return is_free(port)


def listens(port: int) -> bool:
    """Tell whether something accepts connections on the port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def free_port() -> int:
    """Return a port on which nothing listens now."""
    return next(port for port in random.sample(_FREE_PORTS, len(_FREE_PORTS)) if is_free(port))
