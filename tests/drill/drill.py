"""A drill: everything runs, a seeded nemesis breaks it, and an independent recount says whether anything was lost."""

import contextlib
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clickwell.devstack.process import Child

from .invariants import Checker, Findings, judge_reader
from .nemesis import Nemesis
from .schedule import schedule
from .stage import Stage
from .traffic import Senders, spooling
from .watch import Watch

LOOK_PAUSE = (6.0, 15.0)
# Eight processes start at once, on a machine that may have other things to do.
START_SECONDS = 240.0


class Reader(Child):
    """The reranker beside the drill."""

    def __init__(self, stage: Stage) -> None:
        super().__init__("reader", stage.folder / "log" / "reader.log")
        self._url = stage.valkey.url
        self.report = stage.folder / "reader.json"

    def command(self) -> list[str]:
        """Return its command line."""
        return [sys.executable, str(Path(__file__).with_name("reader.py")), self._url, str(self.report)]


@dataclass
class Outcome:
    """How a drill went.

    Attributes:
        faults: how many struck.
        stall: the longest time in seconds in which nothing was counted.
        found: what the checks found.
    """

    faults: int
    stall: float
    found: Findings

    def __str__(self) -> str:
        found = self.found
        return (
            f"{self.faults} faults, {found.events} events, {found.lost} lost, {found.doubled} double counted, "
            f"longest stall {self.stall:.1f} s"
        )


def drill(folder: Path, seconds: float, seed: int, say: Callable[[str], None]) -> Outcome:
    """Run a drill; the schedule is written to `schedule.txt`, what every process says to `log/`.

    Args:
        folder: empty, for everything.
        seconds: how long faults strike.
        seed: the same seed makes the same schedule and the same events, though not the same interleaving.
        say: told what happens.
    """
    faults = schedule(seed, seconds)
    (folder / "schedule.txt").write_text("".join(f"{fault}\n" for fault in faults))
    rng = random.Random(seed)
    with Stage(folder) as stage:
        senders = Senders(
            stage.settings,
            spooling(stage.settings, stage.broker_of("emitter"), folder / "spool"),
            stage.api_port,
            seed,
        )
        with contextlib.closing(Checker(stage, senders, say)) as checker:
            watch, nemesis = Watch(stage), Nemesis(stage, senders, faults, seed, say)
            with senders.sending():
                stage.wait_applied(500, timeout=START_SECONDS)
                say("everything works; now it is broken")
                _strike(stage, watch, nemesis, checker, senders, rng, say)
            checker.found.problems += [*watch.broken[:5], *senders.errors]
            checker.end()
            if checker.found.problems:
                # Its disk goes with the stage.
                shutil.copytree(stage.lake, folder / "lake")
    return Outcome(nemesis.struck, watch.longest, checker.found)


def _strike(
    stage: Stage,
    watch: Watch,
    nemesis: Nemesis,
    checker: Checker,
    senders: Senders,
    rng: random.Random,
    say: Callable[[str], None],
) -> None:
    """Let faults strike, and look now and then, until the schedule is over or something is wrong."""
    reader = Reader(stage)
    reader.spawn()
    watch.start()
    nemesis.start()
    try:
        while nemesis.is_alive() and not (checker.found.problems or watch.broken or senders.errors):
            nemesis.join(rng.uniform(*LOOK_PAUSE))
            checker.look()
            say(f"  {nemesis.struck} faults, looked {dict(checker.found.looks)}, stall {watch.longest:.1f} s")
    finally:
        nemesis.stop()
        watch.stop()
        reader.stop()
    if nemesis.error:
        raise nemesis.error
    say(f"readers: {judge_reader(reader.report.read_text(), checker.found)}")
