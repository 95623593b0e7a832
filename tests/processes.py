"""Processes of the tests: the command line as a user runs it, and waiting for what others do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLICKWELL = (sys.executable, "-m", "clickwell")


def own_environment(**added: str) -> dict[str, str]:
    """Return the environment without the settings that are in force around the tests, and with what is added."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CLICKWELL_")} | added


def clickwell(*arguments: object, env: Mapping[str, str], timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run the command line for so many seconds at most."""
    return subprocess.run(
        [*CLICKWELL, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**env, "PYTHONUTF8": "1"},
    )


def commands_on(data: Path, timeout: float = 280.0, **settings: str) -> Callable[..., str]:
    """Return a function that runs a command on a data folder and returns what it prints; a failure fails the test.

    Args:
        data: the folder.
        timeout: seconds for each command.
        settings: environment of the commands; they see no other settings.
    """
    env = own_environment(CLICKWELL_DATA=str(data), **settings)

    def run(*arguments: object) -> str:
        done = clickwell(*arguments, env=env, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def wait_for(condition: Callable[[], T], timeout: float, what: str) -> T:
    """Wait so many seconds at most until a condition holds, and return what it gave."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain for {what}"
        time.sleep(0.1)
    return found


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; an orphan may stay as a zombie where nothing reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
