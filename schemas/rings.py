"""One document's rolling counts: a packed ring of slots for each signal that it has had.

Layout, little-endian: a u32 header, `mask << 24 | last`, then for each set bit of `mask`, lowest first, `cells` u32.
`last` is the newest slot that was counted; slot `s` (event time in ms // slot_ms) lies in cell `s % cells`, and a cell
holds the newest slot <= `last` that maps to it. The window is the last `window` full slots and the running one; one
further cell leaves room for clients whose clock is a little ahead, so that no event pushes the oldest slot out early.

Only sums and maxima are kept, so the content does not depend on the order in which events arrive.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from clickwell.clock import MS_PER_HOUR
from clickwell.errors import LayoutError
from clickwell.settings import PopularitySettings


class Layout(BaseModel):
    """The shape of every ring of a generation.

    Attributes:
        slot_ms: length of a slot in milliseconds.
        window: full slots in the window; the running slot comes on top.
        signals: signal of each bit of the mask.
    """

    model_config = ConfigDict(frozen=True)

    slot_ms: int
    window: int
    signals: tuple[str, ...]

    @classmethod
    def of(cls, settings: PopularitySettings) -> Self:
        """Return the layout that the settings ask for."""
        return cls(
            slot_ms=settings.slot_ms,
            window=settings.window_days * 24 // settings.slot_hours,
            signals=settings.signals,
        )

    @property
    def cells(self) -> int:
        """Cells of one ring: the window, the running slot and one slot ahead."""
        return self.window + 2

    def slot(self, time_ms: int) -> int:
        """Return the slot of a time."""
        return time_ms // self.slot_ms

    def window_slots(self, days: float | None) -> int:
        """Return the full slots in `days`, at most the whole window; None means the whole window."""
        if days is None:
            return self.window
        return max(0, min(self.window, round(days * 24 * MS_PER_HOUR / self.slot_ms)))

    def expires_ms(self, last: int) -> int:
        """Return when a document whose newest slot is `last` has left the window, in epoch ms."""
        return (last + self.window + 1) * self.slot_ms


# Length of an era of the trending lists. A list's sums stay below 2**256 times the interactions in it, and those of the
# era before above 2**-256 of that: far inside a double's range.
ERA_HALF_LIVES = 256


class Generation(BaseModel):
    """One complete set of counters: its name, its layout and how its trending list decays.

    Attributes:
        lanes: lane -> settings that the lane's keys depend on; others count nothing in this generation.
        targets: while it is being built, the offset that each ledger field must reach before readers see it.
        erasures: offset in the erasures topic's partition of steps; erasures that began before it are known to this
            generation, which leaves their events out from the start.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    layout: Layout
    half_life_hours: int
    weights: dict[str, float] = {}
    lanes: dict[str, dict[str, Any]] = {"popularity": {}}
    started_ms: int = 0
    targets: dict[str, int] = {}
    erasures: int = 0

    def era(self, hour: int) -> int:
        """Return the trending era of an hour since 1970."""
        return hour // (ERA_HALF_LIVES * self.half_life_hours)

    def growth(self, era: int, hour: int) -> float:
        """Return what an interaction of weight 1 at `hour` adds to the trending list of `era`: `2 ** half-lives`."""
        return float(2.0 ** ((hour - era * ERA_HALF_LIVES * self.half_life_hours) / self.half_life_hours))


def encode(counts: Mapping[tuple[str, int], int], layout: Layout) -> bytes:
    """Return the ring that holds `counts`, a mapping of (signal, slot) to a count below 2**32.

    Slots that the newest one has pushed out are left out, as a writer would. No counts at all give no bytes.

    Raises:
        KeyError: a signal has no ring in the layout.
    """
    if not counts:
        return b""
    bit_of = {signal: bit for bit, signal in enumerate(layout.signals)}
    last = max(slot for _, slot in counts)
    bits = sorted({bit_of[signal] for signal, _ in counts})
    rings = np.zeros((len(bits), layout.cells), "<u4")
    for (signal, slot), count in counts.items():
        if slot > last - layout.cells:
            rings[bits.index(bit_of[signal]), slot % layout.cells] = count
    header = sum(1 << bit for bit in bits) << 24 | last
    return header.to_bytes(4, "little") + rings.tobytes()


