"""What a sender is told about each event: whether it was taken, and what it can be used for."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from clickwell.errors import DecodeError
from clickwell.schemas.decode import Row
from clickwell.schemas.decode_searches import SearchRow
from clickwell.schemas.interactions import signals_of
from clickwell.settings import PopularitySettings

Use = Literal["boost", "ctr", "training", "personalization"]

# Clicks and what they are divided by.
_CTR_SIGNALS = frozenset({"click", "impression", "view", "skip"})


class Lack(msgspec.Struct, frozen=True):
    """Why an event is of no use for something: the field that is missing, and a sentence."""

    use: Use
    field: str
    reason: str


class Verdict(msgspec.Struct, omit_defaults=True, gc=False):
    """What became of one event.

    `unconfirmed` stands only in an answer with status 503: the broker has not acknowledged the event, which may still
    arrive; sent again with the same id it counts once.
    """

    verdict: Literal["accepted", "duplicate", "rejected", "unconfirmed"]
    interaction_id: str | None = None
    execution_id: str | None = None
    code: str = ""
    field: str = ""
    reason: str = ""
    uses: tuple[Use, ...] = ()
    not_used_for: tuple[Lack, ...] = ()


class Answer(msgspec.Struct, omit_defaults=True):
    """The verdicts of one request, in the order of its events, and how many there are of each."""

    accepted: int
    duplicate: int
    rejected: int
    results: Sequence[Verdict]
    interaction_id: str | None = None


def answer_of(verdicts: Sequence[Verdict], *, single: bool = False) -> Answer:
    """Return the answer with these verdicts; that of a single event has its id at the top, too."""
    names = [each.verdict for each in verdicts]
    return Answer(
        names.count("accepted"),
        names.count("duplicate"),
        names.count("rejected"),
        verdicts,
        verdicts[0].interaction_id if single else None,
    )


def rejected(error: DecodeError) -> Verdict:
    """Return the verdict on an event that is not valid."""
    return Verdict("rejected", code=error.reason, field=error.field, reason=str(error))


class Uses:
    """Tells what valid events can be used for.

    Args:
        popularity: which signals are counted for boosts.
    """

    def __init__(self, popularity: PopularitySettings) -> None:
        self._signals = frozenset(popularity.signals)
        self._long_view_ms = popularity.long_view_ms
        # Few combinations make most of the traffic, and names of signals are free: bounded.
        self._interaction = lru_cache(maxsize=4096)(self._judge)

    def of_interaction(self, row: Row) -> tuple[tuple[Use, ...], tuple[Lack, ...]]:
        """Return what an interaction can be used for, and what it lacks for the rest."""
        details = row.metadata
        duration = details.duration_ms if details else None
        return self._interaction(
            row.interaction_type,
            duration is not None and duration >= self._long_view_ms,
            row.position is not None,
            row.execution_id is not None,
            details is not None and bool(details.query),
            row.user_id is not None,
        )

    def of_search(self, row: SearchRow) -> tuple[tuple[Use, ...], tuple[Lack, ...]]:
        """Return what a search can be used for: it says what was shown."""
        if row.user_id:
            return ("ctr", "training", "personalization"), ()
        return ("ctr", "training"), (_NO_USER,)

    def _judge(
        self, types: tuple[str, ...], long: bool, position: bool, execution: bool, query: bool, user: bool
    ) -> tuple[tuple[Use, ...], tuple[Lack, ...]]:
        signals = set(signals_of(types, self._long_view_ms if long else None, long_view_ms=self._long_view_ms))
        lacks: list[Lack] = []
        if not signals & self._signals:
            lacks.append(_NOT_BOOSTED)
        if not signals & _CTR_SIGNALS:
            lacks.append(_NO_CLICK)
        elif not execution:
            lacks.append(_NO_EXECUTION)
        if not position:
            lacks.append(_NO_POSITION)
        elif not (query or execution):
            lacks.append(_NO_QUERY)
        if not user:
            lacks.append(_NO_USER)
        lacking = {lack.use for lack in lacks}
        uses: tuple[Use, ...] = ("boost", "ctr", "training", "personalization")
        return tuple(use for use in uses if use not in lacking), tuple(lacks)


_NOT_BOOSTED = Lack("boost", "interaction_type", "none of its signals is counted for boosts")
_NO_CLICK = Lack("ctr", "interaction_type", "neither a click nor an exposure: not usable for click-through rates")
_NO_EXECUTION = Lack("ctr", "execution_id", "no execution_id: not joined to what was shown")
_NO_POSITION = Lack("training", "position", "no position: not usable for bias correction")
_NO_QUERY = Lack("training", "query", "no query and no execution_id: not usable for training pairs")
_NO_USER = Lack("personalization", "user_id", "no user_id: not usable for personalization")
