"""What 1, 2 and 4 workers and 1, 2 and 4 sinks do on 8 partitions, and what an event costs (Linux).

Starts a Kafka of its own, and for each row an empty Valkey or an empty lake. Workers count with all three lanes. A row
is shown only if every count was equal to that of the traffic, or if the lake holds each event once. All processes share
this machine's cores: past as many processes as cores the rate stands still, and the CPU seconds of an event are what
can be carried over to a larger one. `--save` writes these to docs/scaling.json, from which `cost.py` computes what
larger installations need.

    python benchmarks/scale.py [--events 400000] [--counts 1 2 4] [--save]
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import redis
import traffic
from deltalake import DeltaTable
from entries import Cells, Contestant, Worker, write_addresses
from measure import Look, look, peak_rss_mb
from report import forget_settings, machine, say, told

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.valkey import ValkeyServer
from clickwell.settings import Settings
from clickwell.sinks.table import INTERACTION_TABLE

PARTITIONS = 8
LANES = ("popularity", "engagement", "history")
# The first member of a group waits so long for the others, so that all begin with their share at the same time.
JOINING_SECONDS = 10
GIVE_UP_SECONDS = 600.0
# A look at a lake costs some milliseconds of a core.
LOOK_SECONDS = 0.1
COSTS = Path(__file__).parents[1] / "docs" / "scaling.json"


@dataclass(frozen=True)
class Row:
    """What some processes did together.

    Attributes:
        what: `workers` or `sinks`.
        count: how many.
        events_per_second: from the first progress, or when all partitions were assigned, until everything was done.
        cpu, cpu_redis, cpu_kafka: CPU seconds for a million events: of all of them, of Valkey, of the broker.
        rss_mb: peak of the largest.
        others: cores that other programs took meanwhile; above 0.2 the rate is too low.
    """

    what: str
    count: int
    events_per_second: float
    cpu: float
    cpu_redis: float
    cpu_kafka: float
    rss_mb: float
    others: float


def main() -> int:
    asked = _arguments()
    forget_settings()
    rows: list[Row] = []
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="clickwell-scale-") as temporary:
        folder = Path(temporary)
        late = {"group.initial.rebalance.delay.ms": JOINING_SECONDS * 1000}
        with KafkaServer(folder, properties=late) as kafka:
            settings = Settings(kafka={"bootstrap_servers": kafka.address, "partitions": PARTITIONS})
            now_ms = time.time_ns() // 1_000_000
            expected, _ = traffic.fill(settings, asked.events, seed=7, now_ms=now_ms, with_headers=True)
            costs["kafka_bytes"] = _size(folder / "kafka" / "log", "interactions.v1-*/*.log") / asked.events
            say(f"{asked.events:,} events in {PARTITIONS} partitions")
            for count in asked.counts:
                rows.append(count_with(count, folder / f"workers-{count}", kafka, expected, asked.events, costs))
                show(rows[-1:])
            for count in asked.counts:
                rows.append(write_with(count, folder / f"sinks-{count}", kafka, asked.events, costs))
                show(rows[-1:])
    print(f"\n{'':<10}{'events/s':>12}{'CPU s/M':>10}{'Redis s/M':>11}{'Kafka s/M':>11}{'RSS MB':>9}{'x one':>8}")
    for _, group in groupby(rows, lambda row: row.what):
        show(list(group), stream=sys.stdout)
    if asked.save:
        content = {"machine": machine(), "events": asked.events, "rows": [asdict(row) for row in rows], "bytes": costs}
        COSTS.write_text(json.dumps(content, indent=2) + "\n")
        say(f"wrote {COSTS}")
    return 0


def show(rows: Sequence[Row], stream: Any = sys.stderr) -> None:
    """Print rows, each with its rate as a multiple of the first one's."""
    for row in rows:
        cells = f"{row.events_per_second:>12,.0f}{row.cpu:>10.1f}{row.cpu_redis:>11.1f}{row.cpu_kafka:>11.1f}"
        times = row.events_per_second / rows[0].events_per_second
        spoilt = "  ! other programs ran" if row.others > 0.2 else ""
        print(f"{row.count} {row.what:<8}{cells}{row.rss_mb:>9,.0f}{times:>8.2f}{spoilt}", file=stream, flush=True)


def count_with(
    count: int, folder: Path, kafka: KafkaServer, expected: Cells, events: int, costs: dict[str, float]
) -> Row:
    """Let so many workers count the topic into an empty Valkey, and compare every count."""
    with ValkeyServer(folder) as valkey, redis.Redis.from_url(valkey.url) as client:
        settings = write_addresses(folder, kafka.address, valkey.url)
        entry = Worker("workers", "", LANES)
        command = [*entry.command(folder, settings, events)]
        command.insert(1, f"CLICKWELL_KAFKA__GROUP=workers-{count}")
        with started(folder, "worker", count, command) as workers:
            servers = [cast("int", valkey.pid), cast("int", kafka.pid)]
            row = watch("workers", workers, servers, lambda: entry.applied(client), lambda: False, events)
            found = entry.counts(client, settings)
        costs |= _memory(client, events)
    wrong = [cell for cell in expected.keys() | found.keys() if expected[cell] != found[cell]]
    if wrong:
        sys.exit(f"error: {count} workers counted {len(wrong):,} of {len(expected):,} cells wrongly: {wrong[:3]}")
    return row


