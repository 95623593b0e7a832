"""Dashboards whose numbers are known: a made-up site in a lake, a Valkey, and an API that serves them."""

import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import numpy as np
import redis

from clickwell.analytics import alerting
from clickwell.clock import MS_PER_DAY
from clickwell.devstack.process import free_port
from clickwell.devstack.valkey import ValkeyServer
from clickwell.schemas.keys import FRESH
from clickwell.settings import Settings
from clickwell.simulation import Life, Plan, Site, midnight
from tests.processes import CLICKWELL, own_environment, wait_for

START = datetime(2026, 1, 5, tzinfo=UTC).date()
BEGIN = midnight(START)
DAYS = 16
# Clicks are lost from here on.
FALL = 14.4
HOSTILE = [
    "<img src=x onerror=document.title='pwned'> " + "wide " * 190,
    "\u202egnissim si gnihtemos",
    "\u0643\u062a\u0627\u0628 \u0627\u0644\u0637\u0628\u062e",
    "",
    "\U0001f97e \u5c71\u7528\u9774",
]


def day(number):
    """A day of the site, counted from 0."""
    return START + timedelta(days=number)


class Served:
    """An API on a data folder, with a Valkey of its own and no broker."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.load(folder)
        self._ends = ExitStack()
        self._valkey = self._ends.enter_context(ValkeyServer(folder / "valkey"))
        self._environment = own_environment(
            CLICKWELL_REDIS__URL=self._valkey.url, CLICKWELL_KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start the API and wait until it answers."""
        command = [*CLICKWELL, "api", "--port", str(self.port), "--data", str(self.settings.data)]
        self._process = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)
        wait_for(self._answers, 60, "the API")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the API has ended"
        try:
            return httpx2.get(self.address + "/healthz").is_success
        except httpx2.HTTPError:
            return False

    def stop(self) -> None:
        """End the API, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def close(self) -> None:
        """End everything."""
        self.stop()
        self._ends.close()

    def counted(self, seconds_ago: float) -> None:
        """Make the counters look as a worker leaves them that had counted everything so many seconds ago."""
        stamp = round((time.time() - seconds_ago) * 1000)
        with redis.Redis.from_url(self._valkey.url) as client:
            client.hset(FRESH, "popularity/topic/0", str(stamp))


def write_site(settings: Settings) -> None:
    """Sixteen days of a shop that loses a third of its clicks in the end, and a shop with a dozen searches."""
    plan = Plan(queries=150, bad=len(HOSTILE), skipped=5, unfindable=4, seed=3)
    site = Site(plan)
    bad = [number for number, text in enumerate(site.truth.queries) if text in site.truth.bad]
    for number, text in zip(bad, HOSTILE, strict=True):
        site.truth.queries[number] = text
    life = Life(relevance=lambda at: np.where(at >= FALL, 0.65, 1.0))
    site.write(settings, start_ms=BEGIN, days=DAYS, searches=40_000, life=life, retriever="shop")
    Site(Plan(queries=20, seed=4)).write(
        settings, start_ms=BEGIN + 14 * MS_PER_DAY, days=1, searches=12, retriever="small", run=1
    )


def check_alerts(settings: Settings, at_day: float) -> alerting.Book:
    """Check for alerts as if it were that day of the site."""
    return alerting.run(settings, BEGIN + round(at_day * MS_PER_DAY))
