"""Which events of one partition nobody may count or keep any more. Pure.

The answer is a function of the log: an erasure's fence in the partition, or the knowledge of the erasure before
anything of the partition was read.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from clickwell.schemas.controls import Fence, Subject
from clickwell.schemas.decode import AnyRow, Batch
from clickwell.schemas.erasure import SUBJECTS
from clickwell.schemas.marks import HINT_DIGITS, Keys, sealed_name

EVERYWHERE = -1
# Values that belong to nobody are remembered, so that they are hashed once; 100 bytes each.
_MOST_REMEMBERED = 1 << 17
# In records that are no valid JSON, too: a dead letter may name somebody as well as an event may.
_NAMES = re.compile(rb'"(' + "|".join(SUBJECTS).encode() + rb')"\s*:\s*"((?:[^"\\]|\\.)*)"')

R = TypeVar("R", bound=AnyRow)


Rule = tuple[Subject, int]
"""A subject, and the offset after which its events are left out."""


class Subjects:
    """Finds the subjects that a value belongs to.

    Args:
        keys: returns those that the marks were made with; called when a value has to be looked for.
    """

    def __init__(self, keys: Callable[[], Keys]) -> None:
        self._keys = keys
        self._by_mark: dict[str, dict[str, dict[str, list[Rule]]]] = {}
        self._hints: dict[tuple[str, str], set[str]] = {}
        self._found: dict[str, dict[str, list[Rule]]] = {}
        self._clean: dict[str, set[str]] = {}

    def add(self, subjects: Iterable[Subject], after: int = EVERYWHERE) -> None:
        """Look for these, too."""
        for subject in subjects:
            marks = self._by_mark.setdefault(subject.kind, {}).setdefault(subject.key, {})
            for mark in subject.marks:
                marks.setdefault(mark, []).append((subject, after))
                self._hints.setdefault((subject.kind, subject.key), set()).add(mark[:HINT_DIGITS])
            self._found.pop(subject.kind, None)
            self._clean.pop(subject.kind, None)

    @property
    def kinds(self) -> list[str]:
        """The fields that have to be looked at."""
        return list(self._by_mark)

    def among(self, kind: str, values: Iterable[str | None]) -> Mapping[str, list[Rule]]:
        """Return the rules for those values that belong to any subject; and for others that were asked for before.

        Raises:
            UnknownKeyError: a mark was made with a key that is not at hand.
        """
        found, clean = self._found.setdefault(kind, {}), self._clean.setdefault(kind, set())
        if len(clean) > _MOST_REMEMBERED:
            clean.clear()
        for value in set(values).difference(clean, found):
            if value is not None and (rules := self._of(kind, value)):
                found[value] = rules
            else:
                clean.add(value)  # type: ignore[arg-type]  # None belongs to nobody either
        return found

    def _of(self, kind: str, value: str) -> list[Rule]:
        if kind not in self._by_mark:
            return []
        keys, rules = self._keys(), []
        for key, marks in self._by_mark.get(kind, {}).items():
            if keys.hint(kind, value, key) in self._hints[kind, key]:
                rules += marks.get(keys.mark(kind, value, key), [])
        return rules


def names_in(value: bytes) -> Iterator[tuple[str, str]]:
    """Yield each field of an event that may name a subject, with its value, whether the event is valid or not."""
    for kind, text in _NAMES.findall(value):
        name = text.decode(errors="replace")
        yield kind.decode(), sealed_name(name) or name


class Erased:
    """The erasures in force in one partition; nothing to do and no cost while there are none.

    Args:
        keys: returns the keys; called when there is an erasure.
        known: batches that were known before anything was counted: their events are left out wherever they stand, and
            their retractions take nothing back.
    """

    def __init__(self, keys: Callable[[], Keys], known: Collection[str] = ()) -> None:
        self._subjects = Subjects(keys)
        self._known = known
        self._fenced: set[str] = set()

    def fence(self, batch: str, subjects: Iterable[Subject], offset: int) -> None:
        """Leave out what comes after an offset and belongs to one of these; a batch's first fence counts."""
        if batch not in self._fenced:
            self._fenced.add(batch)
            self._subjects.add(subjects, EVERYWHERE if batch in self._known else offset)

    def passes(self, batch: Batch[R]) -> bool:
        """Tell whether a batch can be taken as it is, which costs nothing."""
        return not self._fenced and not batch.controls

    def apply(self, batch: Batch[R]) -> tuple[Batch[R], int]:
        """Return a batch of this partition without the rows that are erased, and how many these were.

        Raises:
            UnknownKeyError: a mark was made with a key that is not at hand.
        """
        if self.passes(batch):
            return batch, 0
        retractions = []
        for record, control in batch.controls:
            if isinstance(control, Fence):
                self.fence(control.batch, control.subjects, record.offset)
            elif control.batch not in self._known:
                retractions.append((record.offset, control))
        hidden = self._hidden(batch)
        left = without(batch, hidden)
        return (replace(left, retractions=retractions) if retractions else left), len(hidden)

    def _hidden(self, batch: Batch[Any]) -> set[int]:
        hidden: set[int] = set()
        for kind in self._subjects.kinds:
            if not batch.rows or not hasattr(batch.rows[0], kind):
                continue
            values = [getattr(row, kind) for row in batch.rows]
            found = self._subjects.among(kind, values)
            if found.keys().isdisjoint(values):
                continue
            for index, value in enumerate(values):
                for subject, after in found.get(value, ()):
                    if batch.offsets[index] > after and subject.covers(batch.times[index], batch.received[index]):
                        hidden.add(index)
        return hidden


def without(batch: Batch[R], hidden: set[int]) -> Batch[R]:
    """Return a batch without the rows at some indices."""
    if not hidden:
        return batch
    left = [index for index in range(len(batch.rows)) if index not in hidden]
    return replace(
        batch,
        records=[batch.records[i] for i in left],
        offsets=[batch.offsets[i] for i in left],
        received=[batch.received[i] for i in left],
        times=[batch.times[i] for i in left],
        rows=[batch.rows[i] for i in left],
        details=[batch.details[i] for i in left] if batch.details else [],
    )
