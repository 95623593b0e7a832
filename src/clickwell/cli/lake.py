"""`clickwell lake ...`: look at the lake, keep it in order, take data out of it."""

import hashlib
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from clickwell.cli import output, send
from clickwell.cli.output import DataOption, JsonOption
from clickwell.cli.send import (
    PARTLY_DONE,
    FileFormat,
    FirstPositionOption,
    FormatOption,
    RebaseOption,
    RetrieverOption,
    tell_rejects,
)
from clickwell.errors import UsageError
from clickwell.settings import Settings

TableOption = Annotated[str, typer.Option("--table", help="interactions or searches.")]
SinceOption = Annotated[str | None, typer.Option("--since", metavar="DATE", help="First day, as 2026-05-01.")]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day, included.")]


class ExportFormat(StrEnum):
    """What an export is written as."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    lake = typer.Typer(
        name="lake",
        epilog=output.examples("clickwell lake status", 'clickwell lake sql "select count(*) from interactions"'),
        help="Look at the lake, keep it in order, take data out of it.",
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command, examples in (
        (status, ("clickwell lake status", "clickwell lake status --json")),
        (files, ("clickwell lake files", "clickwell lake files --table searches --since 2026-05-01 --json")),
        (compact, ("clickwell lake compact", "clickwell lake compact --all --vacuum")),
        (vacuum, ("clickwell lake vacuum", "clickwell lake vacuum --dry-run")),
        (
            sql,
            (
                'clickwell lake sql "select position, count(*) from interactions group by 1 order by 1"',
                'clickwell lake sql --since 2026-05-01 --jsonl "select * from searches"',
            ),
        ),
        (
            load,
            (
                "clickwell lake load history.jsonl.gz",
                "clickwell lake load searches.jsonl --format sessions --retriever site",
            ),
        ),
        (
            export,
            (
                "clickwell lake export out --since 2026-05-01 --until 2026-05-07",
                "clickwell lake export out --format csv --column feature_id --column timestamp",
            ),
        ),
    ):
        lake.command(epilog=output.examples(*examples))(command)
    app.add_typer(lake)


def status(*, data: DataOption = None, json: JsonOption = False) -> None:
    """Show what the tables hold and how far they have got."""
    from clickwell.sinks.standing import exists, look

    settings = settings_for_lake(data)
    tables = [look(settings, table) for table in _tables() if exists(settings, table)]
    if json:
        output.emit({"lake": settings.lake_uri, "tables": tables})
        return
    output.note(f"lake in {settings.lake_uri}")
    if not tables:
        output.warn("there is no table yet", "clickwell sink")
    output.table(
        ["table", "rows", "files", "MB", "first day", "last day", "version", "lag"],
        [
            [
                t.table,
                t.rows,
                t.files,
                f"{t.size / 1e6:.1f}",
                t.first or "-",
                t.last or "-",
                t.version,
                "-" if t.lag is None else t.lag,
            ]
            for t in tables
        ],
    )


def files(
    *,
    table: TableOption = "interactions",
    since: SinceOption = None,
    until: UntilOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """List the live Parquet files, for tools that know no Delta."""
    from clickwell.analytics import lake

    found = lake.files(settings_for_lake(data), table, since=day_of(since), until=day_of(until))
    if json:
        output.emit({"files": found})
        return
    output.table(["file"], [[path] for path in found])


def compact(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also where there are only few small files.")] = False,
    and_vacuum: Annotated[bool, typer.Option("--vacuum", help="Remove old files afterwards.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Merge small files into sorted ones; sinks and readers go on meanwhile."""
    from clickwell.failpoints import Failpoints
    from clickwell.sinks import compact as compaction
    from clickwell.sinks.standing import exists

    settings = settings_for_lake(data)
    failpoints = Failpoints(settings.sink.failpoint)
    done: dict[str, Any] = {}
    for table in _tables():
        if not exists(settings, table):
            continue
        result = compaction.compact(settings, table, failpoints, everything=everything)
        removed = compaction.vacuum(settings, table, failpoints) if and_vacuum else []
        done[table.name] = {
            "files_before": result.files_before,
            "files_after": result.files_after,
            "rows": result.rows,
            "skipped": result.skipped,
            "removed": len(removed),
        }
        output.done(
            f"{table.name}: {result.files_before:,} files became {result.files_after:,}, {len(removed):,} removed"
        )
    if json:
        output.emit({"tables": done})


