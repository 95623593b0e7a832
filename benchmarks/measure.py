"""One contestant's race: its own process and its own empty Valkey, watched from outside, its counts compared."""

import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from clickwell.devstack.process import Child
from clickwell.schemas.keys import ACTIVE, BUILDING

LOOK_SECONDS = 0.02
# A contestant that applies nothing for so long is given up.
STARTING_SECONDS = 60.0
_TICK = os.sysconf("SC_CLK_TCK")

# Records that the worker has applied: the furthest shard of each partition, since a shard that the last records did not
# touch is only moved along two seconds later. Runs inside Valkey in about 0.1 ms.
WORKER_APPLIED = f"""
local pointer = redis.call('GET', '{BUILDING}') or redis.call('GET', '{ACTIVE}')
if not pointer then return 0 end
local name, furthest, sum = cjson.decode(pointer).name, {{}}, 0
for shard = 0, 63 do
  local ledger = redis.call('HGETALL', string.format('cw1:{{s%03d}}:%s:o', shard, name))
  for i = 1, #ledger, 2 do
    if string.find(ledger[i], '/', 1, true) then
      local offset = tonumber(string.match(ledger[i + 1], '^%d+'))
      furthest[ledger[i]] = math.max(furthest[ledger[i]] or 0, offset)
    end
  end
end
for _, offset in pairs(furthest) do sum = sum + offset end
return sum
"""


class Contestant(Child):
    """The process of one contestant; it dies with this one."""

    def __init__(self, name: str, folder: Path, command: list[str]) -> None:
        super().__init__(name, folder / "log" / f"{name}.log")
        self._command = command

    def command(self) -> list[str]:
        return self._command


@dataclass(frozen=True)
class Race:
    """What was measured between the first and the last look at which progress was seen.

    Attributes:
        applied: events applied at the end; fewer than there are if time ran out.
        events_per_second: over that stretch.
        starting_seconds: from the start of the process to the first applied events.
        cpu_process, cpu_redis: CPU seconds for a million events.
        peak_rss_mb: the process's, from its start.
        others: cores that programs outside the benchmark took; above 0.2 the figures are too low.
    """

    name: str
    applied: int
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
    contestant: Contestant,
    progress: Callable[[], int],
    *,
    events: int,
    redis_pid: int,
    kafka_pid: int,
    seconds: float,
) -> Race:
    """Start a contestant, watch it until it has applied everything or `seconds` are over, and leave it running."""
    begun = time.monotonic()
    contestant.spawn()
    pid = contestant.pid
    assert pid
    pids = [pid, redis_pid, kafka_pid, os.getpid()]
    first = last = None
    applied = 0
    while applied < events:
        time.sleep(LOOK_SECONDS)
        applied = progress()
        now = time.monotonic()
        if applied and first is None:
            first = _look(applied, pids)
        # A process may end right after its last event.
        assert applied >= events or contestant.exit_code is None, f"{contestant.name} ended: {contestant.last_words()}"
        assert first or now - begun < STARTING_SECONDS, f"{contestant.name} applied nothing, see {contestant.log}"
        if first and now - first.at > seconds:
            break
    last = _look(applied, pids)
    assert first
    assert last.applied > first.applied, f"{contestant.name}: all was applied between two looks; take more --events"
    millions = (last.applied - first.applied) / 1e6
    took = last.at - first.at
    cpu = {each: last.cpu[each] - first.cpu[each] for each in pids}
    return Race(
        name=contestant.name,
        applied=applied,
        events_per_second=1e6 * millions / took,
        starting_seconds=first.at - begun,
        cpu_process=cpu[pid] / millions,
        cpu_redis=cpu[redis_pid] / millions,
        peak_rss_mb=_peak_rss_mb(pid),
        others=max(0.0, (last.busy - first.busy - sum(cpu.values())) / took),
    )


def peer_counts(client: redis.Redis, slot_ms: int) -> Counter[tuple[str, str, int]]:
    """Return what a contestant other than clickwell has counted, by (feature_id, signal, start of the slot)."""
    found: Counter[tuple[str, str, int]] = Counter()
    keys = list(client.scan_iter(match="counts:*", count=1000))
    for start in range(0, len(keys), 1000):
        some = keys[start : start + 1000]
        pipeline = client.pipeline(transaction=False)
        for key in some:
            pipeline.hgetall(key)
        for key, cells in zip(some, pipeline.execute(), strict=True):
            for field, n in cells.items():
                signal, slot = field.decode().split(":")
                found[key.decode().removeprefix("counts:"), signal, int(slot) * slot_ms] += int(n)
    return found


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model, "cores": cores, "memory_gb": round(memory, 1), "system": platform.platform()}


def _look(applied: int, pids: list[int]) -> Look:
    return Look(time.monotonic(), applied, {pid: _cpu(pid) for pid in pids}, _busy())


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and all its threads; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def _busy() -> float:
    """Return the CPU seconds that the whole machine has spent working."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


def _peak_rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
