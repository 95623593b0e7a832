"""The tables of the lake for DuckDB, Polars and Arrow, each for a range of days, with filters pushed down to the files.

```python
from clickwell.analytics import lake
from clickwell.settings import Settings

settings = Settings.load()
lake.relation(settings, "interactions", since=date(2026, 5, 1)).aggregate("count(*), avg(position)")
lake.scan(settings, "interactions").filter(pl.col("user_id") == "u17").collect()
lake.dataset(settings, "searches").to_table(columns=["query"])
```
Events of somebody who is being erased are left out from the moment on in which the eraser has heard of it; `files`
lists files that hold them until these are rewritten.

Each call reads the table's latest version and sees that one, whatever sinks and compactions do meanwhile, for as long
as the vacuum's grace.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from clickwell.errors import NoTableError, UsageError
from clickwell.settings import Settings
from clickwell.sinks.erase import hidden
from clickwell.sinks.table import DATE, TABLES, Table, open_table, storage_errors, storage_options

SIGNALS = """list_distinct(list_concat(interaction_type, case
  when list_contains(interaction_type, 'click') and duration_ms >= $long_view_ms then ['long_view']
  when list_contains(interaction_type, 'click') and duration_ms < $return_ms then ['return_to_results']
  else [] end))"""
"""SQL for what a row of interactions stands for: a click that lasted is a long view too, one that ended soon a return.

Its parameters are `long_view_ms`, a setting, and `return_ms`, `RETURN_TO_RESULTS_MS`.
"""


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
    return _files(settings, open_table(settings, table_of(name)), since, until)


def dataset(settings: Settings, name: str, *, since: date | None = None, until: date | None = None) -> ds.Dataset:
    """Return the days `since` to `until`, both included, as an Arrow data set.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    return _dataset(settings, open_table(settings, table_of(name)), since, until)


def scan(settings: Settings, name: str, *, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
    """Return the days `since` to `until`, both included, as a lazy Polars frame.

    Raises:
        LakeError: there is no such table, or its storage does not answer.
    """
    delta = open_table(settings, table_of(name))
    frame = pl.scan_delta(delta, storage_options=storage_options(settings) or None)
    for each in _hidden(settings, delta):
        frame = frame.filter(~_of(pl.col, each, pl.lit).fill_null(value=False))
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


def connect(
    settings: Settings,
    *,
    since: date | None = None,
    until: date | None = None,
    tables: Mapping[str, DeltaTable] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with a view for each table that exists, and no way to anything else.

    It reads no other file and no network, loads no extension, does not see Python's variables, and cannot change these
    settings. It spills nothing to disk. Text from outside must go through `query`: a statement such as COPY could still
    write over the lake's own files.

    Args:
        settings: where the lake is.
        since: first day; all when absent.
        until: last day, included.
        tables: by name, to see these alone, each at the version that is open.

    Raises:
        LakeError: there is no table at all, or the storage does not answer.
    """
    connection = duckdb.connect(":memory:")
    # The files never change, and a view reads the end of each when it is made and again at every query.
    connection.execute("SET parquet_metadata_cache=true")
    readable: list[str] = []
    for name, delta in (_present(settings) if tables is None else tables).items():
        paths = _files(settings, delta, since, until)
        if paths and "://" not in settings.lake_uri:
            # DuckDB's own reader is several times as fast as Arrow's; it knows only folders without an extension.
            source = f"read_parquet({paths!r}, hive_partitioning=true, union_by_name=true)"
            if conditions := _conditions(_hidden(settings, delta)):
                source += f" where not ({conditions})"
            connection.execute(f'create view "{name}" as select * from {source}')  # noqa: S608  # our own paths
            readable += paths
        else:
            connection.register(name, _dataset(settings, delta, since, until))
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


def shown(settings: Settings, delta: DeltaTable) -> pc.Expression | None:
    """Return the condition that nobody is erasing a row; None when that is true of all."""
    condition = None
    for each in _hidden(settings, delta):
        other = ~_of(pc.field, each, pa.scalar).is_valid() | ~_of(pc.field, each, pa.scalar)
        condition = other if condition is None else condition & other
    return condition


def _hidden(settings: Settings, delta: DeltaTable) -> list[dict[str, Any]]:
    """Return whose events are being erased: nobody shall read them while the files that hold them are rewritten."""
    with storage_errors(settings):
        return hidden(delta)


def _of(column: Callable[[str], Any], each: Mapping[str, Any], literal: Callable[..., Any]) -> Any:
    """Return the condition that a row belongs to a subject, in the words of Arrow or Polars."""
    found = column(each["kind"]) == each["value"]
    if each["since"] is not None:
        found &= column("timestamp") >= literal(_time(each["since"]))
    if each["until"] is not None:
        found &= column("timestamp") < literal(_time(each["until"]))
    return found


def _conditions(erased: Iterable[Mapping[str, Any]]) -> str:
    """Return the same for all subjects as SQL, empty when there is none."""
    return " or ".join(
        f"coalesce({each['kind']} = {_quoted(each['value'])}"
        + (f" and epoch_ms(timestamp) >= {int(each['since'])}" if each["since"] is not None else "")
        + (f" and epoch_ms(timestamp) < {int(each['until'])}" if each["until"] is not None else "")
        + ", false)"
        for each in erased
    )


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _present(settings: Settings) -> dict[str, DeltaTable]:
    """Open the tables that exist.

    Raises:
        LakeError: none does, or the storage does not answer.
    """
    found: dict[str, DeltaTable] = {}
    for table in TABLES:
        try:
            found[table.name] = open_table(settings, table)
        except NoTableError:
            continue
    return found or {TABLES[0].name: open_table(settings, TABLES[0])}


def _files(settings: Settings, delta: DeltaTable, since: date | None, until: date | None) -> list[str]:
    with storage_errors(settings):
        return sorted(delta.file_uris(file_pruning_predicate=_days(since, until)))


def _dataset(settings: Settings, delta: DeltaTable, since: date | None, until: date | None) -> ds.Dataset:
    data: Any = delta.to_pyarrow_dataset(file_pruning_predicate=_days(since, until))
    condition = shown(settings, delta)
    return data if condition is None else data.filter(condition)


def _days(since: date | None, until: date | None) -> Any:
    bounds = [(DATE, ">=", since.isoformat() if since else None), (DATE, "<=", until.isoformat() if until else None)]
    return [bound for bound in bounds if bound[2]] or None
