"""What is known of a search, and what that counts in the windows. Pure.

Facts are merged by minimum and by OR, so they do not depend on the order of events, and repeats add nothing. What a
search counts is a function of its facts: when they grow, what they counted is taken back and what they count is added.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from clickwell.clock import MS_PER_HOUR
from clickwell.schemas.interactions import SIGNALS, Strength
from clickwell.schemas.windows import BYS, By
from clickwell.settings import EngagementSettings, Exposure

# What is known of one result of a search.
SHOWN, IMPRESSION, CLICK, SKIP, CONVERSION = 1, 2, 4, 8, 16
ACTED = CLICK | SKIP | CONVERSION
_OF_STRENGTH = {Strength.EXPOSURE: IMPRESSION, Strength.CONVERSION: CONVERSION}
BITS = {name: _OF_STRENGTH[strength] for name, strength in SIGNALS.items() if strength in _OF_STRENGTH}
BITS |= {"click": CLICK, "skip": SKIP}

# A position that no event tells.
UNKNOWN = -1
# Documents are counted once more at the first so many positions.
TOP = 3

Facts = list[Any]
"""What some events say about one search, as Redis keeps it: rank (0 of the search's own event, 1 of an interaction),
epoch ms, retriever, query, then position, document and bits of each result, each place once. The least of the first
four is what counts, and the OR of the bits."""

Row = int
"""Counts side by side, 32 bits each, so that one `+` adds rows: exposures, clicks, skips and conversions, and by
document the same at the top; the first lie lowest. See `packed`."""

Tables = dict[By, dict[str, Row]]
"""What the tables of one window gain: what is counted by -> `retriever NUL key` -> row."""

# What a result counts: as shown in the bits of what was done with it, or nothing.
_UNSEEN = 32
_ROWS = [1 | bool(acts & CLICK) << 32 | bool(acts & SKIP) << 64 | bool(acts & CONVERSION) << 96 for acts in range(32)]
_ROWS.append(0)
_ALSO_AT_TOP = 1 | 1 << 128
_COUNTS: dict[By, int] = {"position": 4, "query": 4, "document": 8}
_SIGNS = {by: sum(1 << 32 * n + 31 for n in range(counts)) for by, counts in _COUNTS.items()}


def merge(facts: Facts, more: Facts) -> Facts:
    """Return what both say of one search; the results of the first come first, in their order.

    The search's own event tells best when it was, whose and for what; without it, its earliest interaction.
    """
    both = facts if facts[:4] <= more[:4] else [*more[:4], *facts[4:]]
    both = both.copy()
    places = {place: n for n, place in enumerate(zip(facts[4::3], facts[5::3], strict=True))}
    for position, document, bits in zip(more[4::3], more[5::3], more[6::3], strict=True):
        n = places.get((position, document))
        if n is None:
            both += (position, document, bits)
        else:
            both[6 + 3 * n] |= bits
    return both


def without(facts: Facts, own: Sequence[Any], left: Facts) -> Facts:
    """Return what is known of a search when one of its events is taken back; nothing if that was all.

    Args:
        facts: what is known; which event said what is not.
        own: position, document and bits of each result that the event told of: these go, unless others say the same.
        left: what the events say that stay.
    """
    bits = dict(_results(facts))
    for place, gone in _results(own, 0):
        bits[place] = bits.get(place, 0) & ~gone
    for place, stays in _results(left):
        bits[place] = bits.get(place, 0) | stays
    results = [each for (position, document), about in bits.items() if about for each in (position, document, about)]
    return [*(left or facts)[:4], *results] if results or left else []


def _results(facts: Sequence[Any], first: int = 4) -> Iterator[tuple[tuple[int, str], int]]:
    """Yield position and document of each result, with its bits."""
    for n in range(first, len(facts), 3):
        yield (facts[n], facts[n + 1]), facts[n + 2]


class Gains:
    """What tables gain by searches. Counts by the settings, which say what an exposure is."""

    def __init__(self, settings: EngagementSettings) -> None:
        self._sources: dict[str, Exposure] = settings.exposure_by_retriever
        self._source: Exposure = settings.exposure
        self._single: dict[tuple[int, str, int], Row] = {}
        # (hour, retriever) -> rows by position, query, document
        self._rows: dict[tuple[int, str], tuple[dict[int, Row], dict[str, Row], dict[str, Row]]] = {}

    def add(self, facts: Facts) -> None:
        """Count a search of which nothing was known before."""
        if len(facts) == 7:
            self._add_single(*facts)
        else:
            self._add_results(facts, [_ROWS[acts] for acts in self._acts(facts)])

    def change(self, before: Facts, after: Facts) -> None:
        """Count what a search says now in place of what it said; `after` is `before` with more merged into it."""
        if before[:4] != after[:4]:
            self.take_back(before)
            self.add(after)
        elif before != after:
            pairs = zip_longest(self._acts(before), self._acts(after), fillvalue=_UNSEEN)
            self._add_results(after, [_ROWS[now] - _ROWS[then] for then, now in pairs])

    def take_back(self, facts: Facts) -> None:
        """Subtract what a search counts."""
        self._add_results(facts, [-_ROWS[acts] for acts in self._acts(facts)])

    def take(self) -> dict[int, Tables]:
        """Return what was gained since the last call, by hour; rows that gain nothing are left out."""
        hours: dict[int, Tables] = {}
        for (hour, retriever), (positions, queries, documents) in self._rows.items():
            tables = hours.setdefault(hour, {by: {} for by in BYS})
            keys = {"" if position == UNKNOWN else str(position): row for position, row in positions.items()}
            for table, rows in zip(tables.values(), (keys, queries, documents), strict=True):
                table |= {f"{retriever}\0{key}": row for key, row in rows.items() if row}
        self._rows = {}
        return hours

    def _add_single(
        self, rank: int, time_ms: int, retriever: str, query: str, position: int, document: str, bits: int
    ) -> None:
        """The same as for more results, at a third of the cost: most interactions name no search or come before it."""
        row = self._single.get((rank, retriever, bits))
        if row is None:
            row = self._learn(rank, retriever, bits)
        if row:
            positions, queries, documents = self._tables(time_ms, retriever)
            positions[position] = positions.get(position, 0) + row
            queries[query] = queries.get(query, 0) + row
            if UNKNOWN < position < TOP:
                row *= _ALSO_AT_TOP
            documents[document] = documents.get(document, 0) + row

    def _add_results(self, facts: Facts, rows: list[Row]) -> None:
        """Add a row for each result."""
        positions, queries, documents = self._tables(facts[1], facts[2])
        queries[facts[3]] = queries.get(facts[3], 0) + sum(rows)
        for position, document, row in zip(facts[4::3], facts[5::3], rows, strict=True):
            if row:
                positions[position] = positions.get(position, 0) + row
                at_top = UNKNOWN < position < TOP
                documents[document] = documents.get(document, 0) + (row * _ALSO_AT_TOP if at_top else row)

    def _tables(self, time_ms: int, retriever: str) -> tuple[dict[int, Row], dict[str, Row], dict[str, Row]]:
        window = time_ms // MS_PER_HOUR, retriever
        tables = self._rows.get(window)
        if tables is None:
            tables = self._rows[window] = {}, {}, {}
        return tables

    def _acts(self, facts: Facts) -> list[int]:
        """Return for each result whether it was clicked, skipped, converted, as bits, or that it was not seen."""
        relevant = self._exposing(facts[0], facts[2]) | ACTED
        positions, documents = facts[4::3], facts[5::3]
        bits = [each & relevant for each in facts[6::3]]
        if UNKNOWN in positions:
            _place(positions, documents, bits)
        if max(bits, default=0) < CLICK:
            return [0 if each else _UNSEEN for each in bits]
        clicks = [n for n, each in enumerate(bits) if each & CLICK]
        clicked = {documents[n] for n in clicks}
        deepest = max([positions[n] for n in clicks], default=UNKNOWN)
        acts = []
        for position, document, each in zip(positions, documents, bits, strict=True):
            if not each:
                acts.append(_UNSEEN)
            elif document in clicked or each & CONVERSION:
                acts.append(each & (CLICK | CONVERSION))
            else:
                acts.append(SKIP if UNKNOWN < position < deepest else each & SKIP)
        return acts

    def _exposing(self, rank: int, retriever: str) -> int:
        """Return the bit that says that a result was exposed. What was acted on was exposed in any case."""
        source = self._sources.get(retriever, self._source)
        if source == "auto":
            source = "explicit" if rank else "shown"
        return {"shown": SHOWN, "explicit": IMPRESSION, "implied": 0}[source]

    def _learn(self, rank: int, retriever: str, bits: int) -> Row:
        """Return the row of a search of which one result is known."""
        (acts,) = self._acts([rank, 0, retriever, "", 0, "", bits])
        # Names are free, so an attacker could fill memory with combinations; forgetting all of them is cheap.
        if len(self._single) > 10_000:
            self._single.clear()
        self._single[rank, retriever, bits] = _ROWS[acts]
        return _ROWS[acts]


def packed(by: By, rows: Iterable[Row]) -> bytes:
    """Return rows as Redis adds them: each count as a little-endian i32."""
    # A negative count borrows from its neighbour. With 2^31 on top of each none does, and turning that bit leaves the
    # two's complement.
    signs, size = _SIGNS[by], 4 * _COUNTS[by]
    return b"".join([((row + signs) ^ signs).to_bytes(size, "little") for row in rows])


def _place(positions: list[int], documents: list[str], bits: list[int]) -> None:
    """Move what events without a position tell to the first place where their document is known to have been."""
    first: dict[str, int] = {}
    for n, (position, document) in enumerate(zip(positions, documents, strict=True)):
        if position != UNKNOWN and bits[n] and (document not in first or position < positions[first[document]]):
            first[document] = n
    for n, (position, document) in enumerate(zip(positions, documents, strict=True)):
        if position == UNKNOWN and document in first:
            bits[first[document]] |= bits[n]
            bits[n] = 0
