"""Which ids the table has got lately: a bounded memory in front of it, so that a repeated event appears once.

The rule is that of the counters. A bucket is the broker's record time ÷ dedup window; a row is a repeat if a row with
its id is in the table, in the same bucket or a neighbouring one. What is kept here is a copy of what the table holds,
read from it when a bucket is first needed, so a restart, a second sink or a replay decides in the same way.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from clickwell.sinks.columns import NO_ID

Ids = NDArray[np.uint64]
Buckets = NDArray[np.int64]


class RecentIds:
    """Sorted 8-byte hashes of ids, by bucket: 8 bytes an id, for the buckets around those that are being written.

    Args:
        load: returns (ids, buckets) of all rows of the table that lie in the given buckets.
    """

    def __init__(self, load: Callable[[set[int]], tuple[Ids, Buckets]]) -> None:
        self._load = load
        self._runs: dict[int, list[Ids]] = {}

    def forget(self) -> None:
        """Drop everything; it is read again when needed."""
        self._runs.clear()

    def repeats(self, ids: Ids, buckets: Buckets) -> NDArray[np.bool_]:
        """Return which rows repeat a stored row or an earlier one of these; buckets that are missing are read."""
        near = {int(bucket) + by for bucket in np.unique(buckets) for by in (-1, 0, 1)}
        if missing := near - self._runs.keys():
            self._runs |= {bucket: [] for bucket in missing}
            self._add(*self._load(missing), only=missing)
        stored = self._stored(ids, buckets)
        ordered = np.sort(ids[ids != NO_ID])
        # Mostly no id comes twice; then nothing has to be told apart.
        if not (ordered[1:] == ordered[:-1]).any():
            return stored
        _, group, sizes = np.unique(ids, return_inverse=True, return_counts=True)
        kept: dict[int, list[int]] = {}
        for index in np.flatnonzero((sizes[group] > 1) & (ids != NO_ID)).tolist():
            if stored[index]:
                continue
            bucket, others = int(buckets[index]), kept.setdefault(int(group[index]), [])
            stored[index] = any(abs(bucket - other) <= 1 for other in others)
            if not stored[index]:
                others.append(bucket)
        return stored

    def known(self, ids: Ids, buckets: Buckets) -> bool:
        """Tell whether any of these rows repeats a stored row, in buckets that are loaded."""
        return bool(self._stored(ids, buckets).any())

    def add(self, ids: Ids, buckets: Buckets) -> None:
        """Note rows that the table has got; those of buckets that are not loaded will be read with these."""
        self._add(ids, buckets, only=self._runs.keys())

    def keep_from(self, bucket: int) -> None:
        """Forget all buckets before this one."""
        for old in [each for each in self._runs if each < bucket]:
            del self._runs[old]

    def oldest(self) -> int | None:
        """Return the first bucket that is loaded."""
        return min(self._runs, default=None)

    def __len__(self) -> int:
        return sum(run.size for runs in self._runs.values() for run in runs)

    def _add(self, ids: Ids, buckets: Buckets, *, only: Iterable[int]) -> None:
        for bucket in set(np.unique(buckets).tolist()) & set(only):
            _merge(self._runs[bucket], np.sort(ids[(buckets == bucket) & (ids != NO_ID)]))

    def _stored(self, ids: Ids, buckets: Buckets) -> NDArray[np.bool_]:
        found = np.zeros(ids.size, np.bool_)
        for bucket in np.unique(buckets).tolist():
            rows = np.flatnonzero(buckets == bucket)
            # In order, neighbours are looked for where the cache still is: several times as fast.
            rows = rows[np.argsort(ids[rows])]
            wanted = ids[rows]
            for by in (-1, 0, 1):
                for run in self._runs.get(bucket + by, ()):
                    at = np.searchsorted(run, wanted)
                    found[rows] |= run[np.minimum(at, run.size - 1)] == wanted
        found &= ids != NO_ID
        return found


def _merge(runs: list[Ids], new: Ids) -> None:
    """Add a sorted run; runs of like size are merged, so that there are few of them and each is copied seldom."""
    while runs and runs[-1].size <= 2 * new.size:
        # Two sorted halves: a stable sort only merges them.
        new = np.sort(np.concatenate([runs.pop(), new]), kind="stable")
    if new.size:
        runs.append(new)
