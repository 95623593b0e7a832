"""A reranker beside a drill: asks for boosts all the time, and tells how long it took and whether it ever failed.

Run as a program, with the address of Redis and the file for its report; ends when it is told to (SIGTERM).
"""

import json
import random
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from clickwell.serving.boosts import BoostReader

DOCUMENTS = 100
EVERY_SECONDS = 0.03


def main(url: str, report: Path) -> None:
    """Read until told to stop, then write the report: the reader's own counters, errors, p50 and p99 in ms."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    rng, seconds, errors = random.Random(1), list[float](), list[str]()
    with BoostReader(url) as reader:
        while not stopping.wait(EVERY_SECONDS):
            wanted = [f"doc-{rng.randrange(2000)}" for _ in range(DOCUMENTS)]
            began = time.perf_counter()
            try:
                found = reader.boosts(wanted)
                if len(found) != DOCUMENTS or any(each.boost < 1 for each in found):
                    errors.append(f"{len(found)} boosts for {DOCUMENTS} documents, or one below 1")
            except Exception as error:  # noqa: BLE001  # that none gets out is what is tested
                errors.append(repr(error))
            seconds.append(time.perf_counter() - began)
        stats = asdict(reader.stats)
    seconds.sort()
    p50, p99 = (1000 * seconds[int(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    report.write_text(json.dumps({**stats, "errors": errors[:20], "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
