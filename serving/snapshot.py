"""What one read of Redis says about a list of documents, and the boosts that follow from it. Free of I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from clickwell.clock import MS_PER_DAY
from clickwell.schemas.rings import Layout, Rings
from clickwell.serving.formula import BoostByInteractionCount, boosts_of

NO_LAYOUT = Layout(slot_ms=MS_PER_DAY, window=0, signals=())


class Reason(StrEnum):
    """Why every boost is neutral; also the name of the counter in the reader's statistics."""

    UNAVAILABLE = "unavailable"
    """Redis did not answer, or not in time."""
    UNREADABLE = "unreadable"
    """Redis holds something else than counters of the announced layout."""
    ABSENT = "absent"
    """Nothing has been counted yet: no generation is active, or no worker has reported."""
    STALE = "stale"
    """The workers have made no progress for longer than the settings allow."""


@dataclass(frozen=True, slots=True)
class Boost:
    """One document's boost.

    Attributes:
        feature_id: the document.
        boost: factor for its score, 1.0 is neutral.
        count: weighted count over the stage's signals and window.
        by_signal: plain count of each of the stage's signals.
        window_days: the window that was counted, in full slots; the running slot comes on top.
    """

    feature_id: str
    boost: float
    count: float
    by_signal: dict[str, int]
    window_days: float


@dataclass(frozen=True)
class Counts:
    """Counts of a list of documents, in its order.

    Attributes:
        feature_ids: the documents.
        signals: the signals asked for.
        by_signal: int64 of shape (documents, signals).
        uncounted: the signals asked for that have no ring: their zeros mean "not counted", not "never happened".
        window_days: the window that was counted, in full slots; the running slot comes on top.
        fresh_ms: every event up to this time is in, in epoch ms; None when that is unknown.
        age_seconds: how far `fresh_ms` lies back.
        reason: why the numbers cannot be relied on; None when they can. Unless it is `STALE`, they are all zero then.
        detail: the same as a sentence.
    """

    feature_ids: Sequence[str]
    signals: tuple[str, ...]
    by_signal: NDArray[np.int64]
    uncounted: tuple[str, ...]
    window_days: float
    fresh_ms: int | None
    age_seconds: float | None
    reason: Reason | None
    detail: str


@dataclass(frozen=True)
class Boosts(Counts):
    """Boosts of a list of documents, in its order; iterating gives one `Boost` each.

    Attributes:
        stage: what was asked for.
        counts: weighted counts, float64 of shape (documents,).
        values: boosts, float64 of shape (documents,).
    """

    stage: BoostByInteractionCount
    counts: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def neutral(self) -> bool:
        """Whether every boost is 1.0 because the counts are absent, stale or out of reach."""
        return self.reason is not None

    def why(self, row: int) -> str:
        """Return one document's counts as people say them, such as `412 clicks, 31 purchases in 7 days`."""
        days = "1 day" if self.window_days == 1 else f"{self.window_days:g} days"
        return self.detail or f"{said(self[row].by_signal)} in {days}"

    def __len__(self) -> int:
        """Return how many documents were asked for."""
        return len(self.feature_ids)

    def __getitem__(self, row: int) -> Boost:
        """Return the boost of the document at a place of the list."""
        return Boost(
            feature_id=self.feature_ids[row],
            boost=float(self.values[row]),
            count=float(self.counts[row]),
            by_signal=dict(zip(self.signals, self.by_signal[row].tolist(), strict=True)),
            window_days=self.window_days,
        )

    def __iter__(self) -> Iterator[Boost]:
        """Go through the documents in order."""
        return (self[row] for row in range(len(self)))


@dataclass(frozen=True)
class Snapshot:
    """One read of a list of documents. Any number of stages can be computed from it without asking Redis again.

    Attributes:
        feature_ids: the documents.
        rings: their rings.
        now_ms: the reader's clock at the time of the read, epoch ms.
        fresh_ms, reason, detail: as in `Counts`.
    """

    feature_ids: Sequence[str]
    rings: Rings
    now_ms: int
    fresh_ms: int | None = None
    reason: Reason | None = None
    detail: str = ""

    @classmethod
    def empty(cls, feature_ids: Sequence[str], now_ms: int, reason: Reason, detail: str) -> "Snapshot":
        """Return what is known about documents when nothing could be read."""
        return cls(feature_ids, Rings.of([None] * len(feature_ids), NO_LAYOUT), now_ms, reason=reason, detail=detail)

    @property
    def age_seconds(self) -> float | None:
        """How far `fresh_ms` lies back; 0 when the worker's clock is ahead."""
        return None if self.fresh_ms is None else max(0, self.now_ms - self.fresh_ms) / 1000

    def counts(self, signals: Iterable[str], days: float | None = None) -> Counts:
        """Return the counts of `signals` over the last `days`, by default and at most the whole window that is kept."""
        asked, layout = tuple(signals), self.rings.layout
        return Counts(
            feature_ids=self.feature_ids,
            signals=asked,
            by_signal=self.rings.totals(asked, self.now_ms, days),
            uncounted=tuple(s for s in asked if layout is not NO_LAYOUT and s not in layout.signals),
            window_days=layout.window_slots(days) * layout.slot_ms / MS_PER_DAY,
            fresh_ms=self.fresh_ms,
            age_seconds=self.age_seconds,
            reason=self.reason,
            detail=self.detail,
        )

    def boosts(self, stage: BoostByInteractionCount) -> Boosts:
        """Return the boosts of one stage; neutral for all documents when there is a `reason`."""
        counted = self.counts(stage.interaction_types, stage.time_window_days)
        weighted = counted.by_signal.astype(np.float64) @ np.fromiter(stage.interaction_types.values(), np.float64)
        values = np.ones(len(self.feature_ids)) if self.reason else boosts_of(weighted, stage)
        return Boosts(**vars(counted), stage=stage, counts=weighted, values=values)


def said(by_signal: Mapping[str, int]) -> str:
    """Return counts as people say them, such as `412 clicks, 1 purchase`; signals that never happened are left out."""
    names = {signal: signal.replace("_", " ") for signal in by_signal}
    if "add_to_cart" in names:
        names["add_to_cart"] = "cart addition"
    parts = [f"{n:,} {names[signal]}{'' if n == 1 else 's'}" for signal, n in by_signal.items() if n]
    return ", ".join(parts) or "no " + " or ".join(f"{name}s" for name in names.values())
