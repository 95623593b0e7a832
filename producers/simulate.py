"""Seeded traffic of a made-up shop, vectorised: searches, clicks, dwell times, carts, purchases and skips."""

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.producers.records import Record
from clickwell.producers.shop import POSITIONS, RANKERS, Shop

USERS = 5000
# A visit ends with half an hour, the time-out that web analytics agreed on.
VISIT_MS = MS_PER_HOUR // 2
# Searches generated at once: large enough for numpy, small enough to start at once.
BATCH_SEARCHES = 2000
# A search is told this long after it happened, when all that it led to has happened too.
LAG_MS = 60_000
# Share by which traffic rises above and falls below its mean over the day, and the hour (UTC) of its peak.
RHYTHM = 0.7
PEAK_HOUR = 19

_RETRIEVER = "shop"
# Time to read one result on the way down the list, and the longest time until a click leads to more (ms): all that a
# search leads to happens within LAG_MS.
_READ_MS = 900
_THINK_MS = 20_000


class Traffic:
    """What people do in a shop; the same shop, seed and start make the same events, ids included.

    Args:
        shop: where they do it.
        seed: of everything that is drawn.
        start_ms: names the run: ids of two runs differ, or the second would be taken for a repeat of the first.
        long_view_ms: a click that lasted this long is a long_view too.
        tastes: how much people differ. Each has a liking for every brand, drawn from the standard normal distribution;
            the chance of a click is multiplied by `exp(tastes * liking - tastes ** 2 / 2)`, whose mean is 1.
    """

    def __init__(
        self, shop: Shop, *, seed: int = 1, start_ms: int, long_view_ms: int = 30_000, tastes: float = 0.0
    ) -> None:
        self._shop = shop
        self._rng = np.random.default_rng([seed, start_ms])
        self._run = f"{seed}-{start_ms}"
        self._long_view_ms = long_view_ms
        self._searches = 0
        # Queries and users follow Zipf's law.
        self._query_cdf = _zipf_cdf(len(shop.queries), 0.9)
        self._user_cdf = _zipf_cdf(USERS, 0.6)
        # Now and then a ranker swaps two neighbours, as live traffic does; the last variant swaps none.
        variants = np.repeat(shop.shown[:, :, None, :], POSITIONS, axis=2)
        for swap in range(POSITIONS - 1):
            variants[:, :, swap, [swap, swap + 1]] = variants[:, :, swap, [swap + 1, swap]]
        self._variants = variants
        self._documents = shop.truth.candidates[np.arange(len(shop.queries))[:, None, None, None], variants]
        self._results: dict[tuple[int, int, int], str] = {}
        self._queries = [json.dumps(query) for query in shop.queries]
        brands, self._brand_of = np.unique([row["brand"] for row in shop.catalog], return_inverse=True)
        # Drawn apart, so that the same people without tastes do the same as ever.
        likings = np.random.default_rng([seed, USERS]).normal(size=(USERS, len(brands)))
        self._tastes: NDArray[np.float64] = np.exp(tastes * likings - tastes**2 / 2)

    def history(self, searches: int, days: float, end_ms: int) -> Iterator[list[Record]]:
        """Yield batches of events of `searches` searches over the `days` before `end_ms`, in time order.

        Traffic follows the time of day: density 1 + RHYTHM * cos(2 pi (hour - PEAK_HOUR) / 24).
        """
        begin = end_ms - LAG_MS - round(days * MS_PER_DAY)
        grid = np.linspace(begin, end_ms - LAG_MS, max(2, round(days * 24 * 12)))
        density = 1 + RHYTHM * np.cos(2 * np.pi * (grid / MS_PER_HOUR - PEAK_HOUR) / 24)
        cdf = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
        times = np.interp(np.sort(self._rng.random(searches)) * cdf[-1], cdf, grid).astype(np.int64)
        for first in range(0, searches, BATCH_SEARCHES):
            yield self.batch(times[first : first + BATCH_SEARCHES])

    def batch(self, times: NDArray[np.int64]) -> list[Record]:
        """Return the events of one search at each of the times (epoch ms), search by search."""
        shop, rng, n = self._shop, self._rng, len(times)
        queries = np.searchsorted(self._query_cdf, rng.random(n))
        rankers = rng.integers(len(RANKERS), size=n)
        swaps = rng.integers(POSITIONS, size=n)
        users = np.searchsorted(self._user_cdf, rng.random(n))
        documents = self._documents[queries, rankers, swaps]
        gamma = shop.truth.gamma[queries[:, None], self._variants[queries, rankers, swaps]]
        gamma = np.minimum(gamma * self._tastes[users[:, None], self._brand_of[documents]], 0.95)
        clicked = rng.random((n, POSITIONS)) < shop.truth.theta * gamma
        deepest = np.where(clicked.any(1), POSITIONS - 1 - clicked[:, ::-1].argmax(1), -1)
        # People stay long on what they like: median 5 s at gamma 0, 60 s at gamma 1.
        stayed = np.minimum(rng.lognormal(np.log(5_000 + 55_000 * gamma), 0.8), 600_000).astype(np.int64)
        read = (_READ_MS * (1 + np.arange(POSITIONS)) + rng.integers(_READ_MS, size=(n, POSITIONS))).astype(np.int64)
        carted = rng.random((n, POSITIONS)) < 0.3 * gamma
        bought = rng.random((n, POSITIONS)) < 0.4
        thought = rng.integers(1000, _THINK_MS, size=(n, POSITIONS))

        first = self._searches
        self._searches += n
        records: list[Record] = []
        rows = zip(times.tolist(), queries.tolist(), rankers.tolist(), swaps.tolist(), users.tolist(), strict=True)
        for i, (time_ms, query, ranker, swap, user) in enumerate(rows):
            execution = f"{self._run}-{first + i}"
            who = (
                f'"execution_id":"{execution}","retriever_id":"{_RETRIEVER}","user_id":"u{user}"'
                f',"session_id":"v{user}-{time_ms // VISIT_MS}"'
            )
            value = (
                f'{{{who},"timestamp":{time_ms},"query":{self._queries[query]},"ranker_id":"{RANKERS[ranker]}"'
                f',"results":{self._shown(query, ranker, swap)}}}'
            )
            records.append(Record("search", execution, execution.encode(), value.encode()))
            for position in range(deepest[i] + 1):
                document = shop.feature_ids[documents[i, position]]
                about = f'{who},"feature_id":"{document}","position":{position}'
                said = f'"query":{self._queries[query]}'
                key = document.encode()
                if not clicked[i, position]:
                    records.append(_interaction(f"{execution}:s{position}", key, about, '"skip"', time_ms, said))
                    continue
                at, lasted = time_ms + int(read[i, position]), int(stayed[i, position])
                types = '"click","long_view"' if lasted >= self._long_view_ms else '"click"'
                records.append(
                    _interaction(f"{execution}:c{position}", key, about, types, at, f'{said},"duration_ms":{lasted}')
                )
                if carted[i, position]:
                    at += int(thought[i, position])
                    records.append(_interaction(f"{execution}:a{position}", key, about, '"add_to_cart"', at, said))
                    if bought[i, position]:
                        at += int(thought[i, position])
                        records.append(_interaction(f"{execution}:p{position}", key, about, '"purchase"', at, said))
        return records

    def _shown(self, query: int, ranker: int, swap: int) -> str:
        """Return the shown list as JSON, made once for each list that occurs."""
        place = (query, ranker, swap)
        if place not in self._results:
            documents = [self._shop.feature_ids[document] for document in self._documents[place]]
            self._results[place] = json.dumps(documents, separators=(",", ":"))
        return self._results[place]


def events_per_search(shop: Shop) -> float:
    """Return about how many events a search leads to, itself included, from 20,000 searches of their own."""
    traffic, searches = Traffic(shop, seed=0, start_ms=0), 20_000
    return len(traffic.batch(np.zeros(searches, np.int64))) / searches


def _interaction(event_id: str, key: bytes, about: str, types: str, time_ms: int, metadata: str) -> Record:
    value = (
        f'{{"interaction_id":"{event_id}",{about},"interaction_type":[{types}],"timestamp":{time_ms}'
        f',"metadata":{{{metadata}}}}}'
    )
    return Record("interaction", event_id, key, value.encode())


def _zipf_cdf(n: int, exponent: float) -> NDArray[np.float64]:
    cdf: NDArray[np.float64] = np.cumsum((1.0 + np.arange(n)) ** -exponent)
    cdf /= cdf[-1]
    return cdf
