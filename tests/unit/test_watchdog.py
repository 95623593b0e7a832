"""The watchdog ends what hangs, and nothing else."""

import subprocess
import sys
import time

import pytest

from clickwell.stream_processors.watchdog import Pulse, stalled

LIMIT = 60.0


@pytest.mark.parametrize(
    ("behind", "progress", "idle", "redis", "expected"),
    [
        (True, 61, 61, 1, True),
        (True, 59, 61, 1, False),  # it does move
        (True, 3600, 59, 1, False),  # it had nothing to do until now
        (False, 3600, 3600, 1, False),  # it has nothing to do
        (True, 61, 61, 31, False),  # it waits for Redis, and a restart would wait too
        (True, 61, 61, 29, True),
    ],
)
def test_only_a_worker_that_could_work_is_stalled(behind, progress, idle, redis, expected):
    """Lag, an answering Redis and no progress for longer than the limit: all three, or it lives on."""
    now = 10_000.0
    pulse = Pulse(behind=behind, progress_at=now - progress, redis_answered_at=now - redis)
    assert stalled(pulse, now, now - idle, LIMIT) is expected


def run(code):
    """Run a program whose main thread hangs; return its exit code and how long it took."""
    started = time.monotonic()
    process = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=30, text=True)
    assert "Traceback" not in process.stderr, process.stderr
    return process.returncode, time.monotonic() - started


def test_a_hanging_process_ends():
    """The thread needs nothing of the event loop that hangs; the exit code says that a restart will help."""
    code, _ = run(
        "import time\n"
        "from clickwell.stream_processors.watchdog import Pulse, Watchdog\n"
        "start = time.monotonic()\n"
        "Watchdog(lambda: Pulse(True, start, time.monotonic()), 1.5).start()\n"
        "time.sleep(60)\n"
    )
    assert code == 1


def test_a_stopped_watchdog_looks_no_more():
    """After a graceful stop nothing may end the process in its last second."""
    code, _ = run(
        "import time\n"
        "from clickwell.stream_processors.watchdog import Pulse, Watchdog\n"
        "dog = Watchdog(lambda: Pulse(True, time.monotonic() - 9, time.monotonic()), 0.1)\n"
        "dog.start(); dog.stop(); dog.join(5)\n"
        "raise SystemExit(7 if not dog.is_alive() else 8)\n"
    )
    assert code == 7


def test_a_stop_that_hangs_ends_with_the_signals_code():
    """Whatever hangs after a signal, the process is gone in time, with the code that was asked for."""
    code, seconds = run(
        "import time\n"
        "from clickwell.stream_processors.watchdog import exit_after\n"
        "exit_after(0.5, 143)\n"
        "time.sleep(60)\n"
    )
    assert code == 143
    assert seconds < 15
