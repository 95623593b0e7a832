"""What the log says about erasures: the requests, and how far each has been carried out.

Requests come from anybody, in any partition of the erasures topic. The eraser puts them into batches and writes a
*step* into partition 0 whenever a batch has got on. Workers and sinks learn from the steps where a partition's fences
stand; whoever reads on from an offset beyond a fence would not meet it.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import ValidationError

from clickwell.kafka import KafkaLog, LogRecord
from clickwell.privacy import load_keys, missing_key
from clickwell.schemas.controls import PREFIX, Control, Fence, Subject, decode_control
from clickwell.schemas.erased import EVERYWHERE, Erased, Subjects, names_in
from clickwell.schemas.erasure import Erasure
from clickwell.schemas.marks import Keys, UnknownKeyError
from clickwell.schemas.topics import ERASURES
from clickwell.settings import Settings

STEPS_PARTITION = 0
# Of an event that may be no valid JSON; epoch ms.
_TIMES = re.compile(rb'"timestamp"\s*:\s*"?(\d{13})\b')
STEPS = ("fencing", "fenced", "retracted", "rewritten", "done")

Offsets = dict[str, dict[int, int]]
"""Topic -> partition -> offset."""


class Step(msgspec.Struct, tag_field="clickwell", tag="step.v1", omit_defaults=True):
    """A batch has got on.

    Attributes:
        name: one of `STEPS`.
        batch: which.
        subjects: of the batch; in the first step and the last.
        topic_ids: topic -> id of the topic that was fenced.
        starts: where the topics ended before the fences.
        fences: where the fences stand.
        found: erasure id -> `rows` of each table and `entries` of histories that it takes, and `first_ms` and
            `last_ms`, the times of the first and the last event; in the step `retracted` and those after it.
        place: where the first step stands, for a step that is written again because retention will take the others.
        files: table -> files that the lake no longer needs.
        at_ms: when, by the eraser's clock, epoch ms.
        receipt: hash of the last receipt of the batch.
    """

    name: Literal["fencing", "fenced", "retracted", "rewritten", "done"]
    batch: str
    subjects: tuple[Subject, ...] = ()
    topic_ids: dict[str, str] = {}
    starts: Offsets = {}
    fences: Offsets = {}
    found: dict[str, dict[str, int]] = {}
    place: int | None = None
    files: dict[str, list[str]] = {}
    at_ms: int = 0
    receipt: str = ""


@dataclass
class Batch:
    """Erasures that are carried out together, as far as their steps tell; the fields are those of `Step`."""

    name: str
    place: int
    step: str = "fencing"
    subjects: tuple[Subject, ...] = ()
    topic_ids: dict[str, str] = field(default_factory=dict)
    starts: Offsets = field(default_factory=dict)
    fences: Offsets = field(default_factory=dict)
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    at_ms: int = 0
    written_ms: int = 0

    @property
    def behind_fences(self) -> Offsets:
        """The offsets after the fences."""
        return {topic: {part: at + 1 for part, at in parts.items()} for topic, parts in self.fences.items()}

    def past(self, step: str) -> bool:
        """Tell whether a step has been done."""
        return STEPS.index(self.step) >= STEPS.index(step)


class Request(NamedTuple):
    """A valid request, and when the broker received it, epoch ms."""

    erasure: Erasure
    received_ms: int


class ErasureLog:
    """Follows the erasures topic; its methods may be called from any thread.

    Attributes:
        requests: erasure id -> the first request with it that retention has left.
        batches: name -> batch, oldest first.
        receipts: hashes of the last receipts of batches, as the eraser had written them by then.
        invalid: records that are neither a request nor a step.
    """

    def __init__(self, settings: Settings, kafka: KafkaLog) -> None:
        self.requests: dict[str, Request] = {}
        self.batches: dict[str, Batch] = {}
        self.receipts: list[str] = []
        self.invalid = 0
        self._settings = settings
        self._kafka = kafka
        self._lock = Lock()
        self._topic_id = ""
        self._read_to: dict[int, int] = {}
        self._loaded: Keys | None = None

    def keys(self) -> Keys:
        """Return the keys of this process.

        Raises:
            SettingsError: there are none.
        """
        self._loaded = self._loaded or load_keys(self._settings)
        return self._loaded

    def catch_up(self) -> None:
        """Read what has come since the last time; asking for the ends is all there mostly is.

        Raises:
            KafkaError: the broker is away.
        """
        with self._lock:
            topic_id, partitions = self._kafka.describe(ERASURES.name)
            if topic_id != self._topic_id:
                self.requests.clear()
                self.batches.clear()
                self.receipts.clear()
                self._topic_id, self._read_to = topic_id, {}
            ends = self._kafka.latest(ERASURES.name, range(partitions))
            begin = {partition: self._read_to.get(partition, 0) for partition in ends}
            for record in self._kafka.read(ERASURES.name, begin, ends):
                self._take(record)
            self._read_to = ends

    def steps_end(self) -> int:
        """Return the offset before which every step is known to those who catch up now.

        Raises:
            KafkaError: the broker is away.
        """
        return self._kafka.latest(ERASURES.name, [STEPS_PARTITION])[STEPS_PARTITION]

    def erased(
        self, topic: str, topic_id: str, partition: int, position: int, known: Callable[[Batch], bool]
    ) -> Erased:
        """Return the erasures in force in a partition for who goes on at `position`.

        Args:
            topic: that is read.
            topic_id: its id.
            partition: that is read.
            position: next offset that will be read.
            known: tells whether the reader holds nothing of a batch's subjects, so that their events and retractions
                are left out wherever they stand.

        Raises:
            KafkaError: the broker is away.
        """
        self.catch_up()
        with self._lock:
            batches = list(self.batches.values())
        erased = Erased(self.keys, {batch.name for batch in batches if known(batch)})
        for batch in batches:
            if batch.topic_ids.get(topic) != topic_id:
                # Fenced in an earlier topic of that name: here all comes after it.
                erased.fence(batch.name, batch.subjects, EVERYWHERE)
            elif batch.past("fenced"):
                erased.fence(batch.name, batch.subjects, batch.fences[topic].get(partition, EVERYWHERE))
            else:
                start = batch.starts[topic].get(partition, 0)
                for offset, control in self.controls(topic, partition, start, position):
                    if isinstance(control, Fence):
                        erased.fence(control.batch, control.subjects, offset)
        return erased

    def controls(self, topic: str, partition: int, start: int, stop: int) -> Iterator[tuple[int, Control]]:
        """Yield clickwell's own records of a range of a partition, with their offsets.

        Raises:
            KafkaError: the broker is away.
        """
        for record in self._kafka.read(topic, {partition: start}, {partition: stop}):
            if record.value is not None and record.value.startswith(PREFIX):
                try:
                    yield record.offset, decode_control(record.value)
                except msgspec.DecodeError:
                    continue  # dead-lettered by those who read the topic

    def _take(self, record: LogRecord) -> None:
        value = record.value or b""
        try:
            if value.startswith(PREFIX):
                self._step(_decode_step(value), record.offset, record.received_ms)
            else:
                erasure = Erasure.model_validate_json(value)
                self.requests.setdefault(erasure.erasure_id, Request(erasure, record.received_ms))
        except (ValidationError, msgspec.DecodeError, UnicodeDecodeError):
            self.invalid += 1

    def _step(self, step: Step, offset: int, received_ms: int) -> None:
        place = offset if step.place is None else step.place
        batch = self.batches.setdefault(step.batch, Batch(step.batch, place))
        batch.step, batch.written_ms = step.name, received_ms
        if step.receipt:
            self.receipts.append(step.receipt)
        for name in ("subjects", "topic_ids", "starts", "fences", "found", "files", "at_ms"):
            if value := getattr(step, name):
                setattr(batch, name, value)


class Hidden:
    """Tells whether a record, valid or not, names somebody whose events are to go or have gone.

    Args:
        log: caught up; what it reads later is not known here.
    """

    def __init__(self, log: ErasureLog) -> None:
        self._subjects = Subjects(log.keys)
        for batch in log.batches.values():
            self._subjects.add(batch.subjects)
        # Those that nobody has marked yet; they need no keys.
        self._asked: dict[tuple[str, str], list[Subject]] = {}
        for name, (erasure, received_ms) in log.requests.items():
            kind, value = erasure.subject
            rule = Subject(name, kind, "", (), received_ms, erasure.since, erasure.until)
            self._asked.setdefault((kind, value), []).append(rule)

    def hides(self, value: bytes, received_ms: int) -> bool:
        """Tell it of one record.

        Args:
            value: its bytes.
            received_ms: when the broker received it, epoch ms.

        Raises:
            SettingsError: the keys with which subjects were marked are not at hand.
        """
        time_ms = min(map(int, _TIMES.findall(value)), default=received_ms)
        try:
            return any(
                rule.covers(time_ms, received_ms)
                for kind, name in names_in(value)
                for rule in (
                    *self._asked.get((kind, name), ()),
                    *(rule for rule, _ in self._subjects.among(kind, [name]).get(name, ())),
                )
            )
        except UnknownKeyError as error:
            raise missing_key(str(error)) from None


_decode_step: Any = msgspec.json.Decoder(Step).decode


def mark(erasure: Erasure, requested_ms: int, keys: Keys) -> Subject:
    """Return the subject of a request, without the name."""
    kind, value = erasure.subject
    names: Collection[str] = keys.names(value) if kind == "user_id" else [value]
    return Subject(
        erasure_id=erasure.erasure_id,
        kind=kind,
        key=keys.current,
        marks=tuple(keys.mark(kind, name) for name in names),
        requested_ms=requested_ms,
        since=erasure.since,
        until=erasure.until,
    )
