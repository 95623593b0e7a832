"""Whether memory and open files of every process stay where they are while everything runs for an hour (Linux).

Starts a whole stack: broker, Valkey, two workers, sink, eraser, insights, API. One process writes events at a steady
rate, another posts some to the API, a reranker asks for boosts, and now and then somebody is erased. Every ten seconds
it looks at resident memory and file descriptors of each process, and at Redis' memory. The first half warms up; slopes
are those of the second. Exit code 3: something grew.

    python benchmarks/soak.py [--minutes 60] [--rate 5000] [--plots docs] [--json]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import redis
import traffic
from freshness import flowing
from report import RESULTS, forget_settings, save, say, told
from soak_plot import Panel, draw

from clickwell import BoostReader
from clickwell.devstack.stack import Stack
from clickwell.devstack.state import StackState
from clickwell.producers.topics import end_offsets
from clickwell.schemas.erasure import Erasure
from clickwell.schemas.topics import ERASURES, INTERACTIONS
from clickwell.serving.workers import worker_reports
from clickwell.settings import Settings

LOAD = Path(__file__).with_name("api_load.py")
SEED = 23
API_RATE = 100
LOOK_SECONDS = 10.0
READ_SECONDS = 0.05
ERASURE_SECONDS = 300.0
# Means of so many stretches are nearly independent of each other, which single looks are not.
STRETCHES = 12
# Student's t for 95 % and two less degrees of freedom than stretches.
T_95 = 2.228
# What may be added in the judged half without being called growth: allocators keep what they once had.
SLACK = 0.05
FDS_SLACK = 4
# The sink keeps the hash of every id of the last two to three hours (docs/decisions/0005); a run that is shorter sees
# only how it comes to be.
SINK_ID_BYTES = 8

Act = Callable[[int], object]
"""Does something once; told how often it was done before."""


@dataclass(frozen=True)
class Slope:
    """Growth of one process in the judged half.

    Attributes:
        mb: resident at its end.
        mb_per_hour, low, high: growth and its 95 % interval.
        known: what of the growth is said to come, MB an hour.
        fds: least and most file descriptors.
        met: whether it holds.
    """

    name: str
    mb: float
    mb_per_hour: float
    low: float
    high: float
    known: float
    fds: tuple[int, int]
    met: bool


def main() -> int:
    asked = _arguments()
    forget_settings()
    # A compaction and a vacuum every ten minutes instead of every hour, so that the run has some.
    os.environ["CLICKWELL_SINK__MAINTAIN_SECONDS"] = "600"
    seconds = asked.minutes * 60
    with tempfile.TemporaryDirectory(prefix="clickwell-soak-") as temporary:
        stack = Stack(Path(temporary), workers=2, done=say, warn=say)
        with stack, _watched(stack):
            looks, events = soak(stack, asked.rate, seconds)
    times, series = looks.arrays()
    half = times >= times[-1] / 2
    hours = (times[half][-1] - times[half][0]) / 3600
    rate = events / seconds
    slopes = [
        judge(name, times[half], each[half], looks.fds[name], hours, rate if name == "sink" else 0.0)
        for name, each in series.items()
    ]
    memory = np.array(looks.redis_mb)
    grown = float(memory[half][-1] - memory[half][0]) * 2**20 / (rate * hours * 3600)
    lag = max(looks.lag[len(looks.lag) // 2 :])
    show(slopes, events, seconds, memory[-1], grown, lag)
    if asked.plots:
        panels = [
            Panel("resident memory, MB", dict(series)),
            Panel("file descriptors", {name: np.array(each) for name, each in looks.fds.items()}),
            Panel("Redis: used memory, MB", {"redis": memory}),
            Panel("records not yet counted", {"lag": np.array(looks.lag)}),
        ]
        path = asked.plots / "soak.svg"
        path.write_text(draw(f"{seconds / 60:.0f} minutes at {rate:,.0f} events/s", times / 60, panels))
        say(f"wrote {path}")
    if asked.json:
        about = {"events": events, "seconds": seconds, "redis_bytes_per_event": grown, "lag": lag}
        save("soak", **about, processes=[asdict(each) for each in slopes])
    return 0 if all(each.met for each in slopes) else 3


@dataclass
class Looks:
    """What was seen at each look."""

    at: list[float]
    rss_mb: dict[str, list[float]]
    fds: dict[str, list[int]]
    redis_mb: list[float]
    lag: list[int]

    def arrays(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the times from the first look on in seconds, and the memory of each process in MB."""
        return np.array(self.at) - self.at[0], {name: np.array(each) for name, each in self.rss_mb.items()}


