"""Looks at the offsets in Redis again and again: they never go back unless Redis forgot, and they move."""

import json
import threading
import time

import redis

from .stage import Stage

EVERY_SECONDS = 0.25

Ledger = dict[tuple[str, int, bytes], int]
"""(generation, shard, lane/topic id/partition) -> next offset."""


class Watch(threading.Thread):
    """Watches until it is stopped.

    Args:
        stage: whose Redis.

    Attributes:
        broken: one sentence for each offset that went back.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(name="watch", daemon=True)
        self._longest, self._moved = 0.0, time.monotonic()
        self.broken: list[str] = []
        self._stage = stage
        self._client = redis.Redis(port=stage.valkey.port, socket_timeout=2)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look, and compare with the look before."""
        before: Ledger = {}
        rollbacks, self._moved = 0, time.monotonic()
        while not self._stopped.wait(EVERY_SECONDS):
            at = self._stage.rollbacks
            try:
                now = read_ledger(self._client)
            except (redis.RedisError, OSError):
                continue
            if now and now != before:
                self._longest, self._moved = self.longest, time.monotonic()
            # Odd while Redis may be forgetting.
            if at % 2 == 0 and at == rollbacks == self._stage.rollbacks:
                back = [key for key in now.keys() & before.keys() if now[key] < before[key]]
                self.broken += [f"offset {key} went back from {before[key]} to {now[key]}" for key in back]
            before, rollbacks = now, at
        self._longest = max(self._longest, time.monotonic() - self._moved)

    @property
    def longest(self) -> float:
        """The longest time in seconds in which no offset moved, up to now."""
        return max(self._longest, 0.0 if self._stopped.is_set() else time.monotonic() - self._moved)

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self.join()
        self._client.close()


def read_ledger(client: redis.Redis) -> Ledger:
    """Return every offset of the counters in use and of those being built."""
    pointers = [json.loads(raw)["name"] for raw in client.mget("{cw1}:active", "{cw1}:building") if raw]
    places = [(name, shard) for name in pointers for shard in range(64)]
    pipeline = client.pipeline(transaction=False)
    for name, shard in places:
        pipeline.hgetall(f"cw1:{{s{shard:03d}}}:{name}:o")
    return {
        (*place, field): int(value.split()[0])
        for place, ledger in zip(places, pipeline.execute(), strict=True)
        for field, value in ledger.items()
        if field.count(b"/") == 2
    }
