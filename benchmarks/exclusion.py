"""How long an exclusion takes for a user of 500 items, and how much of Redis a user takes.

Starts a Valkey of its own and lets the workers' own function remember what made-up users did. The limit is the one
command that has to be sent, by a bare redis-py client that makes nothing of the answer. Exit code 3: a bar was missed.

    python benchmarks/exclusion.py [--users 2000] [--items 500] [--reads 3000] [--json]
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import redis
from redis.asyncio import Redis

from clickwell import InteractionReader
from clickwell.clock import MS_PER_DAY
from clickwell.devstack.valkey import ValkeyServer
from clickwell.failpoints import Failpoints
from clickwell.schemas.keys import FRESH, SHARDS, history_key, shard_of
from clickwell.settings import HistorySettings, Settings
from clickwell.stream_processors.history import HistoryLane
from clickwell.stream_processors.ledger import Call, Ledger

BAR_MS = 2.0
FIELD = "history/id/0"
SIZES = (1, 10, 100, 500)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--users", type=int, default=2000, help="users of each size")
    arguments.add_argument("--items", type=int, default=500, help="purchases of the users whose exclusions are timed")
    arguments.add_argument("--reads", type=int, default=3000)
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    sizes = sorted({*SIZES, asked.items})
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder)) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendonly", "no")  # the file would only fill the disk
            client.hset(FRESH, FIELD, time.time_ns() // 1_000_000)
            for size in sizes:
                before = client.info("memory")["used_memory"]
                asyncio.run(fill(server.url, size, asked.users))
                memory[size] = (client.info("memory")["used_memory"] - before) / asked.users
        found, limit = read(server.url, asked.items, asked.users, asked.reads)
    met = found[1] < BAR_MS
    if asked.json:
        print(json.dumps({"items": asked.items, "exclusion_ms": found, "limit_ms": limit, "bytes": memory, "met": met}))
        return 0 if met else 3
    print(f"{asked.items} items, {asked.reads:,} reads{'p50 ms':>20}{'p99 ms':>10}")
    for name, (p50, p99) in (("exclusion, with its filter", found), ("limit: the bare command", limit)):
        print(f"{name:<32}{p50:>12.2f}{p99:>10.2f}")
    print(f"{'met   ' if met else 'MISSED'}  p99 < {BAR_MS:g} ms; {found[1] / limit[1]:.1f} x the limit")
    for size, size_bytes in memory.items():
        print(f"a user with {size:>4} purchases: {size_bytes:>8,.0f} bytes, {size_bytes / size:,.0f} an item")
    return 0 if met else 3


async def fill(url: str, items: int, users: int) -> None:
    """Let the workers' function remember `items` purchases of each user."""
    random.seed(7)
    now_ms = time.time_ns() // 1_000_000
    lane = HistoryLane(HistorySettings(), long_view_ms=30_000)
    client = Redis.from_url(url)
    ledger = Ledger(client, Failpoints(), timeout=60)
    await ledger.install()
    generation = f"fill{items}"
    await ledger.open(generation, FIELD, range(SHARDS), 0)
    shares: dict[int, dict[str, dict[str, int]]] = {}
    for user in (name_of(number, items) for number in range(users)):
        share = shares.setdefault(shard_of(user), {})
        share[f"purchase:{user}"] = {
            f"doc{random.randrange(10**9):09d}": now_ms - random.randrange(80 * MS_PER_DAY) for _ in range(items)
        }
    for shard, share in shares.items():
        await ledger.apply(generation, [Call(lane.function, FIELD, shard, 0, 1, 1, lane.arguments(share))])
    await client.aclose()


def read(url: str, items: int, users: int, reads: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return p50 and p99 in milliseconds of an exclusion and its filter, and of the bare command."""
    names = [name_of(random.randrange(users), items) for _ in range(reads)]
    settings = Settings(redis={"url": url}, boosts={"timeout": 1.0})
    since_ms = time.time_ns() // 1_000_000 - 90 * MS_PER_DAY
    with InteractionReader(settings) as reader, redis.Redis.from_url(url) as client:

        def exclusion(user: str) -> int:
            return len(reader.exclusion(user).filter["document_id"]["$nin"])

        def limit(user: str) -> int:
            return len(client.zrevrangebyscore(history_key(user, "purchase"), "+inf", since_ms, withscores=True))

        return timed(exclusion, names, items), timed(limit, names, items)


def timed(ask: Callable[[str], int], names: list[str], items: int) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds; the first call connects and is not counted."""
    assert ask(names[0]) == items
    took = []
    for name in names:
        begun = time.perf_counter()
        count = ask(name)
        took.append(time.perf_counter() - begun)
        assert count == items
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return float(p50), float(p99)


def name_of(user: int, items: int) -> str:
    """Return a 12-character user id."""
    return f"u{items:03d}-{user:07d}"


if __name__ == "__main__":
    sys.exit(main())
