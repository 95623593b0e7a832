"""What is known of a search, and what that counts. Pure.

Facts are merged by minimum and by OR, so they do not depend on the order of events, and repeats add nothing. What a
search counts is a function of its facts: when they grow, what they counted is taken back and what they count is added.
"""

from collections.abc import Sequence
from typing import Any

from clickwell.schemas.interactions import SIGNALS, Strength
from clickwell.settings import EngagementSettings, Exposure

# What is known of one result of a search.
SHOWN, IMPRESSION, CLICK, SKIP, CONVERSION = 1, 2, 4, 8, 16
ACTED = CLICK | SKIP | CONVERSION
_OF_STRENGTH = {Strength.EXPOSURE: IMPRESSION, Strength.CONVERSION: CONVERSION}
BITS = {name: _OF_STRENGTH[strength] for name, strength in SIGNALS.items() if strength in _OF_STRENGTH}
BITS |= {"click": CLICK, "skip": SKIP}

# What a result counts that was not exposed; else the bits of what was done with it, 0 for nothing.
UNSEEN = 32

# A position that no event tells.
UNKNOWN = -1

Facts = list[Any]
"""What some events say about one search, as Redis keeps it: rank (0 of the search's own event, 1 of an interaction),
epoch ms, retriever, query, then position, document and bits of each result, each place once. The least of the first
four is what counts, and the OR of the bits."""

# Length of facts about one result.
SINGLE = 7


def merge(facts: Facts, more: Facts) -> Facts:
    """Return what both say of one search; the results of the first come first, in their order.

    The search's own event tells best when it was, whose and for what; without it, its earliest interaction.
    """
    both = [*min(facts[:4], more[:4]), *facts[4:]]
    places = {place: n for n, place in enumerate(zip(facts[4::3], facts[5::3], strict=True))}
    for position, document, bits in zip(more[4::3], more[5::3], more[6::3], strict=True):
        n = places.get((position, document))
        if n is None:
            both += (position, document, bits)
        else:
            both[6 + 3 * n] |= bits
    return both


class Outcomes:
    """Tells what searches count by the settings, which say what an exposure is."""

    def __init__(self, settings: EngagementSettings) -> None:
        self._sources: dict[str, Exposure] = settings.exposure_by_retriever
        self._source: Exposure = settings.exposure

    def of(self, facts: Facts) -> list[int]:
        """Return what each result counts: whether it was clicked, skipped, converted, as bits; or `UNSEEN`."""
        relevant = self._exposing(facts[0], facts[2]) | ACTED
        positions, documents = facts[4::3], facts[5::3]
        bits = [each & relevant for each in facts[6::3]]
        if UNKNOWN in positions:
            _place(positions, documents, bits)
        if max(bits, default=0) < CLICK:
            return [0 if each else UNSEEN for each in bits]
        clicks = [n for n, each in enumerate(bits) if each & CLICK]
        clicked = {documents[n] for n in clicks}
        deepest = max([positions[n] for n in clicks], default=UNKNOWN)
        acts = []
        for position, document, each in zip(positions, documents, bits, strict=True):
            if not each:
                acts.append(UNSEEN)
            elif document in clicked or each & CONVERSION:
                acts.append(each & (CLICK | CONVERSION))
            else:
                acts.append(SKIP if UNKNOWN < position < deepest else each & SKIP)
        return acts

    def of_singles(self, singles: Sequence[Facts]) -> list[int]:
        """Return the same of searches of which one result each is known, as of most interactions without a search."""
        keys = [(facts[0], facts[2], facts[6]) for facts in singles]
        acts = {key: self.of([key[0], 0, key[1], "", 0, "", key[2]])[0] for key in {*keys}}
        return [acts[key] for key in keys]

    def _exposing(self, rank: int, retriever: str) -> int:
        """Return the bit that says that a result was exposed. What was acted on was exposed in any case."""
        source = self._sources.get(retriever, self._source)
        if source == "auto":
            source = "explicit" if rank else "shown"
        return {"shown": SHOWN, "explicit": IMPRESSION, "implied": 0}[source]


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
