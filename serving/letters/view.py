"""Letters as they are shown, on the command line and over HTTP, and the ways in which they are named there."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from clickwell.errors import UsageError
from clickwell.kafka import KafkaLog
from clickwell.serving.letters.book import Book, Filter, Letter, State
from clickwell.serving.letters.read import read_values


class LetterView(BaseModel):
    """One letter, without its value."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """Its name: topic/partition/offset of the bad record."""
    topic: str
    """Where the record lies."""
    topic_id: str
    """Which of the topics of that name, if it was made anew."""
    partition: int
    """Where in the topic."""
    offset: int
    """Where in the partition."""
    received_ms: int
    """When the broker received the record, epoch ms."""
    state: State
    """What was done about it; `unsettled` if a replay broke off and only the next one will find out."""
    reason: str
    """Why it is no event; docs/errors.md explains the names."""
    field: str
    """The first offending field, if one is."""
    detail: str
    """A sentence."""
    size: int
    """Bytes of the record's value."""
    whole: bool
    """Whether all of them were kept."""


class LetterDetail(LetterView):
    """One letter with its value."""

    value: str | None
    """The value as text, what is not UTF-8 replaced; null if the record has none."""
    value_base64: str | None
    """The value, byte for byte."""
    fix: str | None
    """What would be put back instead, if it was mended."""


def view_of(letter: Letter) -> LetterView:
    """Return what is shown of a letter in a list."""
    return LetterView(
        id=letter.id,
        topic=letter.topic,
        topic_id=letter.origin.topic_id,
        partition=letter.origin.partition,
        offset=letter.origin.offset,
        received_ms=letter.received_ms,
        state=letter.state,
        reason=letter.reason,
        field=letter.field,
        detail=letter.detail,
        size=letter.size,
        whole=letter.whole,
    )


def value_of(log: KafkaLog, letter: Letter) -> bytes | None:
    """Return the value of a letter's record.

    Raises:
        KafkaError: the broker is away.
    """
    return read_values(log, [letter.place]).get(letter.place)


def detail_of(log: KafkaLog, letter: Letter) -> LetterDetail:
    """Return all that is shown of one letter.

    Raises:
        KafkaError: the broker is away.
    """
    value = value_of(log, letter)
    fix = read_values(log, [letter.fix]).get(letter.fix) if letter.fix else None
    return LetterDetail(
        **view_of(letter).model_dump(),
        value=None if value is None else value.decode(errors="replace"),
        value_base64=None if value is None else base64.b64encode(value).decode(),
        fix=None if fix is None else fix.decode(),
    )


@dataclass(frozen=True)
class Choice:
    """Which letters are to be mended or put back.

    Attributes:
        ids: names of letters.
        others: conditions, instead of names.
        every: all letters, when there is neither name nor condition.

    Raises:
        UsageError: nothing says which are meant, or two things do.
    """

    ids: Sequence[str] = ()
    others: Filter = field(default_factory=Filter)
    every: bool = False

    def __post_init__(self) -> None:
        conditions = self.others != Filter()
        if self.ids and (conditions or self.every):
            raise UsageError("letters are meant either by name or by condition", fix="leave one of both out")
        if not (self.ids or conditions or self.every):
            raise UsageError("nothing says which letters are meant", fix="name some, a condition, or all")

    def of(self, book: Book) -> Sequence[Letter]:
        """Return the letters.

        Raises:
            UsageError: there is none of a name.
        """
        if not self.ids:
            return list(book.select(self.others))
        found = {letter_id: book.find(letter_id) for letter_id in self.ids}
        if missing := [letter_id for letter_id, letter in found.items() if letter is None]:
            raise UsageError(
                f"there is no letter {missing[0]}",
                why="its name is wrong, or retention has taken it",
                fix="`clickwell dead-letters list` shows those that there are",
            )
        return [letter for letter in found.values() if letter is not None]
