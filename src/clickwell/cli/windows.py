"""`clickwell windows`: what was shown, clicked, skipped and converted, hour by hour and day by day."""

from enum import StrEnum
from typing import Annotated

import typer

from clickwell.cli import output
from clickwell.cli.output import DataOption
from clickwell.settings import Settings


class WidthChoice(StrEnum):
    """Widths of windows."""

    HOUR = "hour"
    DAY = "day"


class ByChoice(StrEnum):
    """What windows count by."""

    POSITION = "position"
    QUERY = "query"
    DOCUMENT = "document"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    examples = "clickwell windows --jsonl > windows.jsonl", "clickwell windows --width day --by position --days 7"
    app.command(epilog=output.examples(*examples))(windows)


def windows(
    width: Annotated[WidthChoice | None, typer.Option(help="Only windows of this width.")] = None,
    by: Annotated[ByChoice | None, typer.Option(help="Only these rows.")] = None,
    retriever: Annotated[str | None, typer.Option(metavar="NAME", help="Only this retriever's.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="How far back. Default: all that is kept.")] = None,
    at_top: Annotated[bool, typer.Option("--at-top", help="Documents at the first three positions only.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object for each row.")] = False,
    data: DataOption = None,
) -> None:
    """Print exposures, clicks, skips and conversions of each window by position, query and document."""
    from dataclasses import astuple, fields

    from clickwell.clock import MS_PER_DAY, SystemClock
    from clickwell.redis_client import active_generation, connect
    from clickwell.schemas.windows import BYS, WIDTHS
    from clickwell.serving.windows import WindowRow, read_windows

    with connect(Settings.load(data)) as client:
        generation = active_generation(client)
        if generation is None:
            output.warn("nothing has been counted yet", "clickwell simulate")
            return
        rows = read_windows(
            client,
            generation,
            widths=[each for each in WIDTHS if width in {None, each}],
            bys=[each for each in BYS if by in {None, each}],
            retriever_id=retriever,
            since_ms=0 if days is None else int(SystemClock().now_ms() - days * MS_PER_DAY),
            at_top=at_top,
        )
        if jsonl:
            for row in rows:
                output.emit(row)
        else:
            output.table([field.name for field in fields(WindowRow)], map(astuple, rows))
