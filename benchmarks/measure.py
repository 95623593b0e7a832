"""Watches a process while it applies events: its rate, its CPU time and its memory, from outside (Linux)."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clickwell.devstack.process import Child

# Looking takes Valkey about 0.05 ms.
LOOK_SECONDS = 0.04
# A contestant that applies nothing for so long is given up.
STARTING_SECONDS = 60.0
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Race:
    """What was measured between the first and the last look at which progress was seen.

    Attributes:
        events_per_second: over that stretch.
        starting_seconds: from the start of the process to the first applied events.
        cpu_process, cpu_redis: CPU seconds for a million events.
        peak_rss_mb: the process's, from its start.
        others: cores that programs outside the benchmark took; above 0.2 the figures are too low.
    """

    name: str
    events_per_second: float
    starting_seconds: float
    cpu_process: float
    cpu_redis: float
    peak_rss_mb: float
    others: float


@dataclass(frozen=True)
class Look:
    """One moment of a race."""

    at: float
    applied: int
    cpu: dict[int, float]
    busy: float


def race(
    contestant: Child,
    progress: Callable[[], int],
    *,
    events: int,
    redis_pid: int,
    kafka_pid: int,
    seconds: float,
) -> Race:
    """Start a contestant, watch it until it has applied everything, and leave it running.

    Ends the program with a message if that takes longer than `seconds`, or if the contestant ends.
    """
    begun = time.monotonic()
    contestant.spawn()
    pid = contestant.pid
    assert pid
    pids = [pid, redis_pid, kafka_pid, os.getpid()]
    first = None
    applied = 0
    while applied < events:
        time.sleep(LOOK_SECONDS)
        applied = progress()
        now = time.monotonic()
        if applied and first is None:
            first = look(applied, pids)
        # A process may end right after its last event.
        if applied < events and contestant.exit_code is not None:
            sys.exit(f"error: {contestant.name} ended: {contestant.last_words()}")
        if first is None and now - begun > STARTING_SECONDS:
            sys.exit(f"error: {contestant.name} applied nothing: {contestant.last_words()}")
        if now - begun > seconds:
            sys.exit(f"error: {contestant.name} applied {applied:,} of {events:,} events in {seconds:.0f} s")
    last = look(applied, pids)
    if first is None or last.applied == first.applied:
        sys.exit(f"error: {contestant.name} applied all {events:,} events between two looks; take more --events")
    millions = (last.applied - first.applied) / 1e6
    took = last.at - first.at
    cpu = {each: last.cpu[each] - first.cpu[each] for each in pids}
    return Race(
        name=contestant.name,
        events_per_second=1e6 * millions / took,
        starting_seconds=first.at - begun,
        cpu_process=cpu[pid] / millions,
        cpu_redis=cpu[redis_pid] / millions,
        peak_rss_mb=peak_rss_mb(pid),
        others=max(0.0, (last.busy - first.busy - sum(cpu.values())) / took),
    )


def look(applied: int, pids: list[int]) -> Look:
    """Return this moment."""
    return Look(time.monotonic(), applied, {pid: cpu_seconds(pid) for pid in pids}, busy_seconds())


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and all its threads; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def busy_seconds() -> float:
    """Return the CPU seconds that the whole machine has spent working."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


def peak_rss_mb(pid: int) -> float:
    """Return the largest resident size that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
