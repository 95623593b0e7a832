"""How fast one sink writes the lake, beside the limit and beside the loop that everybody writes first (Linux).

Starts a Kafka of its own in a temporary folder. *limit* is pyarrow writing the same rows, already decoded, as the sink
writes them: no Kafka, no JSON, no offsets. The topic holds one flush more than is measured, so that nobody waits for a
last, small one. The sink's rows are compared with the topic. Exit code 3: a bar was missed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import traffic
from deltalake import DeltaTable
from measure import Race, race
from report import bar, save, verdict

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.process import Child
from clickwell.kafka import KafkaLog
from clickwell.settings import Settings
from clickwell.sinks import files
from clickwell.sinks.standing import offsets_of
from clickwell.sinks.table import INTERACTION_TABLE, create_table

RATE_BAR, NAIVE_BAR, RSS_BAR_MB = 150_000, 5, 1000
# A look costs some milliseconds of a core that the contestants need.
LOOK_SECONDS = 0.3
HERE = Path(__file__).parent


class Contestant(Child):
    """A process that writes the topic."""

    def __init__(self, name: str, folder: Path, command: list[str]) -> None:
        super().__init__(name, folder / f"{name}.log")
        self._command = command

    def command(self) -> list[str]:
        """Return the command line."""
        return self._command


def main() -> int:
    """Let all run and print what was measured."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="clickwell-sink-") as temporary:
        folder = Path(temporary)
        with KafkaServer(folder) as kafka:
            settings = Settings.load(folder, kafka={"bootstrap_servers": kafka.address})
            now_ms = time.time_ns() // 1_000_000
            written = asked.events + settings.sink.flush_rows
            _, size = traffic.fill(settings, written, seed=asked.seed, now_ms=now_ms, with_headers=asked.headers)
            print(f"{asked.events:,} events of {size:.0f} bytes", file=sys.stderr)
            environment = [
                f"CLICKWELL_KAFKA__BOOTSTRAP_SERVERS={kafka.address}",
                "CLICKWELL_SINK__MAINTAIN_SECONDS=0",
            ]
            own = _race(
                Contestant(
                    "clickwell",
                    folder,
                    ["/usr/bin/env", *environment, sys.executable, "-m", "clickwell", "sink", "--data", str(folder)],
                ),
                lambda: _rows(settings),
                kafka,
                asked.events,
            )
            _compare(settings)
            limit = _limit(settings, folder)
            naive = _race(
                Contestant(
                    "naive",
                    folder,
                    [sys.executable, str(HERE / "contestants" / "naive_sink.py"), kafka.address, str(folder / "naive")],
                ),
                lambda: _told(folder / "naive" / "progress"),
                kafka,
                asked.events,
            )
    times = own.events_per_second / naive.events_per_second
    bars = [
        bar(f">= {RATE_BAR:,} events/s", own.events_per_second, least=RATE_BAR),
        bar(f">= {NAIVE_BAR} x naive", times, least=NAIVE_BAR),
        bar(f"RSS < {RSS_BAR_MB} MB", own.peak_rss_mb, most=RSS_BAR_MB),
    ]
    print(f"{'':<12}{'events/s':>12}{'CPU s/M':>10}{'peak RSS MB':>14}{'other cores':>13}")
    for one in (own, naive):
        print(
            f"{one.name:<12}{one.events_per_second:>12,.0f}{one.cpu_process:>10.1f}{one.peak_rss_mb:>14,.0f}{one.others:>13.2f}"
        )
    print(f"{'limit':<12}{limit:>12,.0f}")
    met = verdict(bars)
    if asked.json:
        about = {"events": asked.events, "bytes": round(size), "headers": asked.headers, "seed": asked.seed}
        save("sink", traffic=about, contestants=[asdict(own), asdict(naive)], limit_events_per_second=limit, bars=bars)
    return 0 if met else 3


def _race(contestant: Contestant, progress: Callable[[], int], kafka: KafkaServer, events: int) -> Race:
    assert kafka.pid
    try:
        return race(contestant, _rarely(progress), events=events, redis_pid=kafka.pid, kafka_pid=kafka.pid, seconds=900)
    finally:
        contestant.stop()


def _rarely(progress: Callable[[], int]) -> Callable[[], int]:
    last, count = 0.0, 0

    def look() -> int:
        nonlocal last, count
        if time.monotonic() - last > LOOK_SECONDS:
            last, count = time.monotonic(), progress()
        return count

    return look


def _rows(settings: Settings) -> int:
    uri = INTERACTION_TABLE.uri(settings)
    if not DeltaTable.is_deltatable(uri):
        return 0
    return sum(DeltaTable(uri).get_add_actions(flatten=True)["num_records"].to_pylist())


def _told(path: Path) -> int:
    return int(path.read_text()) if path.exists() else 0


def _compare(settings: Settings) -> None:
    """End the program unless each record up to the stored offsets is in the lake once."""
    table = DeltaTable(INTERACTION_TABLE.uri(settings))
    rows = table.to_pyarrow_table(columns=["kafka_partition", "kafka_offset"])
    distinct = rows.group_by(["kafka_partition", "kafka_offset"]).aggregate([]).num_rows
    topic_id, partitions = KafkaLog(settings.kafka).describe(INTERACTION_TABLE.topic.name)
    stored = sum(offset or 0 for offset in offsets_of(settings, table, topic_id, partitions).values())
    if not rows.num_rows == distinct == stored:
        sys.exit(f"error: the lake holds {rows.num_rows:,} rows, {distinct:,} distinct, of {stored:,} events")


def _limit(settings: Settings, folder: Path) -> float:
    """Return how many decoded rows a second the sink's own writer takes."""
    rows = DeltaTable(INTERACTION_TABLE.uri(settings)).to_pyarrow_table().drop_columns(["event_date"])
    other = create_table(Settings.load(folder / "limit"), INTERACTION_TABLE)
    begun = time.monotonic()
    for first in range(0, rows.num_rows, settings.sink.flush_rows):
        for day, part in files.by_date(rows.slice(first, settings.sink.flush_rows)):
            files.write(other, INTERACTION_TABLE, day, part, prefix="limit")
    return rows.num_rows / (time.monotonic() - begun)


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=3_000_000)
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--headers", action="store_true", help="with the headers that the Emitter adds, 130 bytes")
    arguments.add_argument("--json", action="store_true", help="also write the result file")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(main())