def vacuum(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Remove files that are not part of the table any more and older than the grace."""
    from clickwell.failpoints import Failpoints
    from clickwell.sinks import compact as compaction
    from clickwell.sinks.standing import exists

    settings = settings_for_lake(data)
    failpoints = Failpoints(settings.sink.failpoint)
    gone = {
        table.name: compaction.vacuum(settings, table, failpoints, dry_run=dry_run)
        for table in _tables()
        if exists(settings, table)
    }
    for name, paths in gone.items():
        output.done(f"{name}: {len(paths):,} files {'would be ' if dry_run else ''}removed")
    if json:
        output.emit({"removed": gone, "dry_run": dry_run})


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="DuckDB's SQL over interactions and searches.")],
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object for each row.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Run a query; it sees the two tables and nothing else."""
    from clickwell.analytics import lake

    if json and jsonl:
        raise UsageError("--json and --jsonl exclude each other")
    with lake.connect(settings_for_lake(data), since=day_of(since), until=day_of(until)) as connection:
        found = lake.query(connection, query)
    if json:
        output.emit({"rows": found.to_pylist()})
    elif jsonl:
        for row in found.to_pylist():
            output.emit(row)
    else:
        output.table(found.column_names, [list(row.values()) for row in found.to_pylist()])


def load(
    sources: Annotated[list[str], typer.Argument(metavar="FILE...", help="JSON lines, plain or gzip; - is stdin.")],
    *,
    format_: FormatOption = FileFormat.NATIVE,
    retriever: RetrieverOption = "default",
    first_position: FirstPositionOption = 1,
    rebase_time: RebaseOption = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Through Kafka, so that they are counted too, and wait for the lake.")
    ] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Write the events of files into the lake, past Kafka and the counters; a load that broke off can be repeated."""
    if publish:
        through = partial(send.publish, sources, format_=format_, retriever=retriever, first_position=first_position)
        through(rebase_time=rebase_time, wait=True, data=data, json=json)
        return
    from clickwell.producers import publish as publishing
    from clickwell.producers.files import Lines
    from clickwell.sinks.load import Loader

    settings = settings_for_lake(data)
    form = publishing.Form(format_.value, retriever, settings.popularity.long_view_ms, first_position)
    with Lines(sources, twice=True) as lines:
        content = hashlib.blake2b(repr(form).encode(), digest_size=12)
        for line in lines:
            content.update(line.content)
        total, shift_ms = send.survey_times(lines, form, rebase_time=rebase_time)
        loader = Loader(settings, content.hexdigest())
        with output.Progress("loading", total) as bar:
            result = publishing.publish(lines, loader, form, shift_ms=shift_ms, advance=bar.advance)
    stats = loader.stats
    new = sum(one.acked - one.before - one.repeats for one in stats.values())
    before, repeats = (sum(getattr(one, name) for one in stats.values()) for name in ("before", "repeats"))
    output.done(f"Loaded {new:,} events in {result.seconds:.1f} s; {before:,} were there, {repeats:,} are repeats")
    tell_rejects(result)
    if json:
        left_out = {"rejected": result.rejected.total(), "rejects": result.rejects}
        output.emit({"loaded": stats, "shift_ms": shift_ms, **left_out, "not_applicable": result.not_applicable})
    if result.rejected:
        raise typer.Exit(PARTLY_DONE)


def export(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    *,
    table: TableOption = "interactions",
    form: Annotated[ExportFormat, typer.Option("--format", help="In CSV, formulas are made harmless.")] = (
        ExportFormat.PARQUET
    ),
    column: Annotated[list[str] | None, typer.Option("--column", help="Repeatable. Default: all.")] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Write plain files of a range of days, one a day, with a manifest; the same range gives the same bytes."""
    from clickwell.analytics.export import export as run

    found = run(
        settings_for_lake(data),
        table,
        target,
        form=form.value,
        since=day_of(since),
        until=day_of(until),
        columns=column or (),
    )
    output.done(f"{sum(one.rows for one in found):,} rows in {len(found)} files in {target}")
    if json:
        output.emit({"files": found})


def settings_for_lake(data: Path | None, **overrides: Any) -> Settings:
    """Return the settings of a command that reads the lake; `overrides` as for `Settings.load`.

    Raises:
        UsageError: what reads it is not installed.
    """
    for name in ("deltalake", "duckdb", "polars"):
        if find_spec(name) is None:
            raise UsageError(f"{name} is not installed", fix="pip install 'clickwell[analytics]'")
    return Settings.load(data, **overrides)


def _tables() -> Any:
    from clickwell.sinks.table import TABLES

    return TABLES


def day_of(text: str | None) -> date | None:
    """Return the day that an option names: a date, or `today` in UTC.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    if text == "today":
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a date", fix="write it as 2026-05-01, or today") from None
