"""Checks the rules on the lake, remembers which alerts are open, and tells those who asked to know.

An alert is told when it opens and when it closes: to the log, to a webhook (POST of one JSON object), and as a
Prometheus gauge. The webhook gets each of them at least once: what it did not take is told again at the next check.
"""

import json
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

from clickwell import metrics
from clickwell.analytics.alerts import RULES, WEEKS, WINDOWS, Finding, check
from clickwell.analytics.hourly import hours
from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.errors import InputError
from clickwell.exposition import page
from clickwell.metrics import Sample
from clickwell.settings import Settings

FILE = "alerts.json"
# Closed alerts are kept for the reports of so many days.
KEPT_DAYS = 35

log = logging.getLogger("clickwell.alerts")


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        rule, retriever_id: which, whose.
        since_ms: when it was first found.
        until_ms: when it was found no more; None while it is open.
        window_hours, before, after, evidence, sentence: as last found, see `Finding`.
        told: whether the webhook has taken what is to be told of it by now.
    """

    rule: str
    retriever_id: str
    since_ms: int
    until_ms: int | None
    window_hours: int
    before: float
    after: float
    evidence: int
    sentence: str
    told: bool = False

    @property
    def state(self) -> str:
        """`open` or `closed`."""
        return "open" if self.until_ms is None else "closed"


@dataclass(frozen=True)
class Book:
    """The alerts that are open, and those that closed lately; the newest last.

    Attributes:
        checked_ms: time of the last check; None before the first.
        retrievers: how many were checked then.
        alerts: all of them.
    """

    checked_ms: int | None = None
    retrievers: int = 0
    alerts: tuple[Alert, ...] = ()

    @property
    def open(self) -> list[Alert]:
        """Those that are open."""
        return [alert for alert in self.alerts if alert.until_ms is None]

    @classmethod
    def read(cls, settings: Settings) -> Self:
        """Read the book of the data folder; an empty one where there is none.

        Raises:
            InputError: the file is there and cannot be read.
        """
        path = settings.data / FILE
        try:
            content = json.loads(path.read_text())
            return cls(content["checked_ms"], content["retrievers"], tuple(Alert(**each) for each in content["alerts"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path} cannot be read: {error}", fix=f"remove it: what is wrong now is found again; `rm {path}`"
            ) from None

    def write(self, settings: Settings) -> None:
        """Write the book, all of it or nothing.

        Raises:
            InputError: the folder cannot be written.
        """
        replace_file(settings.data / FILE, json.dumps(asdict(self), indent=1) + "\n")

    def after(self, found: Sequence[Finding], at_ms: int, retrievers: int) -> "Book":
        """Return the book after a check; whatever is not found any more closes."""
        new = {(finding.rule, finding.retriever_id): finding for finding in found}
        alerts = []
        for alert in self.alerts:
            finding = new.pop((alert.rule, alert.retriever_id), None) if alert.until_ms is None else None  # type: ignore[arg-type]
            if alert.until_ms is not None:
                if at_ms - alert.until_ms < KEPT_DAYS * MS_PER_DAY:
                    alerts.append(alert)
            elif finding is None:
                alerts.append(replace(alert, until_ms=at_ms, told=False))
            else:
                alerts.append(replace(alert, **_measured(finding)))
        opened = (
            Alert(finding.rule, finding.retriever_id, at_ms, None, **_measured(finding)) for finding in new.values()
        )
        return Book(at_ms, retrievers, (*alerts, *opened))


def run(settings: Settings, now_ms: int) -> Book:
    """Check every retriever at the last full hour, write the book, and tell what opened and what closed.

    Raises:
        LakeError: there is no table of searches, or its storage does not answer.
        InputError: the book or the gauge cannot be read or written.
    """
    at_ms = now_ms // MS_PER_HOUR * MS_PER_HOUR
    begin = at_ms - (WEEKS * 7 * 24 + max(WINDOWS)) * MS_PER_HOUR
    book = Book.read(settings)
    found: list[Finding] = []
    counted = hours(settings, begin, at_ms, at_ms - max(WINDOWS) * MS_PER_HOUR)
    for each in counted:
        was_open = frozenset(
            rule for rule in RULES if any(a.rule == rule and a.retriever_id == each.retriever_id for a in book.open)
        )
        found += check(each, at_ms, was_open)
    book = told(settings, book.after(found, at_ms, len(counted)))
    book.write(settings)
    if settings.alerts.prometheus:
        replace_file(settings.alerts.prometheus, page(lambda: samples(book)))
    return book


def told(settings: Settings, book: Book) -> Book:
    """Tell what has not been told yet, and return the book with what was."""
    alerts = []
    for alert in book.alerts:
        if alert.told:
            alerts.append(alert)
            continue
        log.warning("alert %s: %s, retriever %r: %s", alert.state, alert.rule, alert.retriever_id, alert.sentence)
        alerts.append(replace(alert, told=_post(settings, alert)))
    return replace(book, alerts=tuple(alerts))


def message(alert: Alert) -> dict[str, Any]:
    """Return what a webhook gets: the alert's fields, `state`, and `text`, which chat systems show as it is."""
    fields = asdict(alert)
    del fields["told"]
    text = f"clickwell: {alert.rule} {alert.state} for retriever {alert.retriever_id!r}: {alert.sentence}"
    return {"state": alert.state, "text": text, **fields}


def samples(book: Book) -> Iterator[Sample]:
    """Yield the gauges of a book: whether each alert is open, and when they were checked."""
    states: dict[tuple[str, str], int] = {}
    for alert in book.alerts:
        key = (alert.rule, alert.retriever_id)
        states[key] = max(states.get(key, 0), int(alert.until_ms is None))
    for labels, value in sorted(states.items()):
        yield metrics.ALERT_OPEN(value, *labels)
    if book.checked_ms is not None:
        yield metrics.ALERTS_CHECKED(book.checked_ms / 1000)


def open_now(settings: Settings) -> Iterator[Sample]:
    """Yield the gauges of the book of the data folder; none while it cannot be read."""
    with suppress(InputError):
        yield from samples(Book.read(settings))


def replace_file(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, never a part.

    Raises:
        InputError: it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def _measured(finding: Finding) -> dict[str, Any]:
    names = ("window_hours", "before", "after", "evidence", "sentence")
    return {name: getattr(finding, name) for name in names}


def _post(settings: Settings, alert: Alert) -> bool:
    """Send an alert to the webhook; tell whether nothing is left to send."""
    address = settings.alerts.webhook.get_secret_value()
    if not address:
        return True
    request = urllib.request.Request(  # noqa: S310  # the settings allow http and https only
        address, json.dumps(message(alert)).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=settings.alerts.webhook_seconds):  # noqa: S310
            return True
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer, too, with its connection
        # Not the address, which may hold a token; an HTTPException may quote it.
        why = type(error).__name__ if isinstance(error, HTTPException) else error
        log.warning("the webhook did not take an alert, which is told again at the next check: %s", why)
        return False
