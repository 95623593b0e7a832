"""How fast the popularity worker is beside others that do the same, on one topic on this machine (Linux).

Starts a Kafka of its own and a Valkey for each contestant, in a temporary folder. No figure is shown before a
contestant's counts were found equal, cell by cell, to those of the traffic.

    python benchmarks/run.py [--events 1000000] [--only limit,clickwell] [--headers] [--json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import redis
import traffic
from measure import WORKER_APPLIED, Contestant, Race, machine, peer_counts, race

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.jars import KAFKA_VERSION
from clickwell.devstack.valkey import ValkeyServer
from clickwell.producers.topics import end_offsets
from clickwell.schemas.topics import INTERACTIONS
from clickwell.serving.connection import active_generation
from clickwell.serving.counts import rows_of
from clickwell.serving.progress import wait_applied
from clickwell.settings import STACK_FILE, Settings

HERE = Path(__file__).parent
# It pins an older confluent-kafka than clickwell uses.
QUIX = HERE.parent / ".venv-quix"
QUIX_VERSION = "3.28.1"
CONTESTANTS = ("limit", "clickwell", "faust", "quix")
TITLES = {"limit": "limit (no Redis)", "clickwell": "clickwell worker", "faust": "stock Faust", "quix": "Quix Streams"}
# What clickwell must reach, as a multiple of another contestant's rate; and the memory that it may take.
BARS = {"faust": 20.0, "quix": 5.0, "limit": 0.5}
RSS_BAR_MB = 600
# Other programs that take more than this many cores spoil a figure.
QUIET_CORES = 0.2


def main() -> int:
    asked = _arguments()
    say = _say
    # The servers are this benchmark's own: addresses and tuning of the shell it runs in must not matter.
    for name in [name for name in os.environ if name.startswith("CLICKWELL_")]:
        del os.environ[name]
    if "quix" in asked.only:
        _install_quix(say)
    races: list[Race] = []
    with tempfile.TemporaryDirectory(prefix="clickwell-bench-") as temporary:
        folder = Path(temporary)
        with KafkaServer(folder) as kafka:
            say(f"writing {asked.events:,} events, seed {asked.seed}")
            begun = time.monotonic()
            expected, size = traffic.fill(
                Settings(kafka={"bootstrap_servers": kafka.address}),
                asked.events,
                seed=asked.seed,
                now_ms=time.time_ns() // 1_000_000,
                with_headers=asked.headers,
            )
            say(f"{size:.0f} bytes an event, {len(expected):,} cells to count, {time.monotonic() - begun:.0f} s")
            for name in asked.only:
                say(TITLES[name])
                races.append(_run(name, folder / name, kafka, expected, asked))
    bars = _bars(races)
    _show(races, bars)
    if asked.json:
        versions = {name: version(name) for name in ("clickwell", "confluent-kafka", "faust-streaming", "aiokafka")}
        result = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "versions": {**versions, "quixstreams": QUIX_VERSION, "kafka": KAFKA_VERSION, "python": sys.version.split()[0]},
            "events": asked.events,
            "bytes_an_event": round(size),
            "headers": asked.headers,
            "seed": asked.seed,
            "contestants": [asdict(each) for each in races],
            "bars": bars,
        }
        results = HERE / "results"
        results.mkdir(exist_ok=True)
        path = results / "throughput.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        say(f"wrote {path}")
    return 0 if all(bar["met"] for bar in bars) else 3


def _run(name: str, folder: Path, kafka: KafkaServer, expected: traffic.Cells, asked: argparse.Namespace) -> Race:
    """Let one contestant count the topic and return what was measured, after a look at its counts."""
    with ValkeyServer(folder) as valkey, redis.Redis.from_url(valkey.url) as client:
        addresses = {"kafka": {"bootstrap_servers": kafka.address}, "redis": {"url": valkey.url}}
        (folder / STACK_FILE).write_text(json.dumps(addresses))
        script = str(HERE / "contestants" / {"limit": "limit.py", "faust": "stock_faust.py", "quix": "quix.py"}.get(name, ""))
        command = {
            "clickwell": [sys.executable, "-m", "clickwell", "worker", "--data", str(folder)],
            "limit": [sys.executable, script, kafka.address, valkey.url, str(asked.events)],
            "faust": [sys.executable, script, kafka.address, valkey.url, str(folder)],
            "quix": [str(QUIX / "bin" / "python"), script, kafka.address, valkey.url, str(folder)],
        }[name]
        look = _worker_progress(client) if name == "clickwell" else lambda: int(cast("bytes", client.get("applied")) or 0)
        contestant = Contestant(name, folder, command)
        try:
            found = race(
                contestant,
                look,
                events=asked.events,
                redis_pid=cast("int", valkey.pid),
                kafka_pid=cast("int", kafka.pid),
                seconds=asked.seconds,
            )
            _compare(name, contestant, client, folder, expected, complete=found.applied == asked.events)
        finally:
            contestant.stop()
    return found
