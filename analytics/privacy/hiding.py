"""What is to be erased is hidden from readers as soon as it is asked for, beside the work, which may wait for long."""

import logging
import threading
from collections import Counter
from typing import Any

from clickwell.analytics.privacy.histories import hide, people_of
from clickwell.analytics.privacy.receipts import Receipts
from clickwell.erasures import ErasureLog, Request, mark
from clickwell.errors import ClickwellError
from clickwell.redis_client import connect
from clickwell.schemas.marks import Keys
from clickwell.settings import Settings
from clickwell.sinks import erase
from clickwell.sinks.standing import exists
from clickwell.sinks.table import TABLES

log = logging.getLogger(__name__)


class Hider(threading.Thread):
    """Follows the requests and hides their events; several at once do no harm.

    Args:
        settings: where the lake and Redis are.
        requests: the log of requests; may be shared.
        keys: under which users have pseudonyms.
        stopping: set to end it.

    Attributes:
        removed: entries of histories that were removed, by erasure id.
    """

    def __init__(self, settings: Settings, requests: ErasureLog, keys: Keys, stopping: threading.Event) -> None:
        super().__init__(name="hider", daemon=True)
        self.removed: Counter[str] = Counter()
        self._settings = settings
        self._log = requests
        self._keys = keys
        self._stopping = stopping
        self._receipts = Receipts(settings)
        self._hidden: list[dict[str, Any]] | None = None
        self._removed_of: set[str] = set()

    def run(self) -> None:
        """Work until stopped."""
        while not self._stopping.is_set():
            try:
                self._log.catch_up()
                pending = self.before("rewritten")
                self._hide_in_the_lake(pending)
                self._remove_histories(pending)
            except ClickwellError as error:
                log.warning("erased events cannot be hidden: %s", error.message)
            self._stopping.wait(self._settings.privacy.poll_seconds)

    def before(self, step: str) -> list[Request]:
        """Return the requests for which a step has not been done; may be called from any thread."""
        batches = list(self._log.batches.values())
        done = {each.erasure_id for batch in batches if batch.past(step) for each in batch.subjects}
        pending = {name: request for name, request in list(self._log.requests.items()) if name not in done}
        receipts = {receipt["erasure_id"] for receipt in self._receipts.read()} if pending else set()
        return [request for name, request in pending.items() if name not in receipts]

    def _hide_in_the_lake(self, pending: list[Request]) -> None:
        wanted = [
            {"kind": kind, "value": name, "since": request.erasure.since, "until": request.erasure.until}
            for request in pending
            for kind, value in [request.erasure.subject]
            for name in (self._keys.names(value) if kind == "user_id" else [value])
        ]
        if wanted != self._hidden:
            for table in TABLES:
                if exists(self._settings, table):
                    erase.hide(self._settings, table, wanted)
            self._hidden = wanted

    def _remove_histories(self, pending: list[Request]) -> None:
        """Remove the histories of users of whom all goes, once; what is added meanwhile goes with the rest."""
        new = [
            (request, subject)
            for request in pending
            if request.erasure.erasure_id not in self._removed_of
            and (subject := mark(request.erasure, request.received_ms, self._keys)).whole_user
        ]
        if new:
            with connect(self._settings) as client:
                self.removed += hide(client, people_of(new, self._keys), self._settings.history.signals)
            self._removed_of |= {subject.erasure_id for _, subject in new}
