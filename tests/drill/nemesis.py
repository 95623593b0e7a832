"""Carries out a schedule of faults: each is a context that breaks something when entered and mends it when left."""

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewPartitions

from clickwell.devstack.process import Child
from tests.faults.harness import cut_log
from tests.faults.proxy import REPLIES, REQUESTS
from tests.processes import CLICKWELL

from .schedule import Fault
from .stage import Stage
from .traffic import Senders

# Places where a process can be told to die, and visits up to which it may live.
FAILPOINTS = {
    "worker": ("before_apply", "between_shards", "after_apply", "before_dead_letter", "after_dead_letter"),
    "sink": (
        "before_files",
        "after_files",
        "after_commit",
        "before_dead_letter",
        "after_dead_letter",
        "before_compaction",
    ),
    "eraser": (
        "before_fences",
        "between_fences",
        "after_fences",
        "between_retractions",
        "before_rewrite",
        "after_rewrite",
    ),
}
MOST_VISITS = 20
# What a clock may be wrong by: minutes behind, days behind, a little ahead, and so far ahead that events are refused.
WRONG_CLOCKS = (-600_000, -3 * 86_400_000, 240_000, 3_600_000)
MOST_PARTITIONS = 12
# A megabyte is less than Valkey needs for nothing.
LITTLE_MEMORY = 1 << 20
# Answers of servers that are away, because of another fault.
AWAY = (redis.RedisError, KafkaException)

Break = Callable[[Stage, Senders, str, random.Random], AbstractContextManager[None]]


class Nemesis(threading.Thread):
    """Strikes as the schedule says.

    Args:
        stage: what to break.
        senders: whose clocks go wrong.
        faults: the schedule.
        seed: of what chance decides within a fault.
        say: told one line for each fault.

    Attributes:
        struck: how many faults were carried out; those on a server that was away are not.
        error: why it ended early: the drill itself has failed then.
    """

    def __init__(
        self, stage: Stage, senders: Senders, faults: Sequence[Fault], seed: int, say: Callable[[str], None]
    ) -> None:
        super().__init__(name="nemesis", daemon=True)
        self.struck = 0
        self.error: BaseException | None = None
        self._stage, self._senders, self._faults, self._say = stage, senders, faults, say
        self._rng = random.Random(seed)
        self._stopped = threading.Event()
        self._broken: list[tuple[float, Fault, AbstractContextManager[None]]] = []

    def run(self) -> None:
        """Break and mend until the schedule is over or `stop` is called; in the end everything is mended."""
        began = time.monotonic()
        try:
            for fault in self._faults:
                self._wait_mending(began + fault.at)
                if self._stopped.is_set():
                    break
                # A server that took long to come back must not make the following faults come all at once.
                began = max(began, time.monotonic() - fault.at)
                self._strike(fault, began)
            while self._broken and not self._stopped.is_set():
                self._wait_mending(self._broken[0][0])
        except BaseException as error:  # noqa: BLE001  # told by who waits for this thread
            self.error = error
        finally:
            self._mend(until=float("inf"))

    def stop(self) -> None:
        """Mend everything and end."""
        self._stopped.set()
        self.join()

    def _strike(self, fault: Fault, began: float) -> None:
        context = BREAKS[fault.kind](self._stage, self._senders, fault.target, self._rng)
        try:
            context.__enter__()
        except AWAY as error:
            self._say(f"{fault}: not now, {error}")
            return
        self.struck += 1
        self._say(f"{fault}")
        self._broken.append((began + fault.at + fault.lasts, fault, context))
        self._broken.sort(key=lambda each: each[0])

    def _wait_mending(self, until: float) -> None:
        """Wait, and mend what is due meanwhile."""
        while not self._stopped.is_set():
            self._mend(time.monotonic())
            following = min([until, *(at for at, _, _ in self._broken)])
            if self._stopped.wait(max(0.0, following - time.monotonic())) or time.monotonic() >= until:
                self._mend(time.monotonic())
                return

    def _mend(self, until: float) -> None:
        while self._broken and self._broken[0][0] <= until:
            _, fault, context = self._broken.pop(0)
            try:
                context.__exit__(None, None, None)
            except AWAY as error:
                self._say(f"mending {fault}: {error}")


def _child(stage: Stage, name: str) -> Child:
    servers = {"broker": stage.kafka, "redis": stage.valkey}
    return servers[name] if name in servers else stage.part(name)


