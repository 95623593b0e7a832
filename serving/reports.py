"""What a reader has been through: counters for a dashboard, and a log that no outage fills."""

import logging
import threading
import time
from dataclasses import dataclass

from clickwell.serving.snapshot import Reason

LOG_SECONDS = 60.0

log = logging.getLogger("clickwell.serving")


@dataclass
class ReaderStats:
    """What a reader has been through since it was made.

    Attributes:
        reads: answers asked for.
        unavailable, unreadable, absent, stale: answers that are neutral or not up to date, by `Reason`.
        cache_hits: documents answered from the client's cache.
    """

    reads: int = 0
    unavailable: int = 0
    unreadable: int = 0
    absent: int = 0
    stale: int = 0
    cache_hits: int = 0

    @property
    def failures(self) -> int:
        """Answers for which Redis gave no usable answer."""
        return self.unavailable + self.unreadable


class Reports:
    """Counts answers and problems; threads may share it.

    Args:
        consequence: what a problem means for whoever asked, such as `boosts are neutral`.
    """

    def __init__(self, consequence: str) -> None:
        self.stats = ReaderStats()
        self._consequence = consequence
        self._lock = threading.Lock()
        self._next_log = 0.0

    def count(self, name: str, n: int = 1) -> None:
        """Add to one of the counters."""
        with self._lock:
            setattr(self.stats, name, getattr(self.stats, name) + n)

    def problem(self, reason: Reason, detail: str) -> None:
        """Count a problem, and log it unless one was logged within the last minute."""
        self.count(reason)
        with self._lock:
            due, now = self._next_log, time.monotonic()
            if now >= due:
                self._next_log = now + LOG_SECONDS
        if now >= due:
            log.warning("%s (%s): %s", self._consequence, reason, detail)
