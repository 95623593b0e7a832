"""Redis that crashes, forgets, refuses and stays silent, each time followed by the recount."""

import asyncio
import random
import re
import threading
import time
from typing import Self

import pytest
import redis

from clickwell.stream_processors.rebuild import Rebuild
from tests.processes import wait_for

from . import oracle
from .harness import Stack, cut_log, ended
from .proxy import Proxy

pytestmark = [pytest.mark.fault, pytest.mark.broker]


def stored(stack: Stack) -> int:
    """Return the sum of all offsets in Redis."""
    return sum(sum(shards) for shards in oracle.offsets(stack.client).values())


def test_append_only_file_is_cut(stack: Stack) -> None:
    """A Redis that forgets its last writes is written to again from where it stands."""
    rng = random.Random(11)
    forgotten = []
    with stack.load(seed=11):
        workers = stack.work(2)
        stack.wait_applied()
        for turn in range(6):
            time.sleep(rng.uniform(1.5, 4))
            # Every other time nothing is in flight, so that it can be told how much was forgotten.
            for worker in workers if turn % 2 else ():
                worker.pause()
            before = stored(stack)
            stack.valkey.kill()
            cut_log(stack.folder, rng)
            stack.valkey.start()
            forgotten.append(before - stored(stack))
            for worker in workers:
                worker.resume()
            stack.wait_applied()
    assert max(forgotten[1::2]) > 0
    stack.assert_exact()


def test_redis_comes_back_empty(stack: Stack) -> None:
    """A new, empty Redis under the old address gets its functions and all counts back."""
    with stack.load(seed=12):
        stack.work(2)
        stack.wait_applied()
        for _ in range(2):
            time.sleep(2)
            stack.valkey.kill()
            for file in (stack.folder / "valkey" / "appendonlydir").iterdir():
                file.unlink()
            stack.valkey.start()
            assert not stack.client.exists("{cw1}:active")
            stack.wait_applied()
    stack.assert_exact()


def test_functions_are_lost(stack: Stack) -> None:
    """A Redis that has kept its data and lost its functions gets them back."""
    with stack.load(seed=13):
        stack.work()
        stack.wait_applied()
        stack.client.function_flush()
        stack.wait_applied()
    stack.assert_exact()


def test_redis_is_full(stack: Stack) -> None:
    """A worker that is started while Redis has no memory left says so, and counts when there is some."""
    stack.publish(seed=18, count=1000)
    stack.client.config_set("maxmemory", 1 << 20)
    try:
        (worker,) = stack.work()
        assert ended(worker, 30) == 4
    finally:
        stack.client.config_set("maxmemory", 0)
    assert worker.said("Redis does not take the workers' functions")
    assert not worker.said("fault of clickwell")
    stack.work()
    stack.assert_exact()