@contextmanager
def kill(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Kill a process; the supervisor starts it again."""
    stage.part(target).kill()
    yield


@contextmanager
def stop(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Ask a process to end; the supervisor starts it again."""
    stage.part(target).terminate()
    yield


@contextmanager
def failpoint(stage: Stage, _senders: Senders, target: str, rng: random.Random) -> Iterator[None]:
    """Kill a process, and its successor at a named place in its code."""
    part = stage.part(target)
    place = rng.choice(FAILPOINTS[target.split("-", maxsplit=1)[0]])
    part.failpoints.append(f"{place}:{rng.randint(1, MOST_VISITS)}")
    part.kill()
    yield


@contextmanager
def freeze(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Let a process stand still, as a long pause of its host does."""
    child = _child(stage, target)
    child.pause()
    yield
    child.resume()


@contextmanager
def partition(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Cut a client's connections, and refuse new ones."""
    link = stage.links[target]
    link.refuses = True
    link.cut()
    yield
    link.heal()


@contextmanager
def half_open(stage: Stage, _senders: Senders, target: str, rng: random.Random) -> Iterator[None]:
    """Let nothing through, in one direction or both, on connections that look open."""
    link = stage.links[target]
    link.held = rng.choice(((REQUESTS, REPLIES), (REQUESTS,), (REPLIES,)))
    yield
    link.heal()


@contextmanager
def lose_replies(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Let requests through, and their replies get lost."""
    link = stage.links[target]
    link.held = (REPLIES,)
    yield
    link.cut()
    link.heal()


@contextmanager
def slow_link(stage: Stage, _senders: Senders, target: str, rng: random.Random) -> Iterator[None]:
    """Let everything arrive late."""
    link = stage.links[target]
    link.delay = rng.uniform(0.05, 0.3)
    yield
    link.heal()


@contextmanager
def slow_disk(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Let a process' writes to files take long."""
    stage.slow.slow(target)
    yield
    stage.slow.heal(target)


@contextmanager
def full_disk(stage: Stage, _senders: Senders, _target: str, _rng: random.Random) -> Iterator[None]:
    """Fill the disk of the lake."""
    stage.disk.fill()
    yield
    stage.disk.empty()


@contextmanager
def crash(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Kill a server, and start it again later."""
    server = stage.kafka if target == "broker" else stage.valkey
    with _forgetful(stage, target == "redis"):
        server.kill()
        yield
        server.start()


@contextmanager
def power_loss(stage: Stage, _senders: Senders, _target: str, rng: random.Random) -> Iterator[None]:
    """Kill Valkey, take the end of its file away, and start it again."""
    with _forgetful(stage):
        stage.valkey.kill()
        cut_log(stage.folder, rng)
        stage.valkey.start()
    yield


@contextmanager
def full_memory(stage: Stage, _senders: Senders, _target: str, _rng: random.Random) -> Iterator[None]:
    """Let Redis refuse whatever needs memory."""
    stage.client.config_set("maxmemory", LITTLE_MEMORY)
    yield
    stage.client.config_set("maxmemory", 0)


@contextmanager
def empty(stage: Stage, _senders: Senders, _target: str, rng: random.Random) -> Iterator[None]:
    """Empty Redis, sometimes of its functions, too."""
    with _forgetful(stage):
        stage.client.flushall()
        if rng.random() < 0.5:
            stage.client.function_flush()
    yield


@contextmanager
def forget_functions(stage: Stage, _senders: Senders, _target: str, _rng: random.Random) -> Iterator[None]:
    """Empty Redis of its functions."""
    stage.client.function_flush()
    yield


@contextmanager
def rebuild(stage: Stage, _senders: Senders, _target: str, _rng: random.Random) -> Iterator[None]:
    """Begin to count again, if the servers are there."""
    command = [*CLICKWELL, "rebuild", "--no-wait", "--data", str(stage.folder)]
    addresses = {
        "CLICKWELL_KAFKA__BOOTSTRAP_SERVERS": stage.kafka.address,
        "CLICKWELL_REDIS__URL": stage.valkey.url,
    }
    with subprocess.Popen(command, env=os.environ | addresses, stderr=subprocess.DEVNULL) as run:
        yield
        run.wait(60)


@contextmanager
def third_worker(stage: Stage, _senders: Senders, target: str, rng: random.Random) -> Iterator[None]:
    """Let another worker come and go."""
    guest = stage.worker(target)
    stage.keep(guest)
    yield
    stage.dismiss(guest)
    if rng.random() < 0.5:
        guest.kill()
    else:
        guest.stop(25)


@contextmanager
def add_partition(stage: Stage, _senders: Senders, target: str, _rng: random.Random) -> Iterator[None]:
    """Let a topic grow."""
    count = len(stage.admin.list_topics(target, timeout=2).topics[target].partitions) + 1
    if count <= MOST_PARTITIONS:
        stage.admin.create_partitions([NewPartitions(target, count)])[target].result()
    yield


@contextmanager
def wrong_clocks(_stage: Stage, senders: Senders, _target: str, rng: random.Random) -> Iterator[None]:
    """Let the senders say wrong times."""
    senders.skew_ms = rng.choice(WRONG_CLOCKS)
    yield
    senders.skew_ms = 0


@contextmanager
def _forgetful(stage: Stage, declared: bool = True) -> Iterator[None]:
    """Declare that Redis may forget something now, so that nobody takes it for a lost offset."""
    stage.rollbacks += declared
    yield
    stage.rollbacks += declared


BREAKS: dict[str, Break] = {
    "kill": kill,
    "die at a failpoint of": failpoint,
    "stop": stop,
    "freeze": freeze,
    "partition": partition,
    "half-open": half_open,
    "lose replies on": lose_replies,
    "slow link": slow_link,
    "slow disk of": slow_disk,
    "full disk of": full_disk,
    "crash": crash,
    "power loss of": power_loss,
    "full memory of": full_memory,
    "empty": empty,
    "forget functions of": forget_functions,
    "rebuild": rebuild,
    "third worker": third_worker,
    "add a partition to": add_partition,
    "wrong clocks of": wrong_clocks,
}
