"""`clickwell publish` and `clickwell simulate`: send events from files, or made-up ones."""

import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.clock import SystemClock
from clickwell.errors import KafkaError, UsageError
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.producers.emitter import Emitter
    from clickwell.producers.publish import Form, Published
    from clickwell.producers.records import Kind, Record
    from clickwell.producers.simulate import Traffic

PARTLY_DONE = 5
INTERRUPTED = 130

# Events that are sent between two looks at the clock: 20 times a second keeps the rate even.
_TICKS_PER_SECOND = 20
_DEFAULT_RATE = 200.0
_DEFAULT_HISTORY = 10_000


class FileFormat(StrEnum):
    """What a line of a file is."""

    NATIVE = "native"
    SESSIONS = "sessions"
    UBI = "ubi"
    METARANK = "metarank"


FormatOption = Annotated[
    FileFormat,
    typer.Option(
        "--format", help="native: a line is an event; sessions: a search with its clicks; or as these tools write them."
    ),
]
RetrieverOption = Annotated[str, typer.Option(help="retriever_id of session logs, and of events that name none.")]
FirstPositionOption = Annotated[
    int, typer.Option("--first-position", min=0, max=1, help="The ordinal of the uppermost result in UBI.")
]
RebaseOption = Annotated[bool, typer.Option("--rebase-time", help="Shift event times so that the last is now.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, examples in (
        (
            publish,
            (
                "clickwell publish events.jsonl.gz --wait",
                "clickwell publish searches.jsonl --format sessions --rebase-time",
            ),
        ),
        (simulate, ("clickwell simulate --rate 200 --seconds 60", "clickwell simulate --days 7 --searches 50000")),
    ):
        app.command(epilog=output.examples(*examples))(command)


def publish(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="JSON lines, plain or gzip; - is stdin.")],
    *,
    format_: FormatOption = FileFormat.NATIVE,
    retriever: RetrieverOption = "default",
    first_position: FirstPositionOption = 1,
    rebase_time: RebaseOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when workers and sink are done.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that --wait waits at most.")] = 600.0,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Send the events of files; bad lines are left out and listed."""
    from clickwell.producers import publish as publishing
    from clickwell.producers.emitter import Emitter
    from clickwell.producers.files import Lines
    from clickwell.producers.topics import ensure_topics

    settings = Settings.load(data)
    form = publishing.Form(format_.value, retriever, settings.popularity.long_view_ms, first_position)
    # Only a look at all of it tells whether a session log has times of the calendar, and which is the last.
    look_first = rebase_time or format_ is FileFormat.SESSIONS
    with Lines(files, twice=look_first) as lines:
        total, shift_ms = survey_times(lines, form, rebase_time=rebase_time) if look_first else (None, 0)
        ensure_topics(settings)
        with (
            Emitter(publishing.patient(settings), source="publish") as emitter,
            output.Progress("sending", total) as bar,
        ):
            result = publishing.publish(lines, emitter, form, shift_ms=shift_ms, advance=bar.advance)
    sent, acked = result.sent.total(), result.acked.total()
    output.done(f"Sent {sent:,}, acknowledged {acked:,} in {result.seconds:.1f} s")
    if wait and acked == sent:
        _wait(settings, result, timeout)
    tell_rejects(result)
    if json:
        output.emit(_summary(result, shift_ms, waited=wait and acked == sent))
    if acked < sent:
        raise KafkaError(
            f"{sent - acked:,} of {sent:,} events were not acknowledged",
            why=f"Kafka at {settings.kafka.bootstrap_servers} stopped answering",
            fix="publish the file again: events with an id of their own count once",
        )
    if result.rejected:
        raise typer.Exit(PARTLY_DONE)


def survey_times(lines: Any, form: "Form", *, rebase_time: bool) -> tuple[int, int]:
    """Return how many lines there are, and the shift of their times in ms: none, unless asked for or undated."""
    from clickwell.producers.publish import survey

    with output.Progress("reading times", None) as bar:
        found = survey(lines, form, bar.advance)
    if found.last_ms is None or (found.dated and not rebase_time):
        return found.lines, 0
    if not rebase_time:
        output.note("the file has no dates: its times are shifted so that the last is now")
    return found.lines, SystemClock().now_ms() - found.last_ms


def _wait(settings: Settings, result: "Published", timeout: float) -> None:
    from clickwell.producers.records import TOPIC_OF
    from clickwell.producers.topics import end_offsets
    from clickwell.serving.progress import wait_applied

    began = time.monotonic()
    ends = end_offsets(settings, [TOPIC_OF[kind] for kind, count in result.sent.items() if count])
    with output.Progress("applying", None) as bar:
        lanes = wait_applied(settings, ends, timeout, lambda left: bar.postfix(f"{left:,} to go"))
        if find_spec("deltalake") is not None:
            from clickwell.sinks.standing import wait_written

            left = max(1.0, timeout - (time.monotonic() - began))
            tables = wait_written(settings, ends, left, lambda left: bar.postfix(f"{left:,} to go to the lake"))
            lanes += [f"lake/{table}" for table in tables]
    output.done(f"Applied by {', '.join(lanes) or 'nobody'} in {time.monotonic() - began:.1f} s")


