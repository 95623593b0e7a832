"""The tables of the lake for DuckDB, Polars and Arrow, each for a range of days, with filters pushed down to the files.

```python
from clickwell.analytics import lake
from clickwell.settings import Settings

settings = Settings.load()
lake.relation(settings, "interactions", since=date(2026, 5, 1)).aggregate("count(*), avg(position)")
lake.scan(settings, "interactions").filter(pl.col("user_id") == "u17").collect()
lake.dataset(settings, "searches").to_table(columns=["query"])
```
Each call reads the table's latest version and sees that one, whatever sinks and compactions do meanwhile, for as long
as the vacuum's grace.
"""

from datetime import date
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from clickwell.errors import UsageError
from clickwell.settings import Settings
from clickwell.sinks.standing import exists
from clickwell.sinks.table import DATE, TABLES, Table, away, open_table, storage_options


def table_of(name: str) -> Table:
    """Return the table with a name.

    Raises:
        UsageError: there is none.
    """
    for table in TABLES:
        if table.name == name:
            return table
    raise UsageError(f"there is no table {name!r}", fix=f"choose from {', '.join(table.name for table in TABLES)}")


def files(settings: Settings, name: str, *, since: date | None = None, until: date | None = None) -> list[str]:
    """Return the live Parquet files of the days `since` to `until`, both included, for tools that know no Delta.

    The list is right until the vacuum's grace has passed; a glob of the folder never is.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    delta = open_table(settings, table_of(name))
    try:
        return sorted(delta.file_uris(file_pruning_predicate=_days(since, until)))
    except (DeltaError, OSError) as error:
        raise away(settings, error) from None


def dataset(settings: Settings, name: str, *, since: date | None = None, until: date | None = None) -> ds.Dataset:
    """Return the days `since` to `until`, both included, as an Arrow data set.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    return _dataset(open_table(settings, table_of(name)), since, until)


def scan(settings: Settings, name: str, *, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
    """Return the days `since` to `until`, both included, as a lazy Polars frame.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    frame = pl.scan_delta(open_table(settings, table_of(name)), storage_options=storage_options(settings) or None)
    if since is not None:
        frame = frame.filter(pl.col(DATE) >= since)
    if until is not None:
        frame = frame.filter(pl.col(DATE) <= until)
    return frame


def relation(
    settings: Settings, name: str, *, since: date | None = None, until: date | None = None
) -> duckdb.DuckDBPyRelation:
    """Return the days `since` to `until`, both included, as a DuckDB relation on a connection of its own.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    return connect(settings, since=since, until=until).table(name)


def connect(settings: Settings, *, since: date | None = None, until: date | None = None) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with a view for each table that exists, and no way to anything else.

    It reads no other file and no network, loads no extension, does not see Python's variables, and cannot change these
    settings. It spills nothing to disk. Text from outside must go through `query`: a statement such as COPY could still
    write over the lake's own files.

    Raises:
        LakeError: there is no table at all, or the storage does not answer.
    """
    connection = duckdb.connect(":memory:")
    # The files never change, and a view reads the end of each when it is made and again at every query.
    connection.execute("SET parquet_metadata_cache=true")
    readable: list[str] = []
    present = [table for table in TABLES if exists(settings, table)]
    if not present:
        open_table(settings, TABLES[0])
    for table in present:
        paths = files(settings, table.name, since=since, until=until)
        if paths and "://" not in settings.lake_uri:
            # DuckDB's own reader is several times as fast as Arrow's; it knows only folders without an extension.
            source = f"read_parquet({paths!r}, hive_partitioning=true, union_by_name=true)"
            connection.execute(f'create view "{table.name}" as select * from {source}')  # noqa: S608  # our own paths
            readable += paths
        else:
            connection.register(table.name, dataset(settings, table.name, since=since, until=until))
    for setting in (
        "TimeZone='UTC'",
        "autoinstall_known_extensions=false",
        "autoload_known_extensions=false",
        "python_enable_replacements=false",
        "temp_directory=''",
        f"allowed_paths={readable!r}",
        "enable_external_access=false",
        "lock_configuration=true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def complete(connection: duckdb.DuckDBPyConnection) -> None:
    """Give a connection of `connect` an empty view for each table that does not exist yet."""
    present = {name for (name,) in connection.execute("select view_name from duckdb_views()").fetchall()}
    for table in TABLES:
        if table.name not in present:
            connection.register(table.name, table.delta_schema.empty_table())


def query(connection: duckdb.DuckDBPyConnection, text: str) -> pa.Table:
    """Run one query on a connection of `connect` and return its rows; safe for text from outside.

    Raises:
        UsageError: it is not one SELECT (or WITH, VALUES, DESCRIBE, SUMMARIZE), or it fails.
    """
    try:
        statements = connection.extract_statements(text)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise UsageError("only one query that reads is allowed", fix="begin it with select or with")
        return connection.sql(text).to_arrow_table()
    except duckdb.Error as error:
        raise UsageError("the query failed", why=" ".join(str(error).split())) from None


def _dataset(delta: DeltaTable, since: date | None, until: date | None) -> ds.Dataset:
    data: Any = delta.to_pyarrow_dataset(file_pruning_predicate=_days(since, until))
    return data


def _days(since: date | None, until: date | None) -> Any:
    bounds = [(DATE, ">=", since.isoformat() if since else None), (DATE, "<=", until.isoformat() if until else None)]
    return [bound for bound in bounds if bound[2]] or None
