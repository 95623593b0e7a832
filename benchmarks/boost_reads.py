"""How long a boost takes beside a worker that counts, and how much of Redis a document takes. Linux.

Memory: a Valkey of its own for each row, rings written straight through the codec. Reads: a Kafka, a Valkey and a
worker of their own, traffic at a steady rate, and one reader that asks for lists of that traffic's documents, popular
ones more often, as a reranker does. Exit code 3: a bar was missed.

    python benchmarks/boost_reads.py [--documents 1000000] [--rate 20000] [--seconds 20] [--json]
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import redis
import traffic
from entries import POPULARITY, Contestant, write_addresses
from freshness import SEED, flowing, wait_for_worker
from report import RESULTS, forget_settings, save, told

from clickwell import BoostReader, Emitter
from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.valkey import ValkeyServer
from clickwell.producers.topics import ensure_topics
from clickwell.redis_client import active_generation
from clickwell.schemas.keys import ACTIVE, FRESH, ring_keys
from clickwell.schemas.rings import Generation, Layout, encode
from clickwell.serving.formula import BoostByInteractionCount
from clickwell.settings import PopularitySettings, Settings

LAYOUT = Layout.of(PopularitySettings())
GENERATION = "tokzcc"  # as long as the names that workers give
BATCH = 5000
# Documents of a list, and the milliseconds that the p99 of their boosts stays below.
LISTS = {100: 1.0, 1000: 5.0}
# A read every 10 ms, as from a few busy search servers; one after another would measure how full the cores are.
PACE_SECONDS = 0.01


def main() -> int:
    asked = _arguments()
    forget_settings()
    rows = [*memory(asked.documents), *reads(asked.rate, asked.seconds)]
    for row in rows:
        verdict = "met   " if row["reached"] < row["bar"] else "MISSED"
        print(f"{verdict}  {row['what']}: {row['reached']:.2f} < {row['bar']:g}")
    if asked.json:
        save("boost_reads", documents=asked.documents, events_per_second=asked.rate, rows=rows)
    return 0 if all(row["reached"] < row["bar"] for row in rows) else 3


def memory(documents: int) -> Iterator[dict[str, Any]]:
    """Yield how much of Redis a document takes."""
    for name, signals, bar in (("clicks only", LAYOUT.signals[:1], 261), ("all four signals", LAYOUT.signals, 641)):
        with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder)) as server:
            size = fill(server.url, documents, signals)
            yield {"what": f"bytes a document, {documents:,} with {name}", "reached": size, "bar": bar}


def reads(rate: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield how long a boost takes while a worker counts `rate` events a second."""
    with tempfile.TemporaryDirectory(prefix="clickwell-bench-") as temporary:
        folder = Path(temporary)
        with KafkaServer(folder) as kafka, ValkeyServer(folder) as valkey:
            settings = write_addresses(folder, kafka.address, valkey.url)
            ensure_topics(settings)
            worker = Contestant("worker", folder, POPULARITY.command(folder, settings, 0))
            worker.spawn()
            try:
                with Emitter(settings) as emitter, BoostReader(settings) as reader:
                    wait_for_worker(emitter, reader)
                with flowing(settings, rate, seconds * len(LISTS)) as sent:
                    for length, bar in LISTS.items():
                        before, begun = sent.value, time.monotonic()
                        ms = read(settings, length, seconds)
                        flowed = (sent.value - before) / (time.monotonic() - begun)
                        bare = f"a bare MGET: {ms['bare p50']:.2f}, {ms['bare p99']:.2f}"
                        what = (
                            f"boost of {length:,} beside {flowed:,.0f} events/s, ms p99 (p50 {ms['p50']:.2f}; {bare})"
                        )
                        yield {"what": what, "reached": ms["p99"], "bar": bar, **ms}
            finally:
                worker.stop()


def name_of(document: int) -> str:
    """Return a 12-character id."""
    return f"doc{document:09d}"


def fill(url: str, documents: int, signals: tuple[str, ...]) -> float:
    """Write a ring for each document and return the bytes that one takes."""
    random.seed(7)
    now_ms = time.time_ns() // 1_000_000
    slot = LAYOUT.slot(now_ms)
    rings = [
        encode({(signal, slot - random.randrange(28)): random.randrange(1, 500) for signal in signals}, LAYOUT)
        for _ in range(256)
    ]
    gone = str(LAYOUT.expires_ms(slot))
    with redis.Redis.from_url(url) as client:
        client.config_set("appendonly", "no")  # the file would only fill the disk
        client.set(ACTIVE, Generation(name=GENERATION, layout=LAYOUT, half_life_hours=24).model_dump_json())
        client.hset(FRESH, mapping={f"popularity/{'x' * 22}/{partition}": now_ms for partition in range(6)})
        before = client.info("memory")["used_memory"]
        for first in range(0, documents, BATCH):
            pipeline = client.pipeline(transaction=False)
            ids = [name_of(document) for document in range(first, min(first + BATCH, documents))]
            for key in ring_keys(ids, GENERATION):
                pipeline.execute_command("SET", key, random.choice(rings), "PXAT", gone)
            pipeline.execute()
        return float((client.info("memory")["used_memory"] - before) / documents)


def read(settings: Settings, length: int, seconds: float) -> dict[str, float]:
    """Return p50 and p99 in milliseconds of one boost call, asked for at a steady pace, and of a bare MGET after it."""
    numbers = np.random.default_rng(3)
    documents = np.array(traffic.documents_of(SEED))
    stage = BoostByInteractionCount(interaction_types=dict.fromkeys(LAYOUT.signals, 1.0))
    lists = [
        documents[numbers.choice(len(documents), length, replace=False, p=traffic.POPULARITY)].tolist()
        for _ in range(int(seconds / PACE_SECONDS))
    ]
    took: list[float] = []
    bare: list[float] = []
    with (
        BoostReader(Settings(redis={"url": settings.redis.url}, boosts={"timeout": 1.0})) as reader,
        redis.Redis.from_url(settings.redis.url) as client,
    ):
        reader.boosts(documents.tolist(), stage)  # a process that has run for a while knows its documents' keys
        generation = active_generation(client)
        assert generation
        begun = time.monotonic()
        for number, of_list in enumerate(lists):
            time.sleep(max(0.0, begun + number * PACE_SECONDS - time.monotonic()))
            keys = ring_keys(of_list, generation.name)
            started = time.perf_counter()
            boosts = reader.boosts(of_list, stage)
            between = time.perf_counter()
            client.mget(keys)
            bare.append(time.perf_counter() - between)
            took.append(between - started)
            assert not boosts.neutral, boosts.detail
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    bare50, bare99 = np.percentile(bare, [50, 99]) * 1000
    return {"p50": float(p50), "p99": float(p99), "bare p50": float(bare50), "bare p99": float(bare99)}


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--documents", type=int, default=1_000_000)
    arguments.add_argument("--rate", type=int, default=20_000, help="events a second that the worker counts meanwhile")
    arguments.add_argument("--seconds", type=float, default=20, help="of reading lists of each length")
    arguments.add_argument("--json", action="store_true", help=f"also write {RESULTS}/boost_reads.json")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(told(main))
