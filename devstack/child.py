"""The first thing that a child of the stack runs: it makes sure that the server dies with its parent, then becomes it.

Run as a file (`python -I -S child.py PARENT_PID COMMAND...`), so that it starts in about 15 ms and imports nothing of
clickwell.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 0.2


def tie_by_kernel(parent: int, command: list[str]) -> None:
    """Become `command`; the kernel kills it when the parent ends, however that ends (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # the parent ended before the kernel was asked
    os.execvp(command[0], command)  # noqa: S606  # no shell is wanted


def tie_by_watching(parent: int, command: list[str]) -> None:
    """Run `command` and kill it when the parent has gone; for systems whose kernel has no such service.

    Signals go to the whole process group, so this process only has to outlive them and pass the exit code on.
    """
    server = subprocess.Popen(command)  # noqa: S603  # the stack's own command
    signal.signal(signal.SIGTERM, lambda *_: None)
    while server.poll() is None:
        if os.getppid() != parent:
            os.killpg(0, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    sys.exit(server.returncode if server.returncode >= 0 else 128 - server.returncode)


if __name__ == "__main__":
    tie = tie_by_kernel if sys.platform == "linux" else tie_by_watching
    try:
        tie(int(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        sys.exit(f"{sys.argv[2]} cannot be run: {error.strerror}")
