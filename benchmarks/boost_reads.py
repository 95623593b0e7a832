"""How long a boost takes, and how much of Redis a document takes.

Starts a Valkey of its own, writes rings straight through the codec, and reads random lists as a reranker would.

    python benchmarks/boost_reads.py [--documents 1000000] [--reads 2000] [--json]
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import redis

from clickwell import BoostReader
from clickwell.devstack.valkey import ValkeyServer
from clickwell.schemas.keys import ACTIVE, FRESH, ring_keys
from clickwell.schemas.rings import Generation, Layout, encode
from clickwell.serving.formula import BoostByInteractionCount
from clickwell.settings import PopularitySettings, Settings

LAYOUT = Layout.of(PopularitySettings())
GENERATION = "tokzcc"  # as long as the names that workers give
BATCH = 5000
BARS = {"100 documents p99 ms": 1.0, "1000 documents p99 ms": 5.0, "click": 260, "four signals": 640}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--documents", type=int, default=1_000_000)
    arguments.add_argument("--reads", type=int, default=2000, help="lists of each length")
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    rows = []
    for name, signals in (("click", LAYOUT.signals[:1]), ("four signals", LAYOUT.signals)):
        with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder)) as server:
            size = fill(server.url, asked.documents, signals)
            rows.append({"what": f"{name}: bytes a document", "p50": size, "p99": None, "bar": BARS[name]})
            for length in (100, 1000):
                p50, p99 = read(server.url, asked.documents, length, asked.reads, signals)
                bar = BARS[f"{length} documents p99 ms"]
                rows.append({"what": f"{name}: {length} documents, ms", "p50": p50, "p99": p99, "bar": bar})
    if asked.json:
        print(json.dumps({"documents": asked.documents, "reads": asked.reads, "rows": rows}))
        return
    print(f"{asked.documents:,} documents, {asked.reads:,} reads of each kind")
    for row in [{"what": "", "p50": "p50", "p99": "p99", "bar": "bar"}, *rows]:
        cells = [f"{x:.2f}" if isinstance(x, float) else str(x or "") for x in (row["p50"], row["p99"], row["bar"])]
        print(f"{row['what']:<36}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10}")


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


def read(url: str, documents: int, length: int, reads: int, signals: tuple[str, ...]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds of one boost call for a random list."""
    stage = BoostByInteractionCount(interaction_types=dict.fromkeys(signals, 1.0))
    lists = [[name_of(d) for d in random.sample(range(documents), length)] for _ in range(reads)]
    took = []
    with BoostReader(Settings(redis={"url": url}, boosts={"timeout": 1.0})) as reader:
        reader.boosts(lists[0], stage)
        for documents_of_list in lists:
            begun = time.perf_counter()
            boosts = reader.boosts(documents_of_list, stage)
            took.append(time.perf_counter() - begun)
            assert not boosts.neutral
            assert boosts.counts.min() > 0
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return float(p50), float(p99)


if __name__ == "__main__":
    main()
