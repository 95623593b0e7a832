"""What larger installations need: partitions, processes, Redis nodes, bytes and money, from what an event costs here.

`scale.py --save` leaves the measured costs in docs/scaling.json. Everything else is assumed below, by name, and may be
given on the command line. Prints the tables of docs/scaling.md.

    python benchmarks/cost.py [--rates 100000 1000000 10000000] [--documents 1000000] [--join-hours 12]
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from clickwell.schemas.keys import SHARDS
from clickwell.settings import EngagementSettings, KafkaSettings, PopularitySettings

MEASURED = Path(__file__).parents[1] / "docs" / "scaling.json"
GB, HOURS_A_MONTH = 1e9, 730


@dataclass(frozen=True)
class Assumed:
    """What is not measured: the site, the machines, the prices in US dollars.

    Attributes:
        documents: used within the window.
        users: with a history.
        histories: entries of Redis for each user, one for each signal.
        busy: share of a core that is planned for; the rest is for peaks, rebalances and catching up.
        node_gb: memory of a Redis node, of which `full` is planned for.
        replicas: copies of each Redis node beside itself.
        lake_days: how long events stay in the lake.
        core_hour, memory_gb_hour, disk_gb_month, object_gb_month: prices, near the list prices of the large clouds.
    """

    documents: int = 10_000_000
    users: int = 10_000_000
    histories: int = 2
    busy: float = 0.5
    node_gb: float = 64
    full: float = 0.7
    replicas: int = 1
    dedup_hours: int = PopularitySettings().dedup_hours
    join_hours: int = EngagementSettings().join_hours
    kafka_days: int = KafkaSettings().retention_days
    kafka_replication: int = 3
    lake_days: int = 365
    core_hour: float = 0.04
    memory_gb_hour: float = 0.005
    disk_gb_month: float = 0.08
    object_gb_month: float = 0.023


@dataclass(frozen=True)
class Costs:
    """What was measured: CPU seconds for a million events, and bytes."""

    worker: float
    redis: float
    sink: float
    kafka: float
    kafka_bytes: float
    lake_bytes: float
    document: float
    repeat: float
    fact: float
    window_row: float
    history: float

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> "Costs":
        """Return the costs of the rows with one process, whose chunks are as full as those of a busy larger site."""
        one = {row["what"]: row for row in measured["rows"] if row["count"] == 1}
        sizes = measured["bytes"]
        return cls(
            worker=one["workers"]["cpu"],
            redis=one["workers"]["cpu_redis"],
            sink=one["sinks"]["cpu"],
            kafka=one["workers"]["cpu_kafka"] + one["sinks"]["cpu_kafka"],
            kafka_bytes=sizes["kafka_bytes"],
            lake_bytes=sizes["lake_bytes"],
            **{name: sizes[f"redis_{name}"] for name in ("document", "repeat", "fact", "window_row", "history")},
        )


@dataclass(frozen=True)
class Plan:
    """What a rate of events needs.

    Attributes:
        workers, sinks: processes, of one core each.
        partitions: of the interactions topic; twice the workers, so that they can double.
        redis_nodes: primaries; the larger of what CPU and memory ask for.
        redis_by: which of the two.
        redis_gb: of all primaries.
        kafka_cores: of all brokers.
        kafka_gb, lake_gb: on disk and in the object store.
        month: US dollars.
    """

    rate: int
    workers: int
    sinks: int
    partitions: int
    redis_nodes: int
    redis_by: str
    redis_gb: float
    kafka_cores: int
    kafka_gb: float
    lake_gb: float
    month: float

    @property
    def fits(self) -> bool:
        """Whether there are shards for so many nodes."""
        return self.redis_nodes <= SHARDS


def plan(rate: int, costs: Costs, assumed: Assumed) -> Plan:
    """Return what `rate` events a second need."""
    cores = {name: rate / 1e6 * getattr(costs, name) / assumed.busy for name in ("worker", "redis", "sink", "kafka")}
    workers, sinks, kafka = (max(2, math.ceil(cores[name])) for name in ("worker", "sink", "kafka"))
    memory = sum(size for _, size in memory_of(rate, costs, assumed)) / GB
    nodes = {"CPU": math.ceil(cores["redis"]), "memory": math.ceil(memory / assumed.node_gb / assumed.full)}
    redis_by = max(nodes, key=lambda name: nodes[name])
    redis_nodes = max(1, nodes[redis_by])
    all_nodes = redis_nodes * (1 + assumed.replicas)
    kafka_gb = rate * costs.kafka_bytes * 86_400 * assumed.kafka_days * assumed.kafka_replication / GB
    lake_gb = rate * costs.lake_bytes * 86_400 * assumed.lake_days / GB
    hourly = (workers + sinks + kafka + all_nodes) * assumed.core_hour
    hourly += all_nodes * assumed.node_gb * assumed.memory_gb_hour
    month = hourly * HOURS_A_MONTH + kafka_gb * assumed.disk_gb_month + lake_gb * assumed.object_gb_month
    partitions = 2 * workers
    return Plan(rate, workers, sinks, partitions, redis_nodes, redis_by, memory, kafka, kafka_gb, lake_gb, month)


def memory_of(rate: int, costs: Costs, assumed: Assumed) -> Iterator[tuple[str, float]]:
    """Yield what Redis holds, and its bytes."""
    hour = rate * 3600
    windows = EngagementSettings()
    tables = (24 * windows.hourly_days + windows.daily_days) * 2 * windows.table_rows * SHARDS
    yield "documents of the window", assumed.documents * costs.document
    # A bucket, the running one and the one before it.
    yield "ids, to find repeats", 3 * assumed.dedup_hours * hour * costs.repeat
    yield "facts of searches, to join their events", 3 * assumed.join_hours * hour * costs.fact
    yield "windows by query and document, at most", tables * costs.window_row
    yield "histories of users", assumed.users * assumed.histories * costs.history


def tables(rates: list[int], costs: Costs, assumed: Assumed) -> str:
    """Return both tables in Markdown."""
    plans = [plan(rate, costs, assumed) for rate in rates]
    lines = [_line(["", *(f"{one.rate:,}/s" for one in plans)]), _line(["---", *["---:"] * len(plans)])]
    for title, show in (
        ("partitions", lambda one: f"{one.partitions:,}"),
        ("workers, a core each", lambda one: f"{one.workers:,}"),
        ("sinks, a core each", lambda one: f"{one.sinks:,}"),
        ("cores of Kafka", lambda one: f"{one.kafka_cores:,}"),
        ("Redis, GB", lambda one: f"{one.redis_gb:,.0f}"),
        ("Redis nodes", lambda one: f"{one.redis_nodes:,} by {one.redis_by}" + ("" if one.fits else f", of {SHARDS}!")),
        ("Kafka's disks, TB", lambda one: f"{one.kafka_gb / 1000:,.1f}"),
        ("lake, TB", lambda one: f"{one.lake_gb / 1000:,.1f}"),
        ("US$ a month", lambda one: f"{one.month:,.0f}"),
        ("US$ for a million events", lambda one: f"{one.month / (one.rate * 3.6e3 * HOURS_A_MONTH / 1e6):.4f}"),
    ):
        lines.append(_line([title, *map(show, plans)]))
    lines += ["", _line(["GB of Redis for", *(f"{one.rate:,}/s" for one in plans)]), lines[1]]
    for row in zip(*(memory_of(one.rate, costs, assumed) for one in plans), strict=True):
        lines.append(_line([row[0][0], *(f"{size / GB:,.1f}" for _, size in row)]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rates", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    for field in fields(Assumed):
        kind = float if isinstance(field.default, float) else int
        arguments.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    asked = vars(arguments.parse_args())
    costs = Costs.of(json.loads(MEASURED.read_text()))
    print(tables(asked.pop("rates"), costs, replace(Assumed(), **asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
