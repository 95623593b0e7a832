"""How long it takes from `Emitter.emit` until a reader sees the event in its counts, while other events flow.

Starts a Kafka, a Valkey and a worker of its own. One process writes background traffic at a steady rate; this one emits
marker events, 50 a second, and asks for the markers' counts all the time as a reranker would. Linux. Exit code 3: the
bar was missed.

    python benchmarks/freshness.py [--rate 10000] [--seconds 20] [--json]
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import traffic
from entries import POPULARITY, Contestant, write_addresses
from report import RESULTS, forget_settings, save, told

from clickwell import BoostReader, Emitter
from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.valkey import ValkeyServer
from clickwell.producers.topics import ensure_topics
from clickwell.schemas.topics import INTERACTIONS
from clickwell.settings import Settings

BAR_SECONDS = 1.0
SEED = 11
# Enough documents to lie in every partition and in many shards.
MARKERS = [f"marker-{number}" for number in range(24)]
MARKER_SECONDS = 0.02
# Polls follow each other after this pause: the resolution of what is measured.
PAUSE_SECONDS = 0.002
# The worker joins its group and warms up before the clock runs.
WARM_SECONDS = 3.0
PATIENCE_SECONDS = 30.0


def main() -> int:
    asked = _arguments()
    forget_settings()
    with tempfile.TemporaryDirectory(prefix="clickwell-bench-") as temporary:
        folder = Path(temporary)
        with KafkaServer(folder) as kafka, ValkeyServer(folder) as valkey:
            settings = write_addresses(folder, kafka.address, valkey.url)
            took, rate = measure(settings, folder, asked.rate, asked.seconds)
    p50, p99 = np.percentile(took, [50, 99]).tolist()
    met = p99 < BAR_SECONDS
    print(f"{len(took):,} markers beside {rate:,.0f} events/s, from emit to visible:")
    print(f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, most {max(took) * 1000:.0f} ms")
    print(f"{'met   ' if met else 'MISSED'}  p99 < {BAR_SECONDS:g} s")
    if asked.json:
        seconds = {"p50": p50, "p99": p99, "max": max(took)}
        save("freshness", events_per_second=rate, markers=len(took), seconds=seconds, met=met)
    return 0 if met else 3


def measure(settings: Settings, folder: Path, rate: int, seconds: float) -> tuple[list[float], float]:
    """Return how long each marker took to be visible, in seconds, and the rate of the traffic beside them."""
    ensure_topics(settings)
    worker = Contestant("worker", folder, POPULARITY.command(folder, settings, 0))
    try:
        worker.spawn()
        with Emitter(settings) as emitter, BoostReader(settings) as reader:
            wait_for_worker(emitter, reader)
            with flowing(settings, rate, seconds) as sent:
                before = sent.value
                took = watch(emitter, reader, seconds)
                return took, (sent.value - before) / seconds
    finally:
        worker.stop()


@contextmanager
def flowing(settings: Settings, rate: int, seconds: float) -> "Iterator[Synchronized[int]]":
    """Write events at a steady rate from a process of its own, and yield their number when they have flowed a while."""
    spawn = multiprocessing.get_context("spawn")
    sent = spawn.Value("q", 0)
    beside = spawn.Process(target=flow, args=(settings, rate, WARM_SECONDS + seconds, sent), daemon=True)
    beside.start()
    try:
        while not sent.value:
            if beside.exitcode is not None:
                sys.exit("error: the traffic could not be written")
            time.sleep(PAUSE_SECONDS)
        time.sleep(WARM_SECONDS)
        yield sent
    finally:
        beside.kill()
        beside.join()


def flow(settings: Settings, rate: int, seconds: float, sent: "Synchronized[int]") -> None:
    """Write events at a steady rate, and tell how many."""
    producer = traffic.connect(settings, linger_ms=5)
    events = int(rate * seconds)
    now_ms = time.time_ns() // 1_000_000
    begun = time.monotonic()
    for number, (_, feature_id, value) in enumerate(traffic.generate(events, Counter(), seed=SEED, now_ms=now_ms)):
        if number % 100 == 0:
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            producer.poll(0)
            sent.value = number
        producer.produce(INTERACTIONS.name, value, feature_id)
    producer.flush()


def watch(emitter: Emitter, reader: BoostReader, seconds: float) -> list[float]:
    """Emit markers one after another, look at all of them all the time, and return when each was seen."""
    emitted: list[list[float]] = [[] for _ in MARKERS]
    seen = reader.counts(MARKERS, ["click"]).by_signal[:, 0].copy()
    start = seen.copy()
    took: list[float] = []
    begun = time.monotonic()
    number = 0
    while (now := time.monotonic()) < begun + seconds or len(took) < number:
        if now > begun + seconds + PATIENCE_SECONDS:
            sys.exit(f"error: {number - len(took):,} of {number:,} markers were not seen within {PATIENCE_SECONDS:g} s")
        if number * MARKER_SECONDS < now - begun < seconds:
            marker = number % len(MARKERS)
            emitted[marker].append(now)
            emitter.emit({"feature_id": MARKERS[marker], "interaction_type": ["click"]})
            number += 1
        counts = reader.counts(MARKERS, ["click"])
        at = time.monotonic()
        if counts.reason is None:
            for marker in (counts.by_signal[:, 0] > seen).nonzero()[0].tolist():
                first, last = seen[marker] - start[marker], counts.by_signal[marker, 0] - start[marker]
                took += [at - when for when in emitted[marker][first:last]]
            seen = counts.by_signal[:, 0].copy()
        time.sleep(PAUSE_SECONDS)
    return took


def wait_for_worker(emitter: Emitter, reader: BoostReader) -> None:
    """Wait until a first event of each marker is counted."""
    emitter.emit_many({"feature_id": marker, "interaction_type": ["click"]} for marker in MARKERS)
    deadline = time.monotonic() + 60
    while (counts := reader.counts(MARKERS, ["click"])).reason or not counts.by_signal.all():
        if time.monotonic() > deadline:
            sys.exit(f"error: the worker counted nothing within a minute: {counts.detail}")
        time.sleep(0.05)


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rate", type=int, default=10_000, help="events a second beside the markers")
    arguments.add_argument("--seconds", type=float, default=20)
    arguments.add_argument("--json", action="store_true", help=f"also write {RESULTS}/freshness.json")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(told(main))
