"""How fast the popularity worker is beside others that do the same, on one topic on this machine (Linux).

Starts a Kafka of its own and a Valkey for each contestant, in a temporary folder. A contestant's figures are shown only
if its counts were equal, cell by cell, to those of the traffic. Exit code 3: a bar was missed.

    python benchmarks/run.py [--events 1000000] [--only limit clickwell] [--rounds 1] [--headers] [--json]
"""

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, cast

import redis
import traffic
from entries import ENTRIES, Cells, Contestant, Entry, install_quix, write_addresses
from measure import Race, race
from report import RESULTS, forget_settings, save, say, told

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.valkey import ValkeyServer
from clickwell.settings import Settings

# What clickwell must reach, as a multiple of each other rate; with windows as well, in events a second; and the memory
# that it may take at most.
BARS = {"limit": 0.5, "quix": 5.0, "faust": 20.0}
WINDOWS_BAR = 80_000
RSS_BAR_MB = 600
# Programs beside the benchmark that take more of the machine than this spoil a figure.
QUIET_CORES = 0.2


def main() -> int:
    asked = _arguments()
    forget_settings()
    entries = [entry for entry in ENTRIES if entry.name in asked.only]
    if "quix" in asked.only:
        install_quix()
    races: dict[str, Race] = {}
    with tempfile.TemporaryDirectory(prefix="clickwell-bench-") as temporary, KafkaServer(Path(temporary)) as kafka:
        begun = time.monotonic()
        settings = Settings(kafka={"bootstrap_servers": kafka.address})
        now_ms = time.time_ns() // 1_000_000
        expected, size = traffic.fill(
            settings, asked.events, seed=asked.seed, now_ms=now_ms, with_headers=asked.headers
        )
        took = time.monotonic() - begun
        say(f"{asked.events:,} events of {size:.0f} bytes, {len(expected):,} cells to count, written in {took:.0f} s")
        for number, entry in product(range(asked.rounds), entries):
            found = let_run(entry, Path(temporary) / f"{entry.name}-{number}", kafka, expected, asked)
            say(f"{entry.title}: {found.events_per_second:,.0f} events/s, counts are equal")
            if found.others > QUIET_CORES:
                say(f"! other programs took {found.others:.1f} cores meanwhile: the figure is too low")
            if number == 0 or found.events_per_second > races[entry.name].events_per_second:
                races[entry.name] = found
    bars = bars_of(races)
    show(races, bars)
    if asked.json:
        about = {
            "events": asked.events,
            "bytes": round(size),
            "headers": asked.headers,
            "rounds": asked.rounds,
            "seed": asked.seed,
        }
        save("throughput", traffic=about, contestants=[asdict(found) for found in races.values()], bars=bars)
    return 0 if all(bar["met"] for bar in bars) else 3


def let_run(entry: Entry, folder: Path, kafka: KafkaServer, expected: Cells, asked: argparse.Namespace) -> Race:
    """Let one contestant count the topic into an empty Valkey, compare, and return what was measured."""
    with ValkeyServer(folder) as valkey, redis.Redis.from_url(valkey.url) as client:
        settings = write_addresses(folder, kafka.address, valkey.url)
        contestant = Contestant(entry.name, folder, entry.command(folder, settings, asked.events))
        try:
            found = race(
                contestant,
                lambda: entry.applied(client),
                events=asked.events,
                redis_pid=cast("int", valkey.pid),
                kafka_pid=cast("int", kafka.pid),
                seconds=asked.seconds,
            )
            if entry.name == "limit":
                contestant.join(60)  # it writes its counts last
            counts = entry.counts(client, settings)
        finally:
            contestant.stop()
    wrong = {cell for cell in expected.keys() | counts.keys() if expected[cell] != counts[cell]}
    some = [f"{cell}: {counts[cell]}, not {expected[cell]}" for cell in sorted(wrong)[:3]]
    if wrong:
        sys.exit(f"error: {entry.title} counted {len(wrong):,} of {len(expected):,} cells wrongly: {'; '.join(some)}")
    return found


def bars_of(races: dict[str, Race]) -> list[dict[str, Any]]:
    """Return each bar that can be judged, with what was reached."""
    if (own := races.get("clickwell")) is None:
        return []
    bars = []
    for name, least in BARS.items():
        if name in races:
            times = own.events_per_second / races[name].events_per_second
            bars.append({"bar": f">= {least:g} x {name}", "reached": times, "met": times >= least})
    if windows := races.get("windows"):
        rate = windows.events_per_second
        title = f"with windows >= {WINDOWS_BAR:,} events/s, {rate / own.events_per_second:.2f} x popularity alone"
        bars.append({"bar": title, "reached": rate, "met": rate >= WINDOWS_BAR})
    rss = own.peak_rss_mb
    return [*bars, {"bar": f"RSS < {RSS_BAR_MB} MB", "reached": rss, "met": rss < RSS_BAR_MB}]


def show(races: dict[str, Race], bars: list[dict[str, Any]]) -> None:
    """Print the table, then the bars."""
    titles = {entry.name: entry.title for entry in ENTRIES}
    heads = ("events/s", "x limit", "x Faust", "CPU s/M", "Redis CPU s/M", "peak RSS MB", "start s")
    print(f"{'':<28}" + "".join(f"{head:>14}" for head in heads))
    for name, one in races.items():
        rate = one.events_per_second
        ratios = [f"{rate / races[to].events_per_second:.2f}" if to in races else "-" for to in ("limit", "faust")]
        rest = (one.cpu_process, one.cpu_redis, one.peak_rss_mb, one.starting_seconds)
        cells = [f"{rate:,.0f}", *ratios, *(f"{value:.1f}" for value in rest)]
        print(f"{titles[name]:<28}" + "".join(f"{cell:>14}" for cell in cells))
    for bar in bars:
        print(f"{'met   ' if bar['met'] else 'MISSED'}  clickwell: {bar['bar']}: {bar['reached']:.2f}")


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=1_000_000)
    names = [entry.name for entry in ENTRIES]
    arguments.add_argument("--only", nargs="+", choices=names, default=names)
    arguments.add_argument("--rounds", type=int, default=1, help="the best of so many runs counts, for busy machines")
    arguments.add_argument("--seconds", type=float, default=600, help="give a contestant up after this time")
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--headers", action="store_true", help="with the headers that the Emitter adds, 130 bytes")
    arguments.add_argument("--json", action="store_true", help=f"also write {RESULTS}/throughput.json")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(told(main))
