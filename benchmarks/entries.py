"""The contestants: how each is started, how far it is, and what it has counted."""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import redis
from environments import install, python_of

from clickwell.devstack.process import Child
from clickwell.producers.topics import end_offsets
from clickwell.redis_client import active_generation
from clickwell.schemas.keys import ACTIVE, BUILDING
from clickwell.schemas.topics import INTERACTIONS
from clickwell.serving.counts import rows_of
from clickwell.serving.progress import wait_applied
from clickwell.settings import STACK_FILE, Settings

HERE = Path(__file__).parent
SLOT_MS = 6 * 3_600_000
Cells = Counter[tuple[str, str, int]]
"""(feature_id, signal, start of the slot in epoch ms) -> count."""

QUIX_VERSION = "3.28.1"

# Records that the slowest lane has applied. Of each partition the furthest shard counts: a shard that the last records
# did not touch is only moved along two seconds later. A third of the shards shows it; the step is odd because the
# documents of one partition lie in shards that are all even or all odd.
_APPLIED = f"""
local pointer = redis.call('GET', '{BUILDING}') or redis.call('GET', '{ACTIVE}')
if not pointer then return 0 end
local name, furthest = cjson.decode(pointer).name, {{}}
for shard = 0, 63, 3 do
  local ledger = redis.call('HGETALL', string.format('cw1:{{s%03d}}:%s:o', shard, name))
  for i = 1, #ledger, 2 do
    if string.find(ledger[i], '/', 1, true) then
      local offset = tonumber(string.match(ledger[i + 1], '^%d+'))
      furthest[ledger[i]] = math.max(furthest[ledger[i]] or 0, offset)
    end
  end
end
local lanes, least = {{}}, nil
for field, offset in pairs(furthest) do
  local lane = string.match(field, '^[^/]+')
  lanes[lane] = (lanes[lane] or 0) + offset
end
for _, applied in pairs(lanes) do least = math.min(least or applied, applied) end
return least or 0
"""


class Contestant(Child):
    """A contestant's process; it dies with this one."""

    def __init__(self, name: str, folder: Path, command: list[str]) -> None:
        super().__init__(name, folder / "log" / f"{name}.log")
        self._command = command

    def command(self) -> list[str]:
        """Return the command line."""
        return self._command


class Entry(Protocol):
    """What a contestant must offer. `folder` holds stack.json with the addresses; `client` is of its own Valkey."""

    name: str
    title: str

    def command(self, folder: Path, settings: Settings, events: int) -> list[str]:
        """Return the command line."""
        ...

    def applied(self, client: redis.Redis) -> int:
        """Return how many events are applied."""
        ...

    def counts(self, client: redis.Redis, settings: Settings) -> Cells:
        """Return what it counted, once it has applied all."""
        ...


@dataclass(frozen=True)
class Worker:
    """The clickwell worker with some of its lanes: validation, dedup, four signals, trending and the ledger are on."""

    name: str
    title: str
    lanes: tuple[str, ...]

    def command(self, folder: Path, settings: Settings, events: int) -> list[str]:  # noqa: ARG002  # see Entry
        """Return the command line."""
        lanes = f"CLICKWELL_WORKER__LANES={json.dumps(self.lanes)}"
        return ["/usr/bin/env", lanes, sys.executable, "-m", "clickwell", "worker", "--data", str(folder)]

    def applied(self, client: redis.Redis) -> int:
        """Return how many events are applied."""
        answer: Any = client.eval_ro(_APPLIED, 0)
        return int(answer)

    def counts(self, client: redis.Redis, settings: Settings) -> Cells:
        """Return what it counted, once it has applied all."""
        wait_applied(settings, end_offsets(settings, [INTERACTIONS.name]), timeout=60)
        generation = active_generation(client)
        assert generation
        return Counter({(row.feature_id, row.signal, row.slot_start): row.count for row in rows_of(client, generation)})


@dataclass(frozen=True)
class Peer:
    """A script of `contestants/`, in an environment of its own where it needs one."""

    name: str
    title: str
    script: str
    python: Path = Path(sys.executable)

    def command(self, folder: Path, settings: Settings, events: int) -> list[str]:
        """Return the command line."""
        script = HERE / "contestants" / self.script
        bootstrap, url = settings.kafka.bootstrap_servers, settings.redis.url
        return [str(self.python), str(script), bootstrap, url, str(folder), str(events)]

    def applied(self, client: redis.Redis) -> int:
        """Return how many events are applied."""
        answer: Any = client.get("applied")
        return int(answer or 0)

    def counts(self, client: redis.Redis, settings: Settings) -> Cells:  # noqa: ARG002  # see Entry
        """Return what it counted, once it has applied all."""
        found: Cells = Counter()
        keys = list(client.scan_iter(match="counts:*", count=1000))
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            pipeline = client.pipeline(transaction=False)
            for key in some:
                pipeline.hgetall(key)
            for key, cells in zip(some, pipeline.execute(), strict=True):
                for field, n in cells.items():
                    signal, slot = field.decode().split(":")
                    found[key.decode().removeprefix("counts:"), signal, int(slot) * SLOT_MS] += int(n)
        return found


POPULARITY = Worker("clickwell", "clickwell, popularity", ("popularity",))

ENTRIES: tuple[Entry, ...] = (
    Peer("limit", "limit: fetch, decode, group", "limit.py"),
    POPULARITY,
    Worker("windows", "clickwell, and windows", ("popularity", "engagement")),
    Peer("quix", f"Quix Streams {QUIX_VERSION}", "quix.py", python_of("quix")),
    Peer("faust", "stock Faust", "stock_faust.py"),
)


def install_quix() -> None:
    """Make the environment of Quix Streams, which pins an older confluent-kafka than clickwell uses."""
    install("quix", f"quixstreams=={QUIX_VERSION}", "redis[hiredis]>=8.1,<9")


def write_addresses(folder: Path, kafka: str, redis_url: str) -> Settings:
    """Leave the addresses where `--data` finds them and return them as settings."""
    stack = Settings(data=folder, kafka={"bootstrap_servers": kafka}, redis={"url": redis_url})
    (folder / STACK_FILE).write_text(stack.model_dump_json(include={"kafka": {"bootstrap_servers"}, "redis": {"url"}}))
    return stack
