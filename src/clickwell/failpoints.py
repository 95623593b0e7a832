"""Named places at which a worker or a sink can be made to die, so that tests can prove that dying there is harmless."""

import os
import signal
import time

NAMES = (
    "before_apply",
    "between_shards",
    "after_apply",
    "before_dead_letter",
    "after_dead_letter",
    "before_flip",
    "agent",
    "before_files",
    "after_files",
    "after_commit",
    "before_compaction",
    "after_compaction",
    "before_vacuum",
    "after_vacuum",
    "before_fences",
    "between_fences",
    "after_fences",
    "between_retractions",
    "after_retractions",
    "before_rewrite",
    "after_rewrite",
    "before_receipt",
    "after_receipt",
    "after_intent",
    "after_replay",
)


class Failpoints:
    """Parses `name:hits` and kills the process with SIGKILL at the given visit of that place; off when empty.

    With `raise:name:hits` an exception is raised at every so-many-th visit instead.
    """

    def __init__(self, spec: str = "") -> None:
        self._raises = spec.startswith("raise:")
        name, _, hits = spec.removeprefix("raise:").partition(":")
        if name and name not in NAMES:
            raise ValueError(f"unknown failpoint {name!r}; known are {', '.join(NAMES)}")
        self._name = name
        self._every = int(hits or 1)
        self._visits = 0

    def armed(self, name: str) -> bool:
        """Say whether the next visit of this place is the one that fails."""
        return name == self._name and self._visits + 1 == self._every

    async def reach(self, name: str) -> None:
        """Visit a place, from a coroutine."""
        self.visit(name)

    def visit(self, name: str) -> None:
        """Visit a place."""
        if name != self._name:
            return
        self._visits += 1
        if self._visits < self._every:
            return
        if self._raises:
            self._visits = 0
            raise RuntimeError(f"failpoint {name}")
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
