"""Workers, sinks and erasers under test: processes that are told where to die, and that a supervisor starts again."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clickwell.devstack.process import Child
from tests.processes import CLICKWELL

# Times as short as the broker allows, so that seconds show what takes minutes in production; small chunks, so that
# there are many of them to be interrupted.
WORKER = {
    "WORKER__SESSION_TIMEOUT": "6",
    "WORKER__HEARTBEAT_INTERVAL": "1",
    "WORKER__METADATA_MAX_AGE": "2",
    "WORKER__IDLE_SECONDS": "0.5",
    "WORKER__STALL_SECONDS": "15",
    "WORKER__CHUNK_RECORDS": "300",
    "WORKER__FETCH_BYTES": "65536",
    "REDIS__TIMEOUT": "2",
}
# Small flushes, so that there are many of them to be interrupted.
SINK = {
    "SINK__FLUSH_ROWS": "400",
    "SINK__FLUSH_SECONDS": "0.3",
    "SINK__SESSION_TIMEOUT": "6",
    "SINK__MAINTAIN_SECONDS": "0",
    "SINK__DEAD_LETTER_TOPICS": '["interactions.v1","searches.v1"]',
}
ERASER = {"PRIVACY__GRACE_SECONDS": "0"}


class Part(Child):
    """One process of a stack.

    Args:
        name: its name and that of its log.
        folder: data folder of the stack.
        command: words after `clickwell`; the data folder is added.
        settings: settings, without the prefix.
        failpoint: the setting that makes it die somewhere.
        failpoints: one for each start; later starts have none.
        environment: other variables.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Sequence[str],
        settings: Mapping[str, str],
        *,
        failpoint: str = "",
        failpoints: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, folder / "log" / f"{name}.log")
        self.exits: list[int] = []
        self.wanted = True
        self.failpoints = list(failpoints)
        self._command = [*CLICKWELL, *command, "--data", str(folder)]
        self._failpoint = failpoint
        self._environment = {f"CLICKWELL_{name}": value for name, value in settings.items()} | dict(environment or {})

    def command(self) -> list[str]:
        """Return the command line, with the next failpoint."""
        variables = dict(self._environment)
        if self.failpoints:
            variables[f"CLICKWELL_{self._failpoint}"] = self.failpoints.pop(0)
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *self._command]

    def tend(self) -> None:
        """Start it again if it has ended, as a supervisor would."""
        if self.wanted and self.exit_code is not None:
            self.exits.append(self.exit_code)
            self.spawn()

    def output(self) -> str:
        """Return everything that it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def said(self, pattern: str) -> int:
        """Return how often it has logged something."""
        return len(re.findall(pattern, self.output()))

    def story(self, lines: int = 25) -> str:
        """Return its exit codes and its last lines, for a failure's message."""
        return f"\n{self.name} exits {self.exits}\n" + "\n".join(self.output().splitlines()[-lines:])


def worker(
    name: str,
    folder: Path,
    kafka: str,
    redis: Mapping[str, Any],
    failpoints: Sequence[str] = (),
    *,
    static: bool = False,
    **settings: str,
) -> Part:
    """Return a worker; `static`: it joins its group under its own name."""
    command = ["worker", *(["--instance-id", name] if static else [])]
    addresses = _addresses(kafka, redis)
    return Part(
        name, folder, command, WORKER | addresses | settings, failpoint="WORKER__FAILPOINT", failpoints=failpoints
    )


def sink(
    name: str,
    folder: Path,
    kafka: str,
    failpoints: Sequence[str] = (),
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **settings: str,
) -> Part:
    """Return a sink."""
    addresses = _addresses(kafka)
    return Part(
        name,
        folder,
        ["sink", *options],
        SINK | addresses | settings,
        failpoint="SINK__FAILPOINT",
        failpoints=failpoints,
        environment=environment,
    )


def eraser(
    folder: Path,
    kafka: str,
    redis: Mapping[str, Any],
    failpoints: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **settings: str,
) -> Part:
    """Return an eraser."""
    addresses = _addresses(kafka, redis)
    return Part(
        "eraser",
        folder,
        ["eraser"],
        ERASER | addresses | settings,
        failpoint="PRIVACY__FAILPOINT",
        failpoints=failpoints,
        environment=environment,
    )


def _addresses(kafka: str, redis: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the settings that name the servers; `redis` holds settings of that group."""
    group = {f"REDIS__{name.upper()}": str(value) for name, value in (redis or {}).items()}
    return {"KAFKA__BOOTSTRAP_SERVERS": kafka, **group}
