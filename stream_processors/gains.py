"""What the tables of windows gain by many searches, added up by column. Pure."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clickwell.clock import MS_PER_HOUR
from clickwell.schemas.windows import By
from clickwell.stream_processors.lane import Arg
from clickwell.stream_processors.outcomes import CLICK, CONVERSION, SKIP, UNKNOWN, UNSEEN, Facts

# Documents are counted once more at the first so many positions.
TOP = 3

Ints = NDArray[np.int64]

# What a result counts -> exposures, clicks, skips, conversions.
_COUNTS = np.zeros((UNSEEN + 1, 4), "<i4")
_COUNTS[:UNSEEN] = [(1, bool(acts & CLICK), bool(acts & SKIP), bool(acts & CONVERSION)) for acts in range(UNSEEN)]


class Gains:
    """Collects what searches count, of many shards at once: a few passes over columns cost less than sums by name."""

    def __init__(self) -> None:
        # Of each search: shard, epoch ms, retriever, query.
        self._shards: list[int] = []
        self._times: list[int] = []
        self._retrievers: list[str] = []
        self._queries: list[str] = []
        # Of each result: its search, position, document, what it counts now, what it counted before.
        self._searches: list[int] = []
        self._positions: list[int] = []
        self._documents: list[str] = []
        self._now: list[int] = []
        self._then: list[int] = []

    def add(self, shard: int, facts: Facts, now: Sequence[int], then: Sequence[int] = ()) -> None:
        """Add what the results of a search count now, in place of what the first of them counted before."""
        self._searches += [len(self._shards)] * len(now)
        self._shards.append(shard)
        self._times.append(facts[1])
        self._retrievers.append(facts[2])
        self._queries.append(facts[3])
        self._positions += facts[4::3]
        self._documents += facts[5::3]
        self._now += now
        self._then += then
        self._then += [UNSEEN] * (len(now) - len(then))

    def add_singles(self, shard: int, singles: Sequence[Facts], now: Sequence[int]) -> None:
        """Add many searches of one result each."""
        _, times, retrievers, queries, positions, documents, _ = zip(*singles, strict=True)
        self._searches += range(len(self._shards), len(self._shards) + len(singles))
        self._shards += [shard] * len(singles)
        self._times += times
        self._retrievers += retrievers
        self._queries += queries
        self._positions += positions
        self._documents += documents
        self._now += now
        self._then += [UNSEEN] * len(singles)

    def tables(self) -> dict[int, list[Arg]]:
        """Return for each shard its tables as the function in Redis takes them; rows that gain nothing are left out."""
        shares: dict[int, list[Arg]] = {}
        if not self._searches:
            return shares
        searches = np.array(self._searches)
        hours, hour = np.unique(np.array(self._times) // MS_PER_HOUR, return_inverse=True)
        retrievers, retriever_of = _coded(self._retrievers)
        queries, query = _coded(self._queries)
        documents, document = _coded(self._documents)
        # Keys order rows by shard and hour, and name them by retriever.
        of = ((np.array(self._shards) * len(hours) + hour) * len(retrievers) + retriever_of)[searches]
        position = np.array(self._positions)
        positions, place = np.unique(position, return_inverse=True)
        counts = _COUNTS[self._now] - _COUNTS[self._then]
        top = counts * ((position > UNKNOWN) & (position < TOP))[:, None]
        heads = [retriever + "\0" for retriever in retrievers]
        columns: tuple[tuple[By, Sequence[str], Ints, NDArray[np.int32]], ...] = (
            ("position", ["" if each == UNKNOWN else str(each) for each in positions.tolist()], place, counts),
            ("query", queries, query[searches], counts),
            ("document", documents, document, np.hstack((counts, top))),
        )
        for by, names, key, values in columns:
            keys, sums = _summed(of * len(names) + key, values)
            of_key, name = np.divmod(keys, len(names))
            window, whose = np.divmod(of_key, len(retrievers))
            rows = [heads[r] + names[n] for r, n in zip(whose.tolist(), name.tolist(), strict=True)]
            edges = [*_starts(window).tolist(), len(rows)]
            for first, last in pairwise(edges):
                shard, at = divmod(int(window[first]), len(hours))
                table = (by, int(hours[at]), last - first, sums[first:last].tobytes(), *rows[first:last])
                shares.setdefault(shard, []).extend(table)
        return shares


def _coded(values: Sequence[str]) -> tuple[list[str], Ints]:
    """Return the different values, and for each value its place among them."""
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    return list(codes), np.fromiter(map(codes.__getitem__, values), np.int64, len(values))


def _summed(keys: Ints, values: NDArray[np.int32]) -> tuple[Ints, NDArray[np.int32]]:
    """Return the different keys in order, and the sum of the values of each, without those of zero."""
    order = np.argsort(keys)
    keys = keys[order]
    starts = _starts(keys)
    sums = np.add.reduceat(values[order], starts, axis=0, dtype=values.dtype)
    some = sums.any(axis=1)
    return keys[starts][some], sums[some]


def _starts(ordered: Ints) -> Ints:
    """Return where runs of equal values begin."""
    return np.flatnonzero(np.diff(ordered, prepend=-1))
