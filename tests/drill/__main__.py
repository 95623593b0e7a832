"""The fault drill: breaks a real stack under traffic for a while and says whether anything was lost or counted twice.

    python -m tests.drill --seconds 600 --seed 1

Exit code 0: everything held; 1: an invariant is broken, and the seed, the schedule and the logs are named.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from .drill import drill


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=600, help="how long faults strike; the checks come after")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--folder", type=Path, help="keep everything there; else it goes if nothing is broken")
    asked = arguments.parse_args()
    # So that a drill that is told to end stops its processes and gives its disk back.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="clickwell-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    say(f"seed {asked.seed}, {asked.seconds:.0f} s of faults, everything in {folder}")
    outcome = drill(folder, asked.seconds, asked.seed, say)
    for problem in outcome.found.problems:
        print(f"BROKEN  {problem}")
    if outcome.found.problems:
        print(f"seed {asked.seed}; schedule: {folder}/schedule.txt; logs: {folder}/log")
    elif not asked.folder:
        shutil.rmtree(folder)
    print(outcome)
    return 1 if outcome.found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
