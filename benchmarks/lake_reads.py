"""How fast the lake is read before and after compaction: one user's interactions, and CTR by position over all days.

Writes synthetic interactions of thirty days, as one flush after another would, into a lake; needs no server. With
`--folder` the lake stays there, and the next run with the same folder only measures it. Exit code 3: a bar was missed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties
from report import bar, save, verdict

from clickwell.analytics import lake
from clickwell.analytics.listing import Filters, interactions
from clickwell.failpoints import Failpoints
from clickwell.settings import Settings
from clickwell.sinks import files
from clickwell.sinks.compact import compact, live_files
from clickwell.sinks.standing import exists
from clickwell.sinks.table import DATE, INTERACTION_TABLE, STRINGS, TIME, create_table, open_table

DAYS, USERS, DOCUMENTS, PROBES = 30, 200_000, 30_000, 60
USER_BAR_MS, CTR_BAR_S, FILES_BAR = 300, 2, 20
CTR = """
select position, count(*) filter (list_contains(interaction_type, 'click')) / count(*) as ctr
from interactions where position < 50 group by position order by position
"""


def main() -> int:
    """Write, read, compact, read, and print what was measured."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="clickwell-lake-") as temporary:
        settings = Settings.load(asked.folder or Path(temporary))
        rows = {}
        if not exists(settings, INTERACTION_TABLE):
            begun = time.monotonic()
            _write(settings, asked.events, asked.flushes)
            print(f"{asked.events:,} events written in {time.monotonic() - begun:.0f} s", file=sys.stderr)
            rows["before compaction"] = _measure(settings, asked.probes)
            begun = time.monotonic()
            compact(settings, INTERACTION_TABLE, Failpoints(), everything=True)
            print(f"compacted in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        after = rows["after compaction"] = _measure(settings, asked.probes)
    bars = [
        bar(f"one user's listing p95 < {USER_BAR_MS} ms", after["listing_p95_ms"], most=USER_BAR_MS),
        bar(f"one user by SQL p95 < {USER_BAR_MS} ms", after["user_p95_ms"], most=USER_BAR_MS),
        bar(f"CTR by position < {CTR_BAR_S} s", after["ctr_s"], most=CTR_BAR_S),
    ]
    if before := rows.get("before compaction"):
        bars.append(bar(f">= {FILES_BAR} x fewer files", before["files"] / after["files"], least=FILES_BAR))
    print(f"{'':<20}{'':>8}{'':>8}{'listing ms':>16}{'by SQL ms':>16}{'CTR by':>12}")
    print(f"{'':<20}{'files':>8}{'MB':>8}{'p50':>8}{'p95':>8}{'p50':>8}{'p95':>8}{'position s':>12}")
    for name, one in rows.items():
        print(
            f"{name:<20}{one['files']:>8,}{one['mb']:>8,.0f}{one['listing_p50_ms']:>8.0f}{one['listing_p95_ms']:>8.0f}"
            f"{one['user_p50_ms']:>8.0f}{one['user_p95_ms']:>8.0f}{one['ctr_s']:>12.2f}"
        )
    met = verdict(bars)
    if asked.json:
        save("lake", events=asked.events, measured=rows, bars=bars)
    return 0 if met else 3


def _write(settings: Settings, events: int, flushes: int) -> None:
    """Write `flushes` files for each day."""
    numbers = np.random.default_rng(7)
    delta = create_table(settings, INTERACTION_TABLE)
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    popularity = 1 / np.arange(1, DOCUMENTS + 1)
    popularity /= popularity.sum()
    each = events // (DAYS * flushes)
    for day in range(DAYS):
        adds = []
        for flush in range(flushes):
            first_us = int((start + timedelta(days=day)).timestamp() * 1e6) + flush * (86_400_000_000 // flushes)
            rows = _rows(numbers, popularity, each, first_us, 86_400_000_000 // flushes)
            adds.append(
                files.write(delta, INTERACTION_TABLE, (start + timedelta(days=day)).date(), rows, prefix="sink")
            )
        delta.create_write_transaction(
            adds,
            "append",
            INTERACTION_TABLE.delta_schema,
            partition_by=[DATE],
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        delta.update_incremental()


def _rows(numbers: Any, popularity: Any, count: int, first_us: int, span_us: int) -> pa.Table:
    def text(prefix: str, values: Any) -> pa.Array:
        return pa.array([f"{prefix}{value}" for value in values.tolist()])

    kinds = pa.array([["click"], ["impression"], ["skip"], ["add_to_cart"]], STRINGS)
    times = pa.array(np.sort(first_us + numbers.integers(span_us // 1000, size=count) * 1000)).view(TIME)
    ids = numbers.bytes(16 * count).hex()
    columns = {
        "interaction_id": pa.array([ids[32 * i : 32 * i + 32] for i in range(count)]),
        "feature_id": text("doc-", numbers.choice(DOCUMENTS, count, p=popularity)),
        "interaction_type": kinds.take(pa.array(numbers.choice(4, count, p=(0.3, 0.5, 0.15, 0.05)))),
        "position": pa.array(numbers.geometric(0.2, count).astype(np.int32) - 1),
        "user_id": text("user-", numbers.integers(USERS, size=count)),
        "session_id": text("s", numbers.integers(10**9, size=count)),
        "execution_id": text("e", numbers.integers(10**9, size=count)),
        "query": text("query ", numbers.integers(5000, size=count)),
        "timestamp": times,
        "received_at": times,
        "kafka_offset": pa.array(np.arange(count)),
    }
    schema = INTERACTION_TABLE.schema
    return pa.Table.from_arrays(
        [columns[f.name] if f.name in columns else pa.nulls(count, f.type) for f in schema], schema=schema
    )


def _measure(settings: Settings, probes: int) -> dict[str, float]:
    """Return how long the questions take, each time from opening the lake, as a new process would ask."""
    live = live_files(open_table(settings, INTERACTION_TABLE))
    listing, by_sql = [], []
    for number in np.random.default_rng(1).integers(USERS, size=probes):
        user = f"user-{number}"
        listing.append(_milliseconds(lambda user=user: interactions(settings, Filters(user_id=user), size=1000)))
        text = f"select * from interactions where user_id = '{user}'"
        by_sql.append(_milliseconds(lambda text=text: _ask(settings, text)))
    found = {"files": len(live), "mb": sum(file.size for file in live) / 1e6}
    for name, taken in (("listing", listing), ("user", by_sql)):
        found |= {f"{name}_p50_ms": statistics.median(taken), f"{name}_p95_ms": statistics.quantiles(taken, n=20)[-1]}
    return found | {"ctr_s": _milliseconds(lambda: _ask(settings, CTR)) / 1000}


def _ask(settings: Settings, text: str) -> None:
    with lake.connect(settings) as connection:
        assert lake.query(connection, text).num_rows


def _milliseconds(call: Callable[[], Any]) -> float:
    begun = time.monotonic()
    call()
    return 1000 * (time.monotonic() - begun)


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=10_000_000)
    arguments.add_argument("--flushes", type=int, default=40, help="files of each day before compaction")
    arguments.add_argument("--probes", type=int, default=60, help="people to list")
    arguments.add_argument("--folder", type=Path, help="keep the lake there; one that is there is not written again")
    arguments.add_argument("--json", action="store_true", help="also write the result file")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(main())
