"""Which faults strike when: drawn from a seed, before anything runs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

WORKERS, SINKS = ("worker-1", "worker-2"), ("sink-1", "sink-2")
PROCESSES = (*WORKERS, *SINKS, "eraser", "api")
SERVERS = ("broker", "redis")
# Who talks to whom: each pair has a proxy of its own between it.
LINKS = (
    *(f"{name}/broker" for name in (*PROCESSES, "emitter")),
    *(f"{name}/redis" for name in (*WORKERS, "eraser", "api")),
)
# Longer than the sessions of 6 s: the broker gives the partitions to others, and takes them back from a zombie.
BRIEFLY, BEYOND_THE_SESSION = (0.5, 3.0), (8.0, 11.0)
PAUSE = (0.5, 4.0)
# Restarts of a rolling restart follow each other so closely.
ROLLING = 2.5


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: what is done, see `nemesis`.
        weight: how often, beside the others.
        targets: whom it may strike; never two faults on one target at once.
        lasts: range of its duration in seconds.
    """

    name: str
    weight: int
    targets: Sequence[str]
    lasts: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Fault:
    """One fault: `at` and `lasts` in seconds, the first from the beginning of the drill."""

    at: float
    kind: str
    target: str
    lasts: float

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind} {self.target}" + (f" for {self.lasts:.1f} s" if self.lasts else "")


KINDS = (
    Kind("kill", 6, PROCESSES),
    Kind("die at a failpoint of", 5, (*WORKERS, *SINKS, "eraser")),
    Kind("stop", 2, PROCESSES),
    Kind("freeze", 2, (*PROCESSES, *SERVERS), BRIEFLY),
    Kind("freeze", 3, (*WORKERS, *SINKS), BEYOND_THE_SESSION),
    Kind("partition", 3, LINKS, (1.0, 10.0)),
    Kind("half-open", 3, LINKS, (1.0, 10.0)),
    Kind("lose replies on", 3, LINKS, BRIEFLY),
    Kind("slow link", 1, LINKS, (2.0, 8.0)),
    Kind("slow disk of", 2, (*SINKS, "eraser", *SERVERS), (2.0, 8.0)),
    Kind("full disk of", 2, ("lake",), (2.0, 6.0)),
    Kind("crash", 2, ("broker",), BRIEFLY),
    Kind("crash", 2, ("redis",), BRIEFLY),
    Kind("power loss of", 2, ("redis",)),
    Kind("full memory of", 1, ("redis",), BRIEFLY),
    Kind("empty", 1, ("redis",)),
    Kind("forget functions of", 1, ("redis",)),
    Kind("rebuild", 1, ("counts",), (3.0, 6.0)),
    Kind("third worker", 2, ("worker-3",), (4.0, 12.0)),
    Kind("add a partition to", 1, ("interactions.v1", "searches.v1")),
    Kind("wrong clocks of", 2, ("senders",), (1.0, 5.0)),
    Kind("rolling restart of", 1, ("everything",)),
)


def schedule(seed: int, seconds: float, kinds: Sequence[Kind] = KINDS) -> list[Fault]:
    """Return the faults of a drill, the first one first; all are over before its end."""
    rng = random.Random(seed)
    faults: list[Fault] = []
    # Each kind comes once before chance decides, so that a short drill has met most of them.
    first = rng.sample(kinds, len(kinds))
    busy: dict[str, float] = {}
    at = rng.uniform(*PAUSE)
    while at < seconds:
        kind = first[0] if first else rng.choices(kinds, [kind.weight for kind in kinds])[0]
        free = [target for target in kind.targets if busy.get(target, 0.0) <= at]
        lasts = rng.uniform(*kind.lasts)
        if free and at + lasts < seconds:
            target = rng.choice(free)
            faults += _rolling(at, seconds) if target == "everything" else [Fault(at, kind.name, target, lasts)]
            busy[target] = at + lasts
            first = first[1:]
        at += rng.uniform(*PAUSE)
    return sorted(faults, key=lambda fault: fault.at)


def _rolling(at: float, seconds: float) -> list[Fault]:
    stops = [Fault(at + ROLLING * number, "stop", name, 0.0) for number, name in enumerate(PROCESSES)]
    return [stop for stop in stops if stop.at < seconds]
