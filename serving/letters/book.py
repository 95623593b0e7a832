"""What the dead-letters topic says of each letter: why it is there, and what was done about it since.

Everything about a letter lies in its own partition of that topic, in order: first the letter as a worker or sink wrote
it (see `clickwell.dead_letters`), then *marks*, which are records with the header `mark`:

| mark | value | means |
|---|---|---|
| `fix` | an event | this is to be put back instead of the original |
| `intent` | | it is about to be put back, and will not lie before `target`, a header like `letter` |
| `replayed` | | it was put back |

A mark's header `letter`, `topic id/partition/offset` of the bad record, says whose it is. Retention takes the letter
before its marks, so a letter that is still there has all of them.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from clickwell.kafka import LogRecord

State = Literal["open", "fixed", "unsettled", "replayed"]
STATES: tuple[State, ...] = ("open", "fixed", "unsettled", "replayed")


class Origin(NamedTuple):
    """Where a bad record lies, or a good one may. Offsets mean something within one topic id only."""

    topic_id: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """Return the form that stands in headers."""
        return f"{self.topic_id}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: bytes) -> "Origin":
        """Return what `str` made a text of.

        Raises:
            ValueError: the text is no such thing.
        """
        topic_id, partition, offset = text.decode().split("/")
        return cls(topic_id, int(partition), int(offset))


class Place(NamedTuple):
    """Where a record of the dead-letters topic lies."""

    partition: int
    offset: int


@dataclass(slots=True)
class Letter:
    """One bad record, without its value; some 500 bytes.

    Attributes:
        topic: where the record lies.
        origin: where in it.
        reason: short name of why it is no event, see docs/errors.md.
        field: the first offending field, if one is.
        detail: a sentence.
        received_ms: when the broker received the record, epoch ms.
        size: bytes of its value.
        whole: whether the letter holds all of them.
        place: where the letter lies.
        fix: where the last fix lies.
        target: where a record that was about to be put back would lie at the earliest.
        replayed: whether it was put back.
    """

    topic: str
    origin: Origin
    reason: str
    field: str
    detail: str
    received_ms: int
    size: int
    whole: bool
    place: Place
    fix: Place | None = None
    target: Origin | None = None
    replayed: bool = False

    @property
    def id(self) -> str:
        """Name of the letter: `topic/partition/offset` of the bad record."""
        return f"{self.topic}/{self.origin.partition}/{self.origin.offset}"

    @property
    def state(self) -> State:
        """What was done about it; `unsettled` if a replay broke off and only the next one will find out."""
        if self.replayed:
            return "replayed"
        if self.target is not None:
            return "unsettled"
        return "open" if self.fix is None else "fixed"


@dataclass(frozen=True)
class Filter:
    """Which letters; an absent condition holds for all.

    Attributes:
        ids: names of letters; None means any, and an empty collection none.
        reasons: why they are no events.
        topics: where the bad records lie.
        since_ms: received at or after this, epoch ms.
        until_ms: received before this, epoch ms.
        states: what was done about them.
    """

    ids: Collection[str] | None = None
    reasons: Collection[str] = ()
    topics: Collection[str] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    states: Collection[str] = ()

    def matches(self, letter: Letter) -> bool:
        """Say whether a letter meets all conditions."""
        return (
            (self.ids is None or letter.id in self.ids)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.topics or letter.topic in self.topics)
            and (self.since_ms is None or letter.received_ms >= self.since_ms)
            and (self.until_ms is None or letter.received_ms < self.until_ms)
            and (not self.states or letter.state in self.states)
        )


class Book:
    """All letters, made by taking the records of the dead-letters topic, those of each partition in order."""

    def __init__(self) -> None:
        self._letters: dict[Origin, Letter] = {}

    def take(self, record: LogRecord) -> None:
        """Take one record; a letter that was written twice is one, what is neither letter nor mark is left out."""
        try:
            if "mark" in record.headers:
                self._take_mark(record)
            else:
                self._take_letter(record)
        except (KeyError, ValueError):
            return  # not of clickwell's making, or its letter is gone

    def find(self, letter_id: str) -> Letter | None:
        """Return a letter by its name; if a topic was made anew and two have this name, the later one."""
        return max(self.select(Filter(ids=[letter_id])), key=lambda letter: letter.received_ms, default=None)

    def select(self, wanted: Filter) -> Iterator[Letter]:
        """Yield the letters that meet a filter, those received first first."""
        return iter(sorted(filter(wanted.matches, self._letters.values()), key=lambda letter: letter.received_ms))

    def reasons(self, wanted: Filter) -> Counter[str]:
        """Return how many of the letters that meet a filter have which reason."""
        return Counter(letter.reason for letter in self._letters.values() if wanted.matches(letter))

    def _take_letter(self, record: LogRecord) -> None:
        said = record.headers
        origin = Origin(said["topic_id"].decode(), int(said["partition"]), int(said["offset"]))
        if origin in self._letters:
            return
        self._letters[origin] = Letter(
            topic=said["topic"].decode(),
            origin=origin,
            reason=said["reason"].decode(),
            field=said.get("field", b"").decode(errors="replace"),
            detail=said.get("detail", b"").decode(errors="replace"),
            received_ms=int(said["received_ms"]),
            size=int(said.get("cut_from") or len(record.value or b"")),
            whole="cut_from" not in said,
            place=Place(record.partition, record.offset),
        )

    def _take_mark(self, record: LogRecord) -> None:
        letter = self._letters[Origin.parse(record.headers["letter"])]
        kind = record.headers["mark"]
        if kind == b"fix":
            letter.fix, letter.target = Place(record.partition, record.offset), None
        elif kind == b"intent":
            letter.target = Origin.parse(record.headers["target"])
        elif kind == b"replayed":
            letter.replayed = True