class Rings(NamedTuple):
    """The rings of a list of documents, side by side in one buffer, so that all are summed at once.

    Attributes:
        layout: shape of the rings.
        documents: length of the list; documents without a ring count as zero.
        rows: int64, the place in the list of each document that has a ring; the arrays below go with it.
        words: u32, all rings joined.
        starts: int64, index in `words` of each one's header.
        masks: u32, the bits of the signals that each one has had.
        last: int64, the newest slot of each one.
    """

    layout: Layout
    documents: int
    rows: NDArray[np.int64]
    words: NDArray[np.uint32]
    starts: NDArray[np.int64]
    masks: NDArray[np.uint32]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[bytes | None], layout: Layout) -> Self:
        """Take what Redis holds for each document; None means that it has no ring.

        Raises:
            LayoutError: a value is not a ring of this layout.
        """
        rows = [row for row, value in enumerate(values) if value]
        present = [value for value in values if value]
        sizes = np.fromiter(map(len, present), np.int64, len(present))
        if (sizes % 4).any():
            raise _not_a_ring()
        words = np.frombuffer(b"".join(present), "<u4")
        starts = (np.cumsum(sizes) - sizes) // 4
        headers = words[starts]
        masks = headers >> np.uint32(24)
        expected = 4 + 4 * layout.cells * np.bitwise_count(masks).astype(np.int64)
        if (sizes != expected).any() or (masks >> np.uint32(len(layout.signals))).any():
            raise _not_a_ring()
        last = (headers & np.uint32(0xFFFFFF)).astype(np.int64)
        return cls(layout, len(values), np.array(rows, np.int64), words, starts, masks, last)

    def totals(self, signals: Sequence[str], now_ms: int, days: float | None = None) -> NDArray[np.int64]:
        """Return each document's count of each signal over the window that ends now.

        Args:
            signals: what is asked for; a signal without a ring counts as zero.
            now_ms: the reader's own time: counts fade even when nobody writes.
            days: a window shorter than the layout's, for example 1 for the last day.

        Returns:
            int64 of shape (documents, signals).
        """
        out = np.zeros((self.documents, len(signals)), np.int64)
        visible = self._visible(self.layout.slot(now_ms) - self.layout.window_slots(days))
        for column, signal in enumerate(signals):
            if signal in self.layout.signals:
                has, counts = self._of_bit(self.layout.signals.index(signal))
                out[self.rows[has], column] = (counts * visible[has]).sum(axis=1)
        return out

    def cells(self, now_ms: int) -> list[tuple[int, str, int, int]]:
        """Return (row, signal, slot, count) of every non-zero cell within the window that ends now, in this order."""
        visible = self._visible(self.layout.slot(now_ms) - self.layout.window)
        slots = self.last[:, None] - (self.last[:, None] - np.arange(self.layout.cells)) % self.layout.cells
        found: list[tuple[int, int, int, int]] = []
        for bit in range(len(self.layout.signals)):
            has, counts = self._of_bit(bit)
            doc, cell = np.nonzero((counts > 0) & visible[has])
            rows, at = self.rows[has][doc].tolist(), slots[has][doc, cell].tolist()
            found += zip(rows, [bit] * len(rows), at, counts[doc, cell].tolist(), strict=True)
        return [(row, self.layout.signals[bit], slot, count) for row, bit, slot, count in sorted(found)]

    def _visible(self, oldest: int) -> NDArray[np.bool_]:
        """Return which cells of each ring hold a slot >= `oldest`; shape (rings, cells)."""
        cells = self.layout.cells
        after = np.minimum(np.maximum(self.last - oldest, -1), cells - 1)
        visible: NDArray[np.bool_] = _visible_cells(oldest % cells, cells)[after + 1]
        return visible

    def _of_bit(self, bit: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return which documents with a ring have had a signal, and its cells, of shape (those documents, cells)."""
        has = np.flatnonzero(self.masks >> np.uint32(bit) & np.uint32(1))
        if not has.size:
            return has, np.zeros((0, self.layout.cells), np.uint32)
        before = np.bitwise_count(self.masks[has] & np.uint32((1 << bit) - 1)).astype(np.int64)
        at = self.starts[has] + 1 + before * self.layout.cells
        # Every run of `cells` words, as a view: what `sliding_window_view` makes, which takes longer than all the rest.
        runs = np.ndarray((self.words.size - self.layout.cells + 1, self.layout.cells), "<u4", self.words, 0, (4, 4))
        return has, runs[at]


def totals(
    values: Sequence[bytes | None],
    layout: Layout,
    now_ms: int,
    weights: Mapping[str, float],
    *,
    days: float | None = None,
) -> NDArray[np.float64]:
    """Return the weighted count of each document over the window that ends now; float64 of shape (len(values),).

    Args:
        values: what Redis holds for each document; None counts as zero.
        layout: shape of the rings.
        now_ms: the reader's own time: counts fade even when nobody writes.
        weights: weight of each signal that is asked for.
        days: a window shorter than the layout's, for example 1 for the last day.

    Raises:
        LayoutError: a value is not a ring of this layout.
    """
    counts = Rings.of(values, layout).totals(list(weights), now_ms, days)
    return counts.astype(np.float64) @ np.fromiter(weights.values(), np.float64, len(weights))


def slots_of(value: bytes, layout: Layout, now_ms: int) -> list[tuple[str, int, int]]:
    """Return (signal, slot, count) of each non-zero cell of one ring within the window that ends now."""
    return [(signal, slot, count) for _, signal, slot, count in Rings.of([value], layout).cells(now_ms)]


@lru_cache(maxsize=256)
def _visible_cells(oldest: int, cells: int) -> NDArray[np.bool_]:
    """Return which cells hold a visible slot, a row for each number of slots from `oldest` to a ring's last, from -1.

    That number is small, so a look-up replaces the arithmetic on every cell of every ring; `oldest` is modulo `cells`.
    """
    after = np.arange(-1, cells)[:, None]
    return (oldest + after - np.arange(cells)) % cells <= after


def _not_a_ring() -> LayoutError:
    return LayoutError(
        "a counter in Redis is not a ring of the layout in force",
        why="another program wrote under clickwell's keys, or the settings of the counters changed",
        fix="`clickwell rebuild` counts again from Kafka",
    )