def tell_rejects(result: "Published") -> None:
    """Say how many lines are no events, and why the first of them are not."""
    if result.not_applicable:
        output.note(f"{result.not_applicable:,} lines are neither a search nor an interaction, and were left out")
    if not result.rejected:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.rejected.most_common())
    output.warn(f"{result.rejected.total():,} lines rejected: {reasons}")
    for reject in result.rejects:
        output.note(f"  {reject.file}:{reject.line}: {reject.message}")
    if result.rejected.total() > len(result.rejects):
        output.note(f"  and {result.rejected.total() - len(result.rejects):,} more")


def _summary(result: "Published", shift_ms: int, *, waited: bool) -> dict[str, Any]:
    return {
        "sent": _by_kind(result.sent),
        "acked": _by_kind(result.acked),
        "rejected": result.rejected.total(),
        "rejects": result.rejects,
        "not_applicable": result.not_applicable,
        "shift_ms": shift_ms,
        "seconds": round(result.seconds, 3),
        "waited": waited,
    }


def _by_kind(counts: Mapping["Kind", int]) -> dict[str, int]:
    return {"interactions": counts["interaction"], "searches": counts["search"]}


def simulate(
    *,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=200_000, help="Events a second; with --days unlimited.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after this time; else at Ctrl-C.")] = None,
    searches: Annotated[int | None, typer.Option(min=1, help="Stop after this many searches.")] = None,
    days: Annotated[float | None, typer.Option(min=0.01, max=30, help="Send a history of days that ends now.")] = None,
    documents: Annotated[int, typer.Option(min=480, max=1_000_000, help="Products in the shop.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same shop and same habits.")] = 1,
    data: DataOption = None,
    json: JsonOption = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print the events instead of sending them.")] = False,
) -> None:
    """Send the traffic of a made-up outdoor shop."""
    if seconds is not None and searches is not None:
        raise UsageError("--seconds and --searches exclude each other", fix="name one")
    if days is not None and seconds is not None:
        raise UsageError("--days sends a history, which --seconds cannot cut", fix="use --searches")
    from clickwell.producers.shop import Shop
    from clickwell.producers.simulate import Traffic, events_per_search

    settings = Settings.load(data)
    now = SystemClock().now_ms()
    shop = Shop(documents, seed=seed)
    traffic = Traffic(shop, seed=seed, start_ms=now, long_view_ms=settings.popularity.long_view_ms)
    if days is not None:
        batches = traffic.history(searches or _DEFAULT_HISTORY, days, now)
    else:
        pace = (rate or _DEFAULT_RATE) / events_per_search(shop)
        rate = rate or _DEFAULT_RATE
        batches = _live(traffic, pace, searches or (round(seconds * pace) if seconds else None), now)
    if jsonl:
        for batch in batches:
            for record in batch:
                typer.echo(record.value)
        return
    _send(settings, batches, rate, json=json)


def _live(traffic: "Traffic", pace: float, searches: int | None, now_ms: int) -> Iterator[list["Record"]]:
    """Yield the events of `pace` searches a second, from now on, a tick at a time."""
    import numpy as np

    from clickwell.producers.simulate import LAG_MS

    size = max(1, round(pace / _TICKS_PER_SECOND))
    first = 0
    while searches is None or first < searches:
        count = size if searches is None else min(size, searches - first)
        places = np.arange(first, first + count)
        yield traffic.batch((now_ms - LAG_MS + places * 1000 / pace).astype(np.int64))
        first += count


def _send(settings: Settings, batches: Iterator[list["Record"]], rate: float | None, *, json: bool) -> None:
    from clickwell.producers.emitter import Emitter
    from clickwell.producers.publish import patient
    from clickwell.producers.topics import ensure_topics

    ensure_topics(settings)
    began = time.monotonic()
    stopped = False
    with Emitter(patient(settings), source="simulate") as emitter:
        try:
            with output.Progress("sending", None) as bar:
                _send_paced(emitter, batches, rate, bar)
        except KeyboardInterrupt:
            stopped = True
        emitter.flush()
        stats = emitter.stats
    taken = time.monotonic() - began
    sent = _by_kind({kind: counts.accepted for kind, counts in stats.items()})
    acked = _by_kind({kind: counts.acked for kind, counts in stats.items()})
    output.done(f"Sent {sum(sent.values()):,}, acknowledged {sum(acked.values()):,} in {taken:.1f} s")
    if json:
        output.emit({"sent": sent, "acked": acked, "seconds": round(taken, 3)})
    if acked != sent:
        raise KafkaError(f"{sum(sent.values()) - sum(acked.values()):,} events were not acknowledged")
    if stopped:
        raise typer.Exit(INTERRUPTED)


def _send_paced(
    emitter: "Emitter", batches: Iterator[list["Record"]], rate: float | None, bar: output.Progress
) -> None:
    began, sent = time.monotonic(), 0
    for batch in batches:
        for record in batch:
            emitter.send(record)
        sent += len(batch)
        bar.advance(len(batch))
        if rate is not None:
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))
