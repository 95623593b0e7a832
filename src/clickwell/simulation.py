"""A made-up site whose truth is known, written straight into a lake: weeks of searches and clicks within seconds.

```python
site = Site(Plan(queries=2000, bad=20, skipped=20, unfindable=10))
truth = site.write(settings, start_ms=..., days=28, searches=200_000)
```
A person examines position k with probability `theta[k]` and clicks an examined result with probability
`gamma[query, candidate]`: the position-based model (Craswell et al., WSDM 2008). What is planted is listed in the
truth, so that whoever reports problems can be held against it; `Plan` says how hard the site makes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties
from numpy.typing import NDArray

from clickwell.clock import MS_PER_DAY
from clickwell.settings import Settings
from clickwell.sinks import files
from clickwell.sinks.table import DATE, INTERACTION_TABLE, SEARCH_TABLE, STRINGS, TIME, Table, create_table

POSITIONS = 10
CANDIDATES = 20
RANKERS = ("a", "b")
# Two searches in a row of a person who found nothing are about half a minute apart.
RETRY_MS = 30_000
READ_MS = 1_200


@dataclass(frozen=True)
class Plan:
    """What kind of site it is.

    Attributes:
        queries: healthy ones; the planted ones come on top.
        bad: queries whose results nobody likes.
        skipped: documents that stand at the top of a query each and that nobody likes.
        unfindable: queries that find nothing.
        noise: of the rankers, as the standard deviation beside relevance: 0.1 is strong, 1 is weak.
        zipf: exponent by which the frequency of queries falls.
        seed: of everything that is drawn.
    """

    queries: int = 2000
    bad: int = 0
    skipped: int = 0
    unfindable: int = 0
    noise: float = 0.2
    zipf: float = 0.4
    seed: int = 1


@dataclass(frozen=True)
class Life:
    """What changes over time, each as a function of the day, a float counted from the start.

    Attributes:
        relevance: factor of every chance to like a result.
        shown: results of a list, at most CANDIDATES.
        attention: power by which examination falls with the rank.
        load: factor of the traffic.
        niche: share of the searches that ask for the rarest tenth of the queries, on top of what they are asked anyway.
        recorded: chance that a click is recorded at all.
    """

    relevance: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.ones_like
    shown: Callable[[NDArray[np.float64]], NDArray[np.float64]] = field(
        default=lambda day: np.full_like(day, POSITIONS)
    )
    attention: Callable[[NDArray[np.float64]], NDArray[np.float64]] = field(default=lambda day: np.full_like(day, 0.8))
    load: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.ones_like
    niche: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.zeros_like
    recorded: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.ones_like


@dataclass(frozen=True)
class SiteTruth:
    """What was planted, and what the clicks are drawn from.

    Attributes:
        bad, unfindable: texts of the queries.
        skipped: ids of the documents.
        gamma: chance that an examined candidate is clicked; float64 of shape (queries, CANDIDATES).
        queries: text of each row of `gamma`.
        documents: id of each candidate, of the same shape as `gamma`.
    """

    bad: set[str]
    unfindable: set[str]
    skipped: set[str]
    gamma: NDArray[np.float64]
    queries: list[str]
    documents: NDArray[np.str_]


class Site:
    """A site: queries, documents, two rankers. The same plan makes the same site."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan = plan or Plan()
        rng = np.random.default_rng([plan.seed, plan.queries])
        kinds = ["healthy"] * plan.queries + ["bad"] * plan.bad + ["unfindable"] * plan.unfindable
        # The planted ones are as frequent as the others.
        order = rng.permutation(len(kinds))
        self._kinds = np.array(kinds)[order]
        names = np.array([f"{kind[0]}{number:04d}" for number, kind in enumerate(kinds)])[order]
        texts = [f"query {name}" for name in names.tolist()]
        documents = np.array([[f"d-{name}-{c}" for c in range(CANDIDATES)] for name in names.tolist()])
        # A few results of a query are liked by many and most by few.
        gamma = np.sort(rng.beta(1.2, 3.0, (len(kinds), CANDIDATES)), axis=1)[:, ::-1] * 0.9 + 0.05
        gamma[self._kinds == "bad"] = rng.uniform(0.005, 0.02, (plan.bad, CANDIDATES))
        scores = gamma[:, None, :] + rng.normal(0, plan.noise, (len(kinds), len(RANKERS), CANDIDATES))
        healthy = np.flatnonzero(self._kinds == "healthy")
        hosts = rng.choice(healthy[: max(len(healthy) * 3 // 4, plan.skipped)], plan.skipped, replace=False)
        gamma[hosts, -1] = 0.01
        scores[hosts, :, -1] = 10.0
        self._shown = np.argsort(-scores, axis=2)
        frequency = (1.0 + np.arange(len(kinds))) ** -plan.zipf
        self._cdf = np.cumsum(frequency) / frequency.sum()
        self._documents = pa.array(documents.ravel())
        self.truth = SiteTruth(
            bad={text for text, kind in zip(texts, self._kinds, strict=True) if kind == "bad"},
            unfindable={text for text, kind in zip(texts, self._kinds, strict=True) if kind == "unfindable"},
            skipped={str(documents[host, -1]) for host in hosts},
            gamma=gamma,
            queries=texts,
            documents=documents,
        )

    def write(
        self,
        settings: Settings,
        *,
        start_ms: int,
        days: float,
        searches: int,
        life: Life | None = None,
        retriever: str = "site",
        run: int = 0,
    ) -> SiteTruth:
        """Write `searches` searches and their clicks over the days from `start_ms` on into the lake.

        Args:
            settings: where the lake is.
            start_ms: epoch ms, the begin of a UTC day.
            days: how long.
            searches: how many people begin to search; those who find nothing try once more.
            life: what changes over time.
            retriever: retriever_id of all events.
            run: part of all ids and of the seed; another run into the same lake needs another number.
        """
        life = life or Life()
        rng = np.random.default_rng([self.plan.seed, run, searches])
        step = 1 / 24
        grid = np.arange(0, days + step / 2, step)
        density = (1 + 0.6 * np.cos(2 * np.pi * (grid - 19 / 24))) * life.load(grid)
        cdf = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
        times = np.interp(np.sort(rng.random(searches)) * cdf[-1], cdf, grid)
        query = np.searchsorted(self._cdf, rng.random(searches))
        rare = rng.random(searches) < life.niche(times)
        query[rare] = rng.integers(len(query) and len(self._cdf) * 9 // 10, len(self._cdf), int(rare.sum()))
        session = np.arange(searches)
        done = self._act(rng, times, query, life)
        # A third of those who clicked nothing ask in other words.
        again = np.flatnonzero(~done[1].any(1) & (rng.random(searches) < 1 / 3))
        retry = self._act(rng, times[again], (query[again] + 1) % len(self._cdf), life)
        shown, clicked, ranker, count = (np.concatenate(pair) for pair in zip(done, retry, strict=True))
        at_us = ((start_ms + times * MS_PER_DAY) * 1000).astype(np.int64)
        at_us = np.concatenate([at_us, at_us[again] + RETRY_MS * 1000])
        query = np.concatenate([query, (query[again] + 1) % len(self._cdf)])
        session = np.concatenate([session, again])
        self._write_searches(settings, run, retriever, at_us, query, session, shown, ranker, count)
        self._write_clicks(settings, run, retriever, rng, at_us, query, session, shown, clicked)
        return self.truth

    def _act(
        self, rng: np.random.Generator, times: NDArray[np.float64], query: NDArray[np.int64], life: Life
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Return what is shown, what is clicked, the ranker, and how long each list is."""
        n, most = len(times), CANDIDATES
        ranker = rng.integers(len(RANKERS), size=n)
        count = np.clip(life.shown(times), 0, most).astype(np.int64)
        count[self._kinds[query] == "unfindable"] = 0
        most = int(count.max(initial=1))
        shown = self._shown[query, ranker, :most]
        gamma = self.truth.gamma[query[:, None], shown]
        theta = (1.0 + np.arange(most)) ** -life.attention(times)[:, None]
        clicked = rng.random((n, most)) < theta * np.clip(gamma * life.relevance(times)[:, None], 0, 1)
        clicked &= np.arange(most) < count[:, None]
        clicked &= rng.random((n, 1)) < life.recorded(times)[:, None]
        wide = np.zeros((n, CANDIDATES), np.bool_)
        wide[:, :most] = clicked
        full = np.zeros((n, CANDIDATES), np.int64)
        full[:, :most] = shown
        return full, wide, ranker, count

    def _write_searches(
        self,
        settings: Settings,
        run: int,
        retriever: str,
        at_us: NDArray[np.int64],
        query: NDArray[np.int64],
        session: NDArray[np.int64],
        shown: NDArray[np.int64],
        ranker: NDArray[np.int64],
        count: NDArray[np.int64],
    ) -> None:
        kept = np.arange(CANDIDATES) < count[:, None]
        listed = self._documents.take(pa.array((query[:, None] * CANDIDATES + shown)[kept]))
        offsets = np.concatenate(([0], np.cumsum(count)))
        columns = {
            "execution_id": _ids(f"e{run}-", np.arange(len(query))),
            "query": pa.array(self.truth.queries).take(pa.array(query)),
            "ranker_id": pa.array(RANKERS).take(pa.array(ranker)),
            "results": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), listed).cast(STRINGS),
        }
        _append(settings, SEARCH_TABLE, columns, at_us, run, retriever, session)

    def _write_clicks(
        self,
        settings: Settings,
        run: int,
        retriever: str,
        rng: np.random.Generator,
        at_us: NDArray[np.int64],
        query: NDArray[np.int64],
        session: NDArray[np.int64],
        shown: NDArray[np.int64],
        clicked: NDArray[np.bool_],
    ) -> None:
        row, position = np.nonzero(clicked)
        read_us = ((position + 1) * READ_MS * 1000 * rng.uniform(0.5, 1.5, len(row))).astype(np.int64)
        kinds = pa.array([["click"], ["click", "long_view"]], STRINGS)
        columns = {
            "interaction_id": _ids(f"i{run}-", np.arange(len(row))),
            "feature_id": self._documents.take(pa.array(query[row] * CANDIDATES + shown[row, position])),
            "interaction_type": kinds.take(pa.array(rng.integers(2, size=len(row)))),
            "position": pa.array(position.astype(np.int32)),
            "execution_id": _ids(f"e{run}-", row),
            "query": pa.array(self.truth.queries).take(pa.array(query[row])),
        }
        _append(settings, INTERACTION_TABLE, columns, at_us[row] + read_us, run, retriever, session[row])


def _ids(prefix: str, numbers: NDArray[np.int64]) -> pa.Array:
    texts = np.char.add(prefix, numbers.astype(np.str_))
    return pa.array(texts)


def _append(
    settings: Settings,
    table: Table,
    columns: dict[str, pa.Array],
    at_us: NDArray[np.int64],
    run: int,
    retriever: str,
    session: NDArray[np.int64],
) -> None:
    """Write rows into a table in one commit, a file for each day."""
    n = len(at_us)
    shared = {
        "timestamp": pa.array(at_us).view(TIME),
        "received_at": pa.array(at_us).view(TIME),
        "session_id": _ids(f"s{run}-", session),
        "user_id": _ids(f"u{run}-", session // 3),
        "retriever_id": pa.repeat(retriever, n),
        "source": pa.repeat("simulation", n),
    }
    columns |= shared
    schema = table.schema
    rows = pa.Table.from_arrays([columns.get(f.name, pa.nulls(n, f.type)) for f in schema], schema=schema)
    rows = rows.take(np.argsort(at_us, kind="stable"))
    delta = create_table(settings, table)
    days = np.sort(at_us) // (MS_PER_DAY * 1000)
    adds: list[Any] = []
    for day in np.unique(days).tolist():
        first, last = np.searchsorted(days, [day, day + 1])
        adds.append(files.write(delta, table, _date(day), rows.slice(first, last - first), prefix="sink"))
    delta.create_write_transaction(
        adds,
        "append",
        table.delta_schema,
        partition_by=[DATE],
        commit_properties=CommitProperties(max_commit_retries=0),
    )


def _date(day: int) -> date:
    return datetime.fromtimestamp(day * MS_PER_DAY / 1000, UTC).date()


def midnight(day: date) -> int:
    """Return when a UTC day begins, in epoch milliseconds."""
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
