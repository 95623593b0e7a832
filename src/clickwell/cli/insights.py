"""`clickwell signals`, `report`, `alerts ...`: what searches say about relevance, and when it falls."""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated

import typer

from clickwell.cli import lake, output
from clickwell.cli.lake import SinceOption, UntilOption
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import UsageError
from clickwell.settings import Settings

FOUND = 3

RetrieverOption = Annotated[
    str | None, typer.Option("--retriever", metavar="ID", help="retriever_id. Default: the only one of the lake.")
]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=366, help="How many, when --since is not given.")]


class ReportFormat(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "markdown"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, examples in (
        (signals, ("clickwell signals --retriever shop", "clickwell signals --days 7 --json")),
        (corrected, ("clickwell corrected --limit 20", "clickwell corrected --publish --every 3600")),
        (report, ("clickwell report > week.html", "clickwell report --until 2026-05-10 --format markdown")),
    ):
        app.command(epilog=output.examples(*examples))(command)
    alerts = typer.Typer(
        name="alerts",
        epilog=output.examples("clickwell alerts check", "clickwell alerts watch"),
        help="Find out when relevance falls.",
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for action, usage in (
        (check, ("clickwell alerts check", "clickwell alerts check --at 2026-05-10T14:00 --json")),
        (watch, ("clickwell alerts watch", "CLICKWELL_ALERTS__WEBHOOK=https://... clickwell alerts watch")),
    ):
        alerts.command(epilog=output.examples(*usage))(action)
    app.add_typer(alerts)


def signals(
    *,
    retriever: RetrieverOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    days: DaysOption = 28,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Problems of each kind at most.")] = 20,
    low_ctr: Annotated[float, typer.Option("--low-ctr", help="CTR below which a query is reported.")] = 0.05,
    compare: Annotated[bool, typer.Option(help="Also compare with the period before.")] = True,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show CTR, skips, and the queries and documents to look at, each with its evidence."""
    from clickwell.analytics import words
    from clickwell.analytics.signals import get_retriever_signals

    settings = lake.settings_for_lake(data)
    first, last = _range(since, until, days)
    found = get_retriever_signals(
        _retriever(settings, retriever, first, last),
        settings=settings,
        since=first,
        until=last,
        compare=compare,
        limit=limit,
        low_ctr=low_ctr,
    )
    if json:
        output.emit(found)
        return
    for title, headers, rows, said in words.tables(found):
        output.note(f"{title}: {said}" if said else title)
        if rows:
            output.table(headers, rows)


def corrected(
    *,
    retriever: RetrieverOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    days: DaysOption = 28,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Documents at most.")] = 20,
    publish: Annotated[bool, typer.Option("--publish", help="Write it to Redis, for stages of corrected_ctr.")] = False,
    every: Annotated[float | None, typer.Option("--every", min=10, help="Publish again after so many seconds.")] = None,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show which documents are liked by those who look at them, wherever they stood."""
    import time

    from clickwell.analytics import corrected as popularity

    settings = lake.settings_for_lake(data)
    while True:
        first, last = _range(since, until, days)
        name = _retriever(settings, retriever, first, last)
        found = popularity.popularity(settings, name, since=first, until=last)
        if not found.propensities.identifiable:
            output.warn(f"the log does not tell how far people look: {found.propensities.note}")
        if publish:
            output.done(f"{popularity.publish(settings, name, found):,} numbers of {name!r} published")
        if not (publish and every):
            break
        time.sleep(every)
    documents = found.documents.slice(0, limit).to_pylist()
    if json:
        output.emit({"retriever_id": name, "a": found.a, "propensities": found.propensities, "documents": documents})
    elif not publish:
        headers = ["document", "corrected CTR", "low", "high", "clicks", "shown", "COEC"]
        columns = ("estimate", "low", "high")
        output.table(
            headers,
            [
                [d["feature_id"], *(f"{d[c]:.4f}" for c in columns), d["clicks"], d["shown"], f"{d['coec']:.2f}"]
                for d in documents
            ],
        )


def report(
    *,
    retriever: RetrieverOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    days: DaysOption = 7,
    form: Annotated[ReportFormat, typer.Option("--format", help="One file without scripts, or text.")] = (
        ReportFormat.HTML
    ),
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print a report of a week, the same for the same lake, on one page."""
    from clickwell.analytics import report as reports

    settings = lake.settings_for_lake(data)
    # The running day would differ from one minute to the next, and look like a fall.
    first, last = _range(since, until, days, whole=True)
    made = reports.make(settings, _retriever(settings, retriever, first, last), first, last)
    if json:
        output.emit(made)
    else:
        typer.echo(reports.html(made) if form is ReportFormat.HTML else reports.markdown(made), nl=False)


def check(
    *,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="UTC time of the check. Default: now.")] = None,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Check once, at the last full hour; exit code 3 while an alert is open."""
    from clickwell.analytics import alerting

    settings = lake.settings_for_lake(data)
    book = alerting.run(settings, _moment(at))
    if json:
        output.emit(
            {
                "checked_ms": book.checked_ms,
                "retrievers": book.retrievers,
                "open": [alerting.message(alert) for alert in book.open],
                "closed": [alerting.message(alert) for alert in book.alerts if alert.until_ms is not None],
            }
        )
    else:
        output.table(
            ["rule", "retriever", "since", "what"],
            [[a.rule, a.retriever_id, _utc(a.since_ms), a.sentence] for a in book.open],
        )
        if not book.open:
            output.done(
                f"Nothing is wrong: {book.retrievers} retrievers checked up to {_utc(book.checked_ms or 0)} UTC"
            )
    if book.open:
        raise typer.Exit(FOUND)


def watch(
    *,
    every: Annotated[float | None, typer.Option("--every", min=1, help="Seconds. Default: the setting.")] = None,
    data: DataOption = None,
) -> None:
    """Check again and again, and tell the log, the webhook and Prometheus; ends with Ctrl-C."""
    import logging
    import time

    from clickwell.analytics import alerting
    from clickwell.errors import DependencyError

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    settings = lake.settings_for_lake(data)
    pause = every or settings.alerts.every_seconds
    while True:
        try:
            book = alerting.run(settings, _moment(None))
            output.note(
                f"{_utc(book.checked_ms or 0)} UTC: {len(book.open)} open, {book.retrievers} retrievers checked"
            )
        except DependencyError as error:
            # The lake may be back at the next check.
            output.fail(error)
        time.sleep(pause)


def _retriever(settings: Settings, named: str | None, since: date, until: date) -> str:
    from clickwell.analytics.signals import retrievers

    if named is not None:
        return named
    found = retrievers(settings, since, until)
    if len(found) > 1:
        raise UsageError(f"there are {len(found)} retrievers: {', '.join(found[:20])}", fix="name one: --retriever ID")
    if not found:
        raise UsageError(
            f"no searches from {since} to {until}",
            why="signals need search events: only the shown list tells what was not clicked",
            fix="send searches, or ask for other days with --since and --until",
        )
    return found[0]


def _range(since: str | None, until: str | None, days: int, *, whole: bool = False) -> tuple[date, date]:
    from datetime import timedelta

    last = lake.day_of(until) or datetime.now(UTC).date() - timedelta(days=int(whole))
    return lake.day_of(since) or last - timedelta(days=days - 1), last


def _moment(text: str | None) -> int:
    if text is None:
        return round(datetime.now(UTC).timestamp() * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time", fix="write it as 2026-05-10T14:00") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
