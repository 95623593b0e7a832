"""How long it takes from 1,000,000 interactions in the lake to training pairs.

Writes a synthetic month of searches, clicks and skips into a lake in a temporary folder: three rankers, queries of
Zipf's law, clicks with known examination; needs no server. Exit code 3: the bar was missed.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties
from report import save

from clickwell.analytics import get_query_document_pairs
from clickwell.analytics.training_export import Options, export_pairs
from clickwell.settings import Settings
from clickwell.sinks import files
from clickwell.sinks.table import DATE, INTERACTION_TABLE, SEARCH_TABLE, STRINGS, TIME, Table, create_table

DAYS, QUERIES, CANDIDATES, POSITIONS, RANKERS, USERS = 30, 20_000, 15, 10, 3, 100_000
THETA = (1 + np.arange(POSITIONS)) ** -0.8
BAR_S = 30


def main() -> int:
    """Write, judge, export, and print what was measured."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="clickwell-pairs-", dir=asked.folder) as temporary:
        settings = Settings.load(Path(temporary))
        written = _write(settings, asked.interactions)
        print(f"{written['interactions']:,} interactions of {written['searches']:,} searches written", file=sys.stderr)
        begun, worked = time.monotonic(), time.process_time()
        found = get_query_document_pairs(settings)
        tuples = sum(1 for _ in found.tuples())
        pairs_s, cpu_s = time.monotonic() - begun, time.process_time() - worked
        export_s = None
        if asked.export:
            begun = time.monotonic()
            export_pairs(settings, Path(temporary) / "out", Options())
            export_s = time.monotonic() - begun
    wrong = np.abs(np.array(found.propensities.theta) / THETA - 1)[1:].mean()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{found.table.num_rows:,} pairs and {tuples:,} tuples in {pairs_s:.1f} s, {cpu_s:.1f} s of CPU")
    print(f"mean error of theta {wrong:.3f}")
    if export_s is not None:
        print(f"the whole export with rankings in {export_s:.1f} s")
    print(f"peak RSS {rss:,.0f} MB")
    met = pairs_s < BAR_S
    print(f"{'met   ' if met else 'MISSED'}  pairs < {BAR_S} s: {pairs_s:.1f}")
    if asked.json:
        save(
            "pairs",
            **written,
            pairs_s=pairs_s,
            cpu_s=cpu_s,
            export_s=export_s,
            theta_error=float(wrong),
            rss_mb=rss,
            met=met,
        )
    return 0 if met else 3


def _write(settings: Settings, interactions: int) -> dict[str, int]:
    """Write searches and their interactions, day by day, until there are so many interactions."""
    numbers = np.random.default_rng(7)
    gamma = np.where(numbers.random((QUERIES, CANDIDATES)) < 0.3, 0.6, 0.08)
    noise = numbers.normal(0, 0.3, (RANKERS, QUERIES, CANDIDATES))
    orders = np.argsort(-(gamma + noise), axis=2)[:, :, :POSITIONS]
    popularity = 1 / np.arange(1, QUERIES + 1)
    deltas = {table: create_table(settings, table) for table in (SEARCH_TABLE, INTERACTION_TABLE)}
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    written = {"searches": 0, "interactions": 0}
    for day in range(DAYS):
        wanted = (day + 1) * interactions // DAYS - written["interactions"]
        # A search leads to about two and a half clicks and skips.
        count = round(wanted / 2.5)
        query = numbers.choice(QUERIES, count, p=popularity / popularity.sum())
        ranker = numbers.integers(RANKERS, size=count)
        lists = orders[ranker, query]
        clicked = numbers.random(lists.shape) < THETA * gamma[query[:, None], lists]
        at = start + timedelta(days=day)
        for table, rows in _rows(numbers, at, f"{day}", query, ranker, lists, clicked):
            add = files.write(deltas[table], table, at.date(), rows, prefix="sink")
            deltas[table].create_write_transaction(
                [add],
                "append",
                table.delta_schema,
                partition_by=[DATE],
                commit_properties=CommitProperties(max_commit_retries=0),
            )
            deltas[table].update_incremental()
            written[table.name] += len(rows)
    return written


def _rows(
    numbers: Any, at: datetime, name: str, query: Any, ranker: Any, lists: Any, clicked: Any
) -> Iterator[tuple[Table, pa.Table]]:
    """Yield the rows of a day's searches and of their clicks and skips."""
    count = len(query)
    times = int(at.timestamp() * 1e6) + np.sort(numbers.integers(86_000_000, size=count)) * 1000
    documents = (query[:, None] * CANDIDATES + lists) % (QUERIES * 5)
    shared = {
        "execution_id": pa.array([f"e{name}-{n}" for n in range(count)]),
        "user_id": pa.array([f"user-{n}" for n in numbers.integers(USERS, size=count).tolist()]),
        "retriever_id": pa.repeat("bench", count),
    }
    names = pa.array([f"doc-{document}" for document in documents.ravel().tolist()])
    stamps = pa.array(times).view(TIME)
    yield (
        SEARCH_TABLE,
        _table(
            SEARCH_TABLE,
            shared
            | {
                "query": pa.array([f"query {n}" for n in query.tolist()]),
                "ranker_id": pa.array([f"r{n}" for n in ranker.tolist()]),
                "results": pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * POSITIONS, names).cast(
                    STRINGS
                ),
                "timestamp": stamps,
                "received_at": stamps,
            },
        ),
    )
    deepest = np.where(clicked.any(1), POSITIONS - 1 - clicked[:, ::-1].argmax(1), -1)
    search, place = np.nonzero(np.arange(POSITIONS) <= deepest[:, None])
    is_click = clicked[search, place]
    stayed = numbers.lognormal(10, 1, len(search)).astype(np.int64)
    stamps = pa.array(times[search] + 1_000_000 * (1 + place)).view(TIME)
    yield (
        INTERACTION_TABLE,
        _table(
            INTERACTION_TABLE,
            {column: values.take(pa.array(search)) for column, values in shared.items()}
            | {
                "interaction_id": pa.array([f"i{name}-{n}" for n in range(len(search))]),
                "feature_id": names.take(pa.array(search * POSITIONS + place)),
                "interaction_type": pa.array([["skip"], ["click"]], STRINGS).take(pa.array(is_click.astype(np.int32))),
                "position": pa.array(place.astype(np.int32)),
                "duration_ms": pa.array(np.where(is_click, stayed, 0), mask=~is_click),
                "timestamp": stamps,
                "received_at": stamps,
            },
        ),
    )


def _table(table: Table, columns: dict[str, Any]) -> pa.Table:
    """Return the columns as rows of a table, null where there is none."""
    count = len(columns["timestamp"])
    return pa.Table.from_arrays(
        [columns[f.name] if f.name in columns else pa.nulls(count, f.type) for f in table.schema], schema=table.schema
    )


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--interactions", type=int, default=1_000_000)
    arguments.add_argument("--export", action="store_true", help="also time an export of all files")
    arguments.add_argument("--folder", type=Path, help="where to put the temporary lake")
    arguments.add_argument("--json", action="store_true", help="also write the result file")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(main())