def write_with(count: int, folder: Path, kafka: KafkaServer, events: int, costs: dict[str, float]) -> Row:
    """Let so many sinks write the topic into an empty lake, and compare offsets and rows."""
    settings = write_addresses(_made(folder), kafka.address, "redis://127.0.0.1:1/0")
    uri = INTERACTION_TABLE.uri(settings)

    def rows() -> int:
        if not DeltaTable.is_deltatable(uri):
            return 0
        return sum(DeltaTable(uri).get_add_actions(flatten=True)["num_records"].to_pylist())

    options = (f"KAFKA__GROUP=sinks-{count}", "SINK__MAINTAIN_SECONDS=0", "SINK__FLUSH_SECONDS=3")
    environment = [f"CLICKWELL_{option}" for option in options]
    command = ["/usr/bin/env", *environment, sys.executable, "-m", "clickwell", "sink", "--data", str(folder)]
    with started(folder, "sink", count, command) as sinks:
        row = watch("sinks", sinks, [cast("int", kafka.pid)], rows, lambda: all(map(_reads, sinks)), events)
    places = DeltaTable(uri).to_pyarrow_table(columns=["kafka_partition", "kafka_offset"])
    distinct = places.group_by(["kafka_partition", "kafka_offset"]).aggregate([]).num_rows
    if not places.num_rows == distinct == events:
        sys.exit(f"error: {count} sinks wrote {places.num_rows:,} rows, {distinct:,} distinct, of {events:,} events")
    costs["lake_bytes"] = sum(DeltaTable(uri).get_add_actions(flatten=True)["size_bytes"].to_pylist()) / events
    return row


@contextmanager
def started(folder: Path, name: str, count: int, command: list[str]) -> Iterator[list[Contestant]]:
    """Start so many processes, and stop them at the end."""
    children = [Contestant(f"{name}-{number}", folder, command) for number in range(1, count + 1)]
    with ExitStack() as running:
        for child in children:
            child.spawn()
            running.callback(child.stop)
        yield children


def watch(
    what: str,
    children: Sequence[Contestant],
    servers: list[int],
    progress: Callable[[], int],
    begun: Callable[[], bool],
    events: int,
) -> Row:
    """Look at processes until they have done everything, from the moment that all of them could begin."""
    pids = [cast("int", child.pid) for child in children]
    everyone = [*pids, *dict.fromkeys(servers)]
    deadline = time.monotonic() + GIVE_UP_SECONDS
    first: Look | None = None
    done = 0
    while done < events:
        time.sleep(LOOK_SECONDS)
        done = progress()
        if first is None and (done or begun()):
            first = look(done, everyone)
        if dead := [child for child in children if child.exit_code is not None]:
            sys.exit(f"error: {dead[0].name} ended: {dead[0].last_words()}")
        if time.monotonic() > deadline:
            sys.exit(f"error: {len(children)} {what} did {done:,} of {events:,} events in {GIVE_UP_SECONDS:.0f} s")
    assert first
    last = look(done, everyone)
    took, millions = last.at - first.at, (last.applied - first.applied) / 1e6
    used = {pid: last.cpu[pid] - first.cpu[pid] for pid in everyone}
    return Row(
        what,
        len(children),
        1e6 * millions / took,
        cpu=sum(used[pid] for pid in pids) / millions,
        cpu_redis=used[servers[0]] / millions if what == "workers" else 0.0,
        cpu_kafka=used[servers[-1]] / millions,
        rss_mb=max(map(peak_rss_mb, pids)),
        others=max(0.0, (last.busy - first.busy - sum(used.values())) / took),
    )


def _memory(client: redis.Redis, events: int) -> dict[str, float]:
    """Return the bytes that Redis takes for an event until it is forgotten, a document, a window's row, a history."""
    sizes: Counter[str] = Counter()
    members: Counter[str] = Counter()
    keys = [key for key in client.scan_iter(match="cw1:*", count=5000) if key.count(b":") > 3]
    for first in range(0, len(keys), 5000):
        some = keys[first : first + 5000]
        pipeline = client.pipeline(transaction=False)
        for key in some:
            pipeline.memory_usage(key, samples=0)
            pipeline.hlen(key) if b":w:" in key else pipeline.exists(key)
        replies = pipeline.execute()
        for key, size, count in zip(some, replies[::2], replies[1::2], strict=True):
            parts = key.decode().split(":")
            kind = "h" if parts[2] == "h" else parts[4] if parts[3] == "d" else parts[3]
            sizes[kind] += size
            members[kind] += count
    return {
        "redis_document": sizes["c"] / members["c"],
        "redis_repeat": sizes["popularity"] / events,
        "redis_fact": sizes["engagement"] / events,
        "redis_window_row": sizes["w"] / members["w"],
        "redis_history": sizes["h"] / members["h"],
    }


def _reads(sink: Contestant) -> bool:
    return "sink-interactions reads" in sink.log.read_text(errors="replace")


def _size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=400_000)
    arguments.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4], help="how many workers, and sinks")
    arguments.add_argument("--save", action="store_true", help=f"write {COSTS.name}, for cost.py")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(told(main))