def soak(stack: Stack, rate: int, seconds: float) -> tuple[Looks, int]:
    """Let everything run; return what was seen, and how many events flowed."""
    settings = stack.settings
    state = StackState.read(stack.data)
    assert state
    pids = {part.name: part.pid for part in state.components if part.pid}
    address = next(part.address for part in state.components if part.name == "api")
    looks = Looks([], {name: [] for name in pids}, {name: [] for name in pids}, [], [])
    before = _events(settings)
    with ExitStack() as running, redis.Redis.from_url(settings.redis.url) as client:
        running.enter_context(flowing(settings, rate, seconds))
        running.enter_context(_posting(address, stack.data, seconds))
        running.enter_context(_beside(_read, settings, READ_SECONDS))
        running.enter_context(_beside(_erase, settings, ERASURE_SECONDS))
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            looks.at.append(now)
            for name, pid in pids.items():
                looks.rss_mb[name].append(_rss_mb(pid))
                looks.fds[name].append(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
            looks.redis_mb.append(client.info("memory")["used_memory"] / 2**20)
            looks.lag.append(sum(sum(report.lag_by_lane().values()) for report in worker_reports(settings)))
            if len(looks.at) % 30 == 1:
                sizes = ", ".join(f"{name} {each[-1]:.0f}" for name, each in looks.rss_mb.items())
                say(
                    f"{(now - begun) / 60:5.1f} min  MB: {sizes}; Redis {looks.redis_mb[-1]:.0f}; lag {looks.lag[-1]:,}"
                )
            time.sleep(LOOK_SECONDS)
    return looks, _events(settings) - before


def judge(name: str, at: np.ndarray, mb: np.ndarray, fds: list[int], hours: float, events_per_second: float) -> Slope:
    """Return the slope of a process, from the means of stretches by least squares."""
    stretches = np.array_split(np.arange(len(at)), min(STRETCHES, len(at)))
    x = np.array([at[each].mean() for each in stretches]) / 3600
    y = np.array([mb[each].mean() for each in stretches])
    slope, start = np.polyfit(x, y, 1)
    left = y - (start + slope * x)
    error = np.sqrt((left**2).sum() / max(1, len(x) - 2) / ((x - x.mean()) ** 2).sum())
    known = events_per_second * 3600 * SINK_ID_BYTES / 2**20
    late = fds[len(fds) // 2 :]
    grows = (slope - T_95 * error - known) * hours > SLACK * y[-1]
    leaks = max(late) > max(fds[: len(fds) // 2]) + FDS_SLACK
    interval = slope - T_95 * error, slope + T_95 * error
    return Slope(name, y[-1], slope, *interval, known, (min(late), max(late)), not (grows or leaks))


def show(slopes: list[Slope], events: int, seconds: float, redis_mb: float, grown: float, lag: int) -> None:
    """Print the table."""
    print(f"{events:,} events in {seconds / 60:.0f} minutes; lag in the second half at most {lag:,}")
    print(f"Redis holds {redis_mb:.0f} MB; an event adds {grown:.0f} bytes, until its dedup window is over")
    print(f"{'':<12}{'RSS MB':>9}{'MB/h':>9}{'95 %':>18}{'ids MB/h':>10}{'fds':>12}")
    for one in slopes:
        interval, fds = f"{one.low:+.0f} to {one.high:+.0f}", "-".join(map(str, one.fds))
        known = f"{one.known:.0f}" if one.known else "-"
        row = f"{one.name:<12}{one.mb:>9.0f}{one.mb_per_hour:>+9.1f}{interval:>18}{known:>10}{fds:>12}"
        print(f"{row}  {'met' if one.met else 'MISSED'}")


@contextmanager
def _watched(stack: Stack) -> Iterator[None]:
    stopping = threading.Event()
    watcher = threading.Thread(target=stack.watch, args=(stopping,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopping.set()
        watcher.join()


@contextmanager
def _posting(address: str, folder: Path, seconds: float) -> Iterator[None]:
    options = ["--rate", API_RATE, "--batch", 10, "--connections", 4, "--seconds", seconds, "--ids", folder / "ids"]
    command = [sys.executable, LOAD, "--address", address, *options]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as load:
        try:
            yield
        finally:
            load.terminate()


@contextmanager
def _beside(do: Callable[[Settings], AbstractContextManager[Act]], settings: Settings, pause: float) -> Iterator[None]:
    """Do something again and again in a thread."""
    stopping = threading.Event()

    def run() -> None:
        with do(settings) as once:
            number = 0
            while not stopping.wait(pause):
                once(number)
                number += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@contextmanager
def _read(settings: Settings) -> Iterator[Act]:
    """Ask for boosts of a list, as a reranker does."""
    documents = traffic.documents_of(SEED)
    with BoostReader(settings) as reader:
        yield lambda number: reader.boosts(documents[number % 1000 : number % 1000 + 100])


@contextmanager
def _erase(settings: Settings) -> Iterator[Act]:
    """Ask for somebody to be forgotten."""
    producer = traffic.connect(settings, linger_ms=5)

    def ask(number: int) -> None:
        request = Erasure(erasure_id=f"soak-{number}", user_id=f"u{number * 977:06d}")
        producer.produce(ERASURES.name, request.to_bytes())
        producer.flush()

    yield ask


def _events(settings: Settings) -> int:
    return sum(end_offsets(settings, [INTERACTIONS.name])[INTERACTIONS.name].values())


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--rate", type=int, default=5000, help="events a second, written to Kafka")
    arguments.add_argument("--plots", type=Path, help="folder for soak.svg")
    arguments.add_argument("--json", action="store_true", help=f"also write {RESULTS}/soak.json")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(told(main))
