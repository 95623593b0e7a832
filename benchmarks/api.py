"""Measures the HTTP API with a real broker, and counts in the log what it said it had taken.

```
python benchmarks/api.py                 # batches of 100, a steady 10,000 events/s, single events
python benchmarks/api.py --only kills    # the broker and the API are killed (-9) in mid-run and come back
```
Needs two cores for figures that mean something: one for the API, one for the broker and the load.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from clickwell.devstack.process import free_port
from clickwell.devstack.stack import Api, Stack
from clickwell.kafka import END_REACHED, KafkaLog, librdkafka_config
from clickwell.schemas.topics import INTERACTIONS
from clickwell.settings import Settings

LOAD = Path(__file__).with_name("api_load.py")
_READY_SECONDS = 30.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", choices=["batches", "steady", "singles", "kills"], action="append")
    options.add_argument("--seconds", type=float, default=8.0)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    wanted = given.only or ["batches", "steady", "singles"]
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), parts=("kafka", "redis")) as stack:
        bench = Bench(stack, Path(folder), given.seconds)
        try:
            # A broker that has just started runs at a fraction of its speed.
            bench.load("warmup", "--connections", 16, "--seconds", 4)
            results = [getattr(bench, name)() for name in wanted]
        finally:
            bench.api.stop(5)
        lost = bench.compare(results)
    for result in results:
        print(json.dumps(result) if given.json else said(result))
    sys.exit(lost)


class Bench:
    """One API process on a stack of its own."""

    def __init__(self, stack: Stack, folder: Path, seconds: float) -> None:
        self.stack = stack
        self.folder = folder
        self.seconds = seconds
        self.api = Api(folder, free_port())
        self.start()

    def start(self) -> None:
        """Start the API and wait until it takes events."""
        self.api.spawn()
        deadline = time.monotonic() + _READY_SECONDS
        while subprocess.run(
            ["curl", "-sf", f"{self.api.address}/readyz"], capture_output=True, check=False
        ).returncode:
            if time.monotonic() > deadline:
                sys.exit(f"error: the API is not ready: {self.api.last_words()}")
            time.sleep(0.1)

    def batches(self) -> dict[str, object]:
        """Offer batches of 100 as fast as they are taken."""
        return self.load("batches", "--connections", 16)

    def steady(self) -> dict[str, object]:
        """Offer 10,000 events/s in batches of 100."""
        return self.load("steady", "--connections", 32, "--rate", 10_000)

    def singles(self) -> dict[str, object]:
        """Offer single events as fast as they are taken."""
        return self.load("singles", "--connections", 64, "--batch", 1)

    def kills(self) -> dict[str, object]:
        """Kill the broker a third into the run, the API at two thirds."""
        kafka = next(ward.child for ward in self.stack._wards if ward.child.name == "kafka")  # noqa: SLF001
        seconds = max(self.seconds, 20.0)
        running = self.begin("kills", "--connections", 16, "--rate", 4000, "--retry", "--seconds", seconds)
        time.sleep(seconds / 3)
        kafka.kill()
        kafka.spawn()
        time.sleep(seconds / 3)
        self.api.kill()
        self.start()
        return self.end("kills", running)

    def load(self, name: str, *options: object) -> dict[str, object]:
        """Run a load to its end and return what it tells."""
        return self.end(name, self.begin(name, "--seconds", self.seconds, *options))

    def begin(self, name: str, *options: object) -> subprocess.Popen[str]:
        """Start a load; of options that are given twice the last one counts."""
        fixed = ["--address", self.api.address, "--name", name, "--ids", self.folder / f"{name}.ids"]
        command = [sys.executable, str(LOAD), *map(str, fixed), *map(str, options)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(self, name: str, running: subprocess.Popen[str]) -> dict[str, object]:
        """Wait for a load and return what it tells."""
        told, _ = running.communicate()
        if running.returncode:
            sys.exit("error: the load has failed")
        return {"name": name, **json.loads(told)}

    def compare(self, results: list[dict[str, object]]) -> int:
        """Add to each result what the log has of it; return how many accepted events are not there exactly once."""
        logged = ids_in_log(self.stack.settings)
        wrong = 0
        for result in results:
            ids = (self.folder / f"{result['name']}.ids").read_text().split()
            result["in_log"] = sum(event_id in logged for event_id in ids)
            result["more_than_once"] = sum(logged[event_id] > 1 for event_id in ids)
            wrong += len(ids) - int(result["in_log"]) + int(result["more_than_once"])  # type: ignore[call-overload]
        return int(wrong > 0)


def ids_in_log(settings: Settings) -> Counter[str]:
    """Return how often each event id stands in the interactions topic."""
    log = KafkaLog(settings.kafka)
    _, partitions = log.describe(INTERACTIONS.name)
    ends = log.latest(INTERACTIONS.name, range(partitions))
    config = {**librdkafka_config(settings.kafka), "group.id": "count", "enable.partition.eof": True}
    consumer = Consumer(config)
    consumer.assign([TopicPartition(INTERACTIONS.name, partition, 0) for partition in ends])
    found: Counter[str] = Counter()
    left = set(ends)
    while left:
        for message in consumer.consume(5000, 0.2):
            if (error := message.error()) is None:
                found[dict(message.headers() or [])["ce_id"].decode()] += 1  # type: ignore[union-attr]
            elif error.code() == END_REACHED:
                left.discard(message.partition() or 0)
            else:
                sys.exit(f"error: {error}")
    consumer.close()
    return found


def said(result: dict[str, object]) -> str:
    return (
        f"{result['name']:<8} {result['events_per_second']:>7,} events/s {result['requests_per_second']:>6,} requests/s"
        f"  p50 {result['p50_ms']} ms  p99 {result['p99_ms']} ms  max {result['max_ms']} ms"
        f"  accepted {result['accepted']:,}  in the log {result['in_log']:,}, more than once {result['more_than_once']}"
        f"  {result['outcomes']}"
    )


if __name__ == "__main__":
    main()
