"""The eraser: carries out every request of the erasures topic once, wherever it was broken off before.

Requests that wait are put into a batch; one batch is carried out at a time. Each step is written into the log when it
is done, and each may be begun again: the log says which fences and retractions are there, a file without erased rows is
not rewritten, what Redis no longer holds is not removed, and a receipt is written once.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast

import redis

from clickwell import exposition, metrics
from clickwell.analytics.exports import Export, exports_of
from clickwell.analytics.privacy import affected
from clickwell.analytics.privacy.fences import LogWriter, TakenOverError
from clickwell.analytics.privacy.hiding import Hider
from clickwell.analytics.privacy.histories import forget, people_of
from clickwell.analytics.privacy.receipts import Receipts
from clickwell.analytics.privacy.retractions import entries, retractions
from clickwell.clock import MS_PER_DAY
from clickwell.erasures import Batch, ErasureLog, Offsets, Request, Step, mark
from clickwell.errors import DependencyError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.metrics import Sample
from clickwell.privacy import load_keys, missing_key
from clickwell.redis_client import active_generation, connect, redis_errors
from clickwell.schemas.controls import Subject
from clickwell.schemas.erased import Subjects
from clickwell.schemas.keys import BUILDING, SHARDS, ledger_field, ledger_key
from clickwell.schemas.marks import UnknownKeyError
from clickwell.schemas.wire import new_id
from clickwell.sealing import store_of
from clickwell.settings import Settings
from clickwell.sinks import erase
from clickwell.sinks.standing import exists, wait_written
from clickwell.sinks.table import TABLES, Table
from clickwell.stream_processors.history import retract
from clickwell.stream_processors.ledger import library

log = logging.getLogger(__name__)

# A fence names every subject of its batch in one record.
MOST_SUBJECTS = 1000
# How long one attempt waits for the sinks before it says so, looks whether it is to stop, and waits on.
PATIENCE_SECONDS = 5.0
RETRY_SECONDS = 1.0


class StoppedError(Exception):
    """The eraser was told to stop; the next one goes on."""


class Eraser:
    """One eraser; the last one that was started is the only one that works.

    Args:
        settings: everything.
        stopping: set to end it.

    Raises:
        KafkaError: the broker is away.
        SettingsError: the keys cannot be used.
    """

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._keys = load_keys(settings, create=True)
        self._kafka = KafkaLog(settings.kafka)
        self._log = ErasureLog(settings, self._kafka)
        self._receipts = Receipts(settings)
        self._vault = store_of(settings)
        self._failpoints = Failpoints(settings.privacy.failpoint)
        self._writer = LogWriter(settings, self._kafka, self._log, self._failpoints)
        self._hider = Hider(settings, self._log, self._keys, stopping)
        self._done = 0

    def run(self) -> None:
        """Work until told to stop, or until another eraser has taken over."""
        self._hider.start()
        exposition.serve(self._settings.metrics, "eraser", self.samples)
        while not self._stopping.is_set():
            try:
                if not self.step():
                    self._stopping.wait(self._settings.privacy.poll_seconds)
            except TakenOverError:
                log.warning("another eraser has taken over; this one ends")
                self._stopping.set()
            except StoppedError:
                break
            except DependencyError as error:
                log.warning("the eraser waits: %s%s", error.message, f": {error.why}" if error.why else "")
                self._stopping.wait(RETRY_SECONDS)
        self._hider.join(5)

    def samples(self) -> Iterator[Sample]:
        """Yield what Prometheus is told."""
        waiting = [request.received_ms for request in self._hider.before("done")]
        yield metrics.ERASURES_OPEN(len(waiting))
        yield metrics.ERASURE_AGE(time.time() - min(waiting) / 1000 if waiting else 0)
        yield metrics.ERASURES_DONE(self._done)
        yield metrics.ERASURES_INVALID(self._log.invalid)

    def step(self) -> bool:
        """Carry out one batch; False when there is nothing to do.

        Raises:
            DependencyError: Kafka, Redis or the lake is away; call again.
            SettingsError: a batch was begun with a secret key that is not among those of the settings.
            TakenOverError: another eraser works now.
            StoppedError: told to stop while waiting.
        """
        self._writer.settle()
        self._log.catch_up()
        unfinished = [batch for batch in self._log.batches.values() if not batch.past("done")]
        if unfinished:
            try:
                self._carry_on(unfinished[0])
            except UnknownKeyError as error:
                raise missing_key(str(error)) from None
            return True
        self._clean_up()
        waiting = self._waiting()[:MOST_SUBJECTS]
        if not waiting:
            return False
        subjects = tuple(mark(request.erasure, request.received_ms, self._keys) for request in waiting)
        self._writer.begin(Step("fencing", new_id(), subjects))
        return True

    def _waiting(self) -> list[Request]:
        """Return requests that are in no batch, and have no receipt from a time that the log no longer has."""
        begun = {subject.erasure_id for batch in self._log.batches.values() for subject in batch.subjects}
        new = [request for name, request in self._log.requests.items() if name not in begun]
        if new:
            done = {receipt["erasure_id"] for receipt in self._receipts.read()}
            new = [request for request in new if request.erasure.erasure_id not in done]
        return sorted(new, key=lambda request: request.received_ms)

    def _carry_on(self, batch: Batch) -> None:
        if not batch.past("fenced"):
            fences = self._writer.fence(batch)
            self._writer.step(Step("fenced", batch.name, fences=fences))
            batch.fences = fences
        subjects = Subjects(lambda: self._keys)
        subjects.add(batch.subjects)
        tables = [table for table in TABLES if exists(self._settings, table)]
        if not batch.past("retracted"):
            self._wait_for_sinks(batch)
            batch.found = self._take_back(batch, tables, subjects)
            self._writer.step(Step("retracted", batch.name, found=batch.found))
        rewritten = {table.name: erase.rewrite(self._settings, table, subjects, self._failpoints) for table in tables}
        if not batch.past("rewritten"):
            files = {name: each.files for name, each in rewritten.items()}
            self._writer.step(Step("rewritten", batch.name, files=files))
            batch.files = files
        with connect(self._settings) as client:
            asked = [(self._log.requests.get(each.erasure_id), each) for each in batch.subjects]
            people = people_of([(request, each) for request, each in asked if request], self._keys)
            histories = forget(client, people) + self._hider.removed
        destroyed = self._destroy_keys(batch)
        self._failpoints.visit("before_receipt")
        last = self._receipts.add(self._receipt(batch, each, histories, destroyed) for each in batch.subjects)
        self._failpoints.visit("after_receipt")
        everything = {name: getattr(batch, name) for name in ("subjects", "topic_ids", "starts", "fences", "files")}
        self._writer.step(Step("done", batch.name, place=batch.place, receipt=last, **everything))
        self._done += len(batch.subjects)
        log.info("batch %s is done: %d erasures", batch.name, len(batch.subjects))

    def _take_back(self, batch: Batch, tables: Sequence[Table], subjects: Subjects) -> dict[str, dict[str, int]]:
        """Reduce counters and histories by what erased events added; return what was found of each erasure.

        The lake still has the events, so that whoever takes over finds the same.
        """
        found: dict[str, Counter[str]] = {}
        self._wait_for_workers(batch.behind_fences)
        whole = {each.erasure_id for each in batch.subjects if each.whole_user}
        for events in affected.erased(self._settings, tables, subjects):
            for event in events:
                of = found.setdefault(event.erasure, Counter())
                of[event.place.topic] += 1
                of["first_ms"] = min(of["first_ms"] or event.time_ms, event.time_ms)
                of["last_ms"] = max(of["last_ms"], event.time_ms)
            places = {event.place for event in events}
            more = affected.with_others(self._settings, tables, subjects, events, whole)
            every = retractions(self._settings, batch, more)
            self._wait_for_workers(self._writer.retract(batch, (each for each in every if each[0] in places)))
            with connect(self._settings) as client, redis_errors():
                client.function_load(library(), replace=True)
                looked_at = entries(self._settings, more)
                changes = retract(client, {entry: (at, left) for entry, (_, at, left) in looked_at.items()})
                for (name, _, _), changed in zip(looked_at.values(), changes, strict=True):
                    found.setdefault(name, Counter())["entries"] += changed
        return {name: dict(of) for name, of in found.items()}

    def _destroy_keys(self, batch: Batch) -> Counter[str]:
        """Destroy the keys of users of whom all goes; return how many by erasure id."""
        destroyed: Counter[str] = Counter()
        for subject in batch.subjects if self._settings.privacy.shred else ():
            request = self._log.requests.get(subject.erasure_id)
            if request and subject.whole_user:
                destroyed[subject.erasure_id] = self._vault.destroy(self._keys.names(request.erasure.subject[1])[1:])
        return destroyed

    def _receipt(
        self, batch: Batch, subject: Subject, histories: Counter[str], destroyed: Counter[str]
    ) -> dict[str, Any]:
        request = self._log.requests.get(subject.erasure_id)
        found = Counter(batch.found.get(subject.erasure_id, {}))
        now_ms = time.time_ns() // 1_000_000
        days = self._settings.kafka.retention_days
        return {
            "event": "erased",
            "erasure_id": subject.erasure_id,
            "at_ms": now_ms,
            "requested_ms": subject.requested_ms,
            "requester": request.erasure.requester if request else "",
            "reason": request.erasure.reason if request else "",
            "subject": {"kind": subject.kind, "key": subject.key, "mark": subject.marks[0], "marks": subject.marks},
            "range": {"from": subject.since, "to": subject.until},
            "batch": batch.name,
            "stores": {
                "lake": {
                    table.name: {
                        "rows_erased": found[table.topic.name],
                        "rows_left": 0,
                        "old_files": len(batch.files.get(table.name, ())),
                        "old_files_gone_by_ms": now_ms + int(self._settings.privacy.grace_seconds * 1000),
                    }
                    for table in TABLES
                },
                "histories": {"entries_erased": found["entries"] + histories[subject.erasure_id]},
                "exports": [asdict(each) for each in self._exports(found)],
                "counters": {"events_taken_back": sum(found[table.topic.name] for table in TABLES)},
                "user_keys": {"destroyed": destroyed[subject.erasure_id]},
                "kafka": {"last_raw_copy_gone_by_ms": subject.requested_ms + (days + 1) * MS_PER_DAY},
                "dead_letters": {"last_raw_copy_gone_by_ms": subject.requested_ms + (days + 1) * MS_PER_DAY},
            },
        }

    def _exports(self, found: Counter[str]) -> Iterable[Export]:
        return exports_of(self._settings, found["first_ms"], found["last_ms"]) if found["last_ms"] else ()

    def _wait_for_sinks(self, batch: Batch) -> None:
        """Wait until the lake holds all that lies before the fences."""
        self._wait(lambda: bool(wait_written(self._settings, batch.behind_fences, PATIENCE_SECONDS) or True))

    def _wait_for_workers(self, reached: Offsets) -> None:
        """Wait until readers see counters that have passed every retraction."""
        self._wait(lambda: self._passed(reached))

    def _passed(self, reached: Offsets) -> bool:
        with connect(self._settings) as client:
            generation = active_generation(client)
            with redis_errors():
                building = client.exists(BUILDING)
                if building or generation is None:
                    # Nothing is counted yet, and whoever begins knows of this erasure.
                    return not building
                fields = _fields(client, generation.name)
        lanes = {field.split("/")[0] for field, _ in fields}
        wanted = {
            ledger_field(lane, topic_id, part): at
            for topic, parts in reached.items()
            for topic_id, _ in [self._kafka.describe(topic)]
            for lane in lanes
            for part, at in parts.items()
        }
        return all(offset >= wanted.get(field, 0) for field, offset in fields)

    def _wait(self, condition: Callable[[], bool]) -> None:
        while True:
            if self._stopping.is_set():
                raise StoppedError
            try:
                if condition():
                    return
            except DependencyError as error:
                log.warning("the eraser waits: %s%s", error.message, f": {error.why}" if error.why else "")
            self._stopping.wait(self._settings.privacy.poll_seconds)

    def _clean_up(self) -> None:
        """Remove files that an erasure replaced, after their grace; write steps again that retention would take."""
        now_ms = time.time_ns() // 1_000_000
        for batch in self._log.batches.values():
            if batch.files and now_ms - batch.at_ms > self._settings.privacy.grace_seconds * 1000:
                for table in TABLES:
                    if batch.files.get(table.name):
                        erase.remove(self._settings, table, batch.files[table.name])
                last = self._receipts.add(
                    {"event": "files_gone", "erasure_id": subject.erasure_id, "at_ms": now_ms, "batch": batch.name}
                    for subject in batch.subjects
                )
                batch.files = {}
                self._write_again(batch, last)
            elif now_ms - batch.written_ms > self._settings.kafka.retention_days * MS_PER_DAY / 2:
                self._write_again(batch)

    def _write_again(self, batch: Batch, receipt: str = "") -> None:
        everything = {name: getattr(batch, name) for name in ("subjects", "topic_ids", "starts", "fences", "files")}
        self._writer.step(Step("done", batch.name, place=batch.place, receipt=receipt, **everything))
        batch.written_ms = time.time_ns() // 1_000_000


def _fields(client: redis.Redis, generation: str) -> list[tuple[str, int]]:
    """Return every ledger field of every shard, with its offset."""
    pipe = client.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipe.hgetall(ledger_key(shard, generation))
    return [
        (field.decode(), int(value.split()[0]))
        for ledger in cast("list[dict[bytes, bytes]]", pipe.execute())
        for field, value in ledger.items()
        if b"/" in field
    ]
