"""Ends a process that hangs: correctness never depends on a clean stop, so a hard exit is always safe."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

EXIT_STALLED = 1


@dataclass(frozen=True)
class Pulse:
    """What the watchdog looks at.

    Attributes:
        behind: some partition has records that are not applied.
        progress_at: monotonic time of the last applied chunk.
        redis_answered_at: monotonic time of Redis's last answer. While Redis is silent a restart would not help.
    """

    behind: bool
    progress_at: float
    redis_answered_at: float


def stalled(pulse: Pulse, now: float, since: float, limit: float) -> bool:
    """Say whether a worker has had work and an answering Redis, but no progress, for longer than `limit` seconds.

    Args:
        since: monotonic time at which it was last seen without work.
    """
    quiet = now - max(pulse.progress_at, since)
    return pulse.behind and quiet > limit and now - pulse.redis_answered_at < limit / 2


class Watchdog(threading.Thread):
    """Looks at the pulse every second from a thread of its own, since a stuck event loop cannot watch itself."""

    def __init__(self, pulse: Callable[[], Pulse], limit: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._pulse = pulse
        self._limit = limit
        self._ended = threading.Event()

    def run(self) -> None:
        """Exit the process when it stalls."""
        idle_at = time.monotonic()
        while not self._ended.wait(1.0):
            now = time.monotonic()
            pulse = self._pulse()
            if not pulse.behind:
                idle_at = now
            elif stalled(pulse, now, idle_at, self._limit):
                log.critical("no progress for %.0f s although there is lag; exiting to be restarted", self._limit)
                logging.shutdown()
                os._exit(EXIT_STALLED)

    def stop(self) -> None:
        """Stop looking."""
        self._ended.set()


def exit_after(seconds: float, code: int) -> None:
    """End the process with `code` after this time, whatever still hangs then."""

    def leave() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=leave, name="deadline", daemon=True).start()