class Reader(threading.Thread):
    """Reads all totals through the pointer again and again, as a reader that trusts it would."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(name="reader", daemon=True)
        self.client = redis.Redis(port=stack.valkey.port)
        self.seen: list[tuple[str, int]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        """Poll until stopped."""
        while not self.stopped.is_set():
            if pointer := self.client.get("{cw1}:active"):
                name = re.search(rb'"name":"(\w+)"', pointer)[1].decode()
                total = sum(oracle.read_rings(self.client, name, time.time_ns() // 1_000_000).values())
                # Counts that were replaced while they were read are read again, as clients are told to.
                if self.client.get("{cw1}:active") == pointer:
                    self.seen.append((name, total))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join(30)
        self.client.close()


def test_flushall_while_somebody_reads(stack: Stack) -> None:
    """After FLUSHALL readers see nothing, and then everything; during a rebuild always everything."""
    stack.publish(seed=14, count=20_000)
    stack.work(2)
    stack.assert_exact()
    total = sum(oracle.recount(oracle.read_topic(stack.kafka.address, oracle.INTERACTIONS), stack.now_ms()).values())
    with Reader(stack) as reader:
        before = stack.active()
        stack.client.flushall()
        wait_for(lambda: stack.active() not in {"", before}, 60, "the counts to come back")
        stack.settle()
        before = stack.active()
        stack.rebuild()
        wait_for(lambda: stack.active() != before, 60, "the rebuilt counts")
        wait_for(lambda: reader.seen and reader.seen[-1][0] == stack.active(), 20, "a look at them")
    halves = [(name, seen) for name, seen in reader.seen if seen != total]
    assert not halves, f"readers saw {halves[:5]} instead of {total}"
    stack.assert_exact()


def test_flushall_under_load(stack: Stack) -> None:
    """FLUSHALL in mid-run, twice in a row and again while counts are rebuilt, ends in exact counts."""
    rng = random.Random(15)
    with stack.load(seed=15):
        stack.work(2)
        for _ in range(6):
            time.sleep(rng.choice((0.0, 0.3, 2.0, 4.0)))
            stack.client.flushall()
    stack.assert_exact()


def test_rebuilds_in_quick_succession(stack: Stack) -> None:
    """A rebuild that is asked for as soon as the last one is done never removes what readers see."""
    stack.publish(seed=16, count=300)
    stack.work(IDLE_SECONDS="0.2")
    wait_for(stack.active, 30, "the first counts")

    async def begin() -> None:
        job = Rebuild(stack.settings)
        await job.begin()
        await job._client.aclose()

    with Reader(stack) as reader:
        for _ in range(8):
            asyncio.run(begin())
            wait_for(lambda: not stack.client.exists("{cw1}:building"), 30, "the rebuilt counts")
    assert len({total for _, total in reader.seen}) == 1, reader.seen
    stack.assert_exact()
    # What a worker leaves that dies between the flip and the removal.
    stack.client.sadd("{cw1}:discard", "left")
    stack.client.set("cw1:{s007}:left:c:doc", "x")
    wait_for(lambda: stack.generations() == {stack.active()}, 20, "the removal of old counts")
    stack.assert_exact()


def test_replies_are_lost(stack: Stack) -> None:
    """Calls whose effect took place but whose reply never came are not counted again."""
    with Proxy(stack.valkey.port, every=7) as proxy, stack.load(seed=17):
        stack.work(2, redis_port=proxy.port)
        stack.wait_applied()
        wait_for(lambda: proxy.cuts >= 15, 60, "15 lost replies")
    stack.kill_workers()
    stack.work()
    stack.assert_exact()


def test_redis_is_silent(stack: Stack) -> None:
    """A frozen Redis costs time and nothing else; the watchdog does not mistake it for a worker's fault."""
    with stack.load(seed=18):
        (worker,) = stack.work()
        stack.wait_applied()
        stack.valkey.pause()
        time.sleep(9)
        stack.valkey.resume()
        stack.wait_applied()
    stack.assert_exact()
    assert worker.exits == []


def test_evicting_redis_is_refused(stack: Stack) -> None:
    """A Redis that may evict counters is refused with one clear line and exit code 4."""
    stack.client.config_set("maxmemory-policy", "allkeys-lru")
    (worker,) = stack.work()
    assert ended(worker, 20) == 4
    assert worker.said(r"evicts keys \(maxmemory-policy allkeys-lru\)")
    assert "Traceback" not in worker.output()


def test_window_ends_without_writers(stack: Stack) -> None:
    """One window after the last event every total reads 0 though all writers are dead, and every ring expires."""
    from clickwell.schemas.rings import Layout, totals

    stack.publish(seed=19, count=3000)
    stack.work()
    stack.assert_exact()
    stack.kill_workers()
    keys = list(stack.client.scan_iter(match="cw1:*:c:*", count=5000))
    rings = stack.client.mget(keys)
    layout = Layout(slot_ms=oracle.SLOT_MS, window=oracle.WINDOW, signals=oracle.SIGNALS)
    now_ms, weights = stack.now_ms(), dict.fromkeys(oracle.SIGNALS, 1.0)
    assert totals(rings, layout, now_ms, weights).sum() > 0
    # Clients may be five minutes ahead, so the newest slot may be the next one.
    end_ms = now_ms + 300_000 + (oracle.WINDOW + 1) * oracle.SLOT_MS
    assert totals(rings, layout, end_ms, weights).sum() == 0
    pipeline = stack.client.pipeline(transaction=False)
    for key in keys:
        pipeline.pexpiretime(key)
    assert all(now_ms < expires <= end_ms for expires in pipeline.execute())
