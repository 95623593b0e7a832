"""What interactions stand for, looked up by their types: few combinations make up nearly all of the traffic. Pure."""

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from clickwell.schemas.decode import Row
from clickwell.schemas.interactions import RETURN_TO_RESULTS_MS, signals_of

V = TypeVar("V")

# Names are free, so an attacker could fill memory with combinations; forgetting all of them is cheap.
MOST_REMEMBERED = 10_000


class Meanings(Generic[V]):
    """Remembers what a lane makes of the signals of each combination of types.

    Args:
        value_of: what the lane makes of a set of signals.
        long_view_ms: a click with at least this duration is a long_view too.
    """

    def __init__(self, value_of: Callable[[Collection[str]], V], long_view_ms: int) -> None:
        self.known: dict[tuple[str, ...], tuple[V, V, V]] = {}
        self._value_of = value_of
        self._long_view_ms = long_view_ms

    def of(self, rows: Sequence[Row]) -> list[V]:
        """Return the value of each row."""
        known, long_view_ms = self.known, self._long_view_ms
        values = []
        for row in rows:
            types, details = row.interaction_type, row.metadata
            plain, long_view, returned = known.get(types) or self._learn(types)
            duration = details.duration_ms if details is not None else None
            if duration is None:
                values.append(plain)
            elif duration >= long_view_ms:
                values.append(long_view)
            else:
                values.append(returned if duration < RETURN_TO_RESULTS_MS else plain)
        return values

    def _learn(self, types: tuple[str, ...]) -> tuple[V, V, V]:
        """Work out the value of a combination of types without a duration of note, as a long view, as a return."""
        long_view_ms = self._long_view_ms
        values = (
            self._value_of(set(types)),
            self._value_of(signals_of(types, long_view_ms, long_view_ms=long_view_ms)),
            self._value_of(signals_of(types, 0, long_view_ms=long_view_ms)),
        )
        if len(self.known) > MOST_REMEMBERED:
            self.known.clear()
        self.known[types] = values
        return values
