"""What has to be done again and again for insights to be there when somebody looks: alerts and corrected popularity.

Each is a job with a pause of its own. A job that fails because something is away is tried again soon; a lake that
holds nothing yet is no failure. Both only read the lake and replace what they wrote before, so that it does no harm
when one is done twice, or when two processes do it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from clickwell.analytics import alerting, corrected
from clickwell.analytics.signals import retrievers
from clickwell.clock import SystemClock
from clickwell.errors import ClickwellError, NoTableError
from clickwell.settings import Settings

# What is away is mostly back within a minute, and nobody waits for these numbers longer than for the next full hour.
RETRY_SECONDS = 60.0

log = logging.getLogger("clickwell.insights")


@dataclass
class Job:
    """Something that is done every so many seconds.

    Attributes:
        name: for the log.
        every: seconds between two times.
        work: does it once and says what was done.
        due: when it is done next, on the clock of `turn`.
    """

    name: str
    every: float
    work: Callable[[], str]
    due: float = 0.0


def jobs(settings: Settings) -> list[Job]:
    """Return the jobs that the settings ask for."""
    found = [Job("alerts", settings.alerts.every_seconds, lambda: check(settings))]
    if settings.corrected.every_seconds:
        found.append(Job("corrected popularity", settings.corrected.every_seconds, lambda: publish(settings)))
    return found


def turn(todo: Sequence[Job], now: float) -> float:
    """Do what is due at a time, and return when something is next."""
    for job in todo:
        if job.due <= now:
            job.due = now + (job.every if _done(job) else min(job.every, RETRY_SECONDS))
    return min(job.due for job in todo)


def run(settings: Settings) -> None:
    """Do the jobs for ever; whoever wants an end interrupts it."""
    todo = jobs(settings)
    while True:
        time.sleep(max(0.0, turn(todo, time.monotonic()) - time.monotonic()))


def check(settings: Settings) -> str:
    """Look for alerts once.

    Raises:
        LakeError: there is no table of searches, or its storage does not answer.
        InputError: the book of alerts or the gauge cannot be read or written.
    """
    book = alerting.run(settings, SystemClock().now_ms())
    return f"{len(book.open)} open, {book.retrievers} retrievers checked"


def publish(settings: Settings) -> str:
    """Publish the corrected popularity of every retriever.

    Raises:
        LakeError: there is no table of searches, or its storage does not answer.
        RedisError: Redis is away.
    """
    today = datetime.now(UTC).date()
    since = today - timedelta(days=settings.corrected.days - 1)
    names, numbers = retrievers(settings, since, today), 0
    for name in names:
        found = corrected.popularity(settings, name, since=since, until=today)
        if not found.propensities.identifiable:
            log.warning("corrected popularity of %r: %s", name, found.propensities.note)
        numbers += corrected.publish(settings, name, found)
    return f"{numbers:,} numbers of {len(names)} retrievers published"


def _done(job: Job) -> bool:
    """Do a job and tell whether it was done; a failure is logged, as the next time may be better."""
    try:
        log.info("%s: %s", job.name, job.work())
    except NoTableError:
        log.info("%s: no searches in the lake yet", job.name)
    except ClickwellError as error:
        log.warning("%s: %s", job.name, error)
    except Exception:
        # One job that cannot be done must not keep the others from being done.
        log.exception("%s failed", job.name)
    else:
        return True
    return False
