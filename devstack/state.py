"""What a running stack leaves in its data folder: a lock, so that there is one stack a folder, and `stack.json`."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ValidationError

from clickwell.errors import StackError
from clickwell.settings import STACK_FILE

# Longer than anyone who only looks who holds the lock keeps it.
_LOOKING_SECONDS = 0.5


class Component(BaseModel):
    """One part of the stack.

    Attributes:
        name: `kafka`, `redis`, `sink` or `worker-1` ...
        origin: `embedded` parts are started and stopped by the stack, `yours` are only used.
        address: host:port or URL without a password; the lake's for the sink; empty for workers.
        pid: its process, None for `yours` and while it does not run.
        version: the server's own, empty if unknown.
        metrics: where Prometheus reads its metrics; empty for servers.
    """

    name: str
    origin: Literal["embedded", "yours"] = "embedded"
    address: str = ""
    pid: int | None = None
    version: str = ""
    metrics: str = ""


class StackState(BaseModel):
    """Content of `stack.json`; `kafka` and `redis` are read as settings by every other command."""

    kafka: dict[str, str] = {}
    redis: dict[str, str] = {}
    pid: int
    started_ms: int
    clickwell: str
    ready: bool = False
    components: list[Component] = []

    def write(self, data: Path) -> None:
        """Replace the file in one step; only its owner may read it, as a URL may hold a password."""
        part = data / f"{STACK_FILE}.part"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.model_dump(), file, indent=2)
        part.replace(data / STACK_FILE)

    @classmethod
    def read(cls, data: Path) -> "StackState | None":
        """Return what the last stack wrote, None if there is nothing to read."""
        try:
            return cls.model_validate_json((data / STACK_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    @staticmethod
    def remove(data: Path) -> None:
        """Remove the file if it is there."""
        (data / STACK_FILE).unlink(missing_ok=True)


class StackLock:
    """Held by the supervisor as long as it lives; a kill frees it.

    Args:
        data: folder of the stack; created when absent.
    """

    def __init__(self, data: Path) -> None:
        self._path = _lock_path(data)
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock and write this process's id into it; False when another process holds it.

        Raises:
            StackError: the folder cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+")
        except OSError as error:
            raise StackError(
                f"{self._path.parent} cannot be used: {error.strerror}", fix="choose another `--data` folder"
            ) from None
        deadline = time.monotonic() + _LOOKING_SECONDS
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                file.close()
                return False
            time.sleep(0.02)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return True

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._file:
            self._file.close()
            self._file = None


def supervisor_pid(data: Path) -> int | None:
    """Return the process that runs the stack of a data folder, None when nothing does."""
    try:
        with _lock_path(data).open() as file:
            return None if _try_lock(file, fcntl.LOCK_SH) else int(file.read() or 0)
    except FileNotFoundError:
        return None


def _lock_path(data: Path) -> Path:
    return data / "stack.lock"


def _try_lock(file: IO[str], mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
