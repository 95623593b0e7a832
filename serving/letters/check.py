"""What mending letters or putting them back would come to; changes nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clickwell.errors import DecodeError
from clickwell.kafka import KafkaLog
from clickwell.producers.records import Record
from clickwell.serving.letters.book import Letter, Place
from clickwell.serving.letters.mend import ready
from clickwell.serving.letters.read import read_values

Outcome = Literal["fixed", "replayed", "already", "invalid"]


@dataclass(frozen=True)
class Done:
    """What became of one letter.

    Attributes:
        id: the letter.
        outcome: `fixed` or `replayed` now; `already` put back before; `invalid`, it is no event and stays as it is.
        reason: why it is no event.
        field: the first offending field, if one is.
        detail: a sentence.
    """

    id: str
    outcome: Outcome
    reason: str = ""
    field: str = ""
    detail: str = ""


def mended(
    log: KafkaLog, letters: Sequence[Letter], mend: Callable[[bytes | None], bytes], now_ms: int
) -> tuple[list[tuple[Letter, bytes]], list[Done]]:
    """Return which letters become valid events, with these, and what there is to say of the others; changes nothing.

    Raises:
        KafkaError: the broker is away.
    """
    good: list[tuple[Letter, bytes]] = []
    others: list[Done] = []
    values = read_values(log, [letter.fix or letter.place for letter in letters])
    for letter in letters:
        if letter.replayed:
            others.append(Done(letter.id, "already"))
            continue
        try:
            value = mend(values.get(letter.fix or letter.place))
            ready(letter, value, now_ms)
            good.append((letter, value))
        except DecodeError as error:
            others.append(_invalid(letter, error))
    return good, others


def checked(log: KafkaLog, letters: Sequence[Letter], now_ms: int) -> tuple[list[tuple[Letter, Record]], list[Done]]:
    """Return which letters can be put back, with their records, and what there is to say of the others.

    Changes nothing.

    Raises:
        KafkaError: the broker is away.
    """
    good: list[tuple[Letter, Record]] = []
    others = [Done(letter.id, "already") for letter in letters if letter.replayed]
    left = [letter for letter in letters if not letter.replayed]
    values = read_values(log, [letter.fix or letter.place for letter in left])
    for letter in left:
        try:
            good.append((letter, ready(letter, _value(letter, values), now_ms)))
        except DecodeError as error:
            others.append(_invalid(letter, error))
    return good, others


def _invalid(letter: Letter, error: DecodeError) -> Done:
    return Done(letter.id, "invalid", error.reason, error.field, error.message)


def _value(letter: Letter, values: Mapping[Place, bytes | None]) -> bytes | None:
    """Return what is to be put back: the fix, or the original."""
    place = letter.fix or letter.place
    if place not in values:
        raise DecodeError("gone", "retention has taken it")
    if letter.fix is None and not letter.whole:
        raise DecodeError("too_large", f"the record had {letter.size:,} bytes, of which the first were kept")
    return values[place]
