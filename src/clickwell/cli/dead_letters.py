"""`clickwell dead-letters list | show | fix | replay`: look at what is no event, mend it, put it back."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import PydanticCustomError, from_json

from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.cli.send import PARTLY_DONE
from clickwell.clock import SystemClock
from clickwell.errors import InputError, UsageError
from clickwell.schemas.interactions import to_epoch_ms
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.kafka import KafkaLog
    from clickwell.serving.letters.book import Filter, Letter
    from clickwell.serving.letters.check import Done, Outcome
    from clickwell.serving.letters.replay import Replayer
    from clickwell.serving.letters.view import Choice

ReasonOption = Annotated[list[str] | None, typer.Option("--reason", help="Why it is no event. Repeatable.")]
TopicOption = Annotated[list[str] | None, typer.Option("--topic", help="Where the bad record lies. Repeatable.")]
SinceOption = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Received then or later, ISO 8601.")]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Received before then, ISO 8601.")]
IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[LETTER...]", help="topic/partition/offset, as `list` shows it.")
]
# Letters that are described; all are counted.
SHOWN_REJECTS = 10

AllOption = Annotated[bool, typer.Option("--all", help="All that the other options leave, without naming them.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    letters = typer.Typer(
        name="dead-letters",
        epilog=output.examples("clickwell dead-letters list", "clickwell dead-letters replay --all"),
        help="Look at records that are no events, mend them, put them back.",
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, command, examples in (
        (
            "list",
            list_,
            ("clickwell dead-letters list --reason missing_field", "clickwell dead-letters list --since 2026-05-01"),
        ),
        (
            "show",
            show,
            (
                "clickwell dead-letters show interactions.v1/3/1234",
                "clickwell dead-letters show interactions.v1/3/1234 --raw > record",
            ),
        ),
        (
            "fix",
            fix,
            (
                "clickwell dead-letters fix interactions.v1/3/1234 --set 'position=2'",
                "clickwell dead-letters fix --reason invalid_field --set 'metadata.device=null' --all --dry-run",
            ),
        ),
        (
            "replay",
            replay,
            ("clickwell dead-letters replay interactions.v1/3/1234", "clickwell dead-letters replay --all --dry-run"),
        ),
    ):
        letters.command(name, epilog=output.examples(*examples))(command)
    app.add_typer(letters)


def list_(
    *,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="open, fixed, unsettled or replayed. Repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the latest.")] = 100,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """List dead letters, in the order in which their records came."""
    from clickwell.serving.letters.book import STATES
    from clickwell.serving.letters.read import read_book
    from clickwell.serving.letters.view import view_of

    if unknown := set(state or ()) - set(STATES):
        raise UsageError(f"{min(unknown)!r} is not a state", fix=f"name one of {', '.join(STATES)}")
    wanted = _filter(reason, topic, since, until, state)
    found = list(read_book(Settings.load(data)).select(wanted))
    shown = [view_of(one) for one in found[-limit:]]
    reasons = Counter(one.reason for one in found)
    if json:
        output.emit({"total": len(found), "reasons": reasons, "letters": shown})
        return
    output.table(
        ["letter", "received", "state", "reason", "field", "bytes"],
        [(one.id, _utc(one.received_ms), one.state, one.reason, one.field, one.size) for one in shown],
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in reasons.most_common())
    more = f"; the latest {limit:,} are shown" if len(found) > limit else ""
    output.note(f"{_letters(len(found))}{f': {counts}' if counts else ''}{more}")


def show(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="topic/partition/offset, as `list` shows it.")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Print the record's value, byte for byte, and nothing else.")] = (
        False
    ),
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show one letter: why it is no event, what was done about it, and its value."""
    from clickwell.kafka import KafkaLog
    from clickwell.serving.letters.read import read_book
    from clickwell.serving.letters.view import Choice, detail_of, value_of

    if raw and json:
        raise UsageError("--raw and --json exclude each other")
    settings = Settings.load(data)
    (one,) = Choice([letter]).of(read_book(settings))
    log = KafkaLog(settings.kafka)
    if raw:
        sys.stdout.buffer.write(value_of(log, one) or b"")
        return
    detail = detail_of(log, one)
    if json:
        output.emit(detail)
        return
    output.table(["what", "is"], list(detail.model_dump(exclude={"value_base64"}, exclude_none=True).items()))


def fix(
    letters: IdsArgument = None,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=JSON", help="Set a field or metadata.FIELD; null removes it. Repeatable."),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Take the event from a file; - is stdin.")
    ] = None,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    all_: AllOption = False,
    dry_run: DryRunOption = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Mend letters: note what is to be put back, if it is a valid event; the originals stay as they are."""
    from clickwell.serving.letters.check import mended
    from clickwell.serving.letters.mend import changed
    from clickwell.serving.letters.view import Choice

    if (file is None) == (not set_):
        raise UsageError("an event is mended either by --set or by --file", fix="name one of both")
    if file is not None and len(letters or ()) != 1:
        raise UsageError("--file holds the event of one letter", fix="name one letter")
    content = None if file is None else _content(file)
    changes = dict(_change(text) for text in set_ or ())

    def mend(value: bytes | None) -> bytes:
        return content if content is not None else changed(value, changes)

    _work(
        Settings.load(data),
        Choice(letters or (), _filter(reason, topic, since, until), every=all_),
        check=lambda log, found: mended(log, found, mend, SystemClock().now_ms()),
        act=lambda replayer, found: replayer.fix(found, mend),
        outcome="fixed",
        dry_run=dry_run,
        json=json,
    )


def replay(
    letters: IdsArgument = None,
    *,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    all_: AllOption = False,
    dry_run: DryRunOption = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Put letters back into their topics, mended ones as mended; each counts once, however often this is run."""
    from clickwell.serving.letters.check import checked
    from clickwell.serving.letters.view import Choice

    _work(
        Settings.load(data),
        Choice(letters or (), _filter(reason, topic, since, until), every=all_),
        check=lambda log, found: checked(log, found, SystemClock().now_ms()),
        act=lambda replayer, found: replayer.replay(found),
        outcome="replayed",
        dry_run=dry_run,
        json=json,
    )


def _work(
    settings: Settings,
    choice: "Choice",
    *,
    check: Callable[["KafkaLog", "Sequence[Letter]"], "tuple[Sequence[tuple[Letter, object]], list[Done]]"],
    act: Callable[["Replayer", "Sequence[Letter]"], "Iterator[Done]"],
    outcome: "Outcome",
    dry_run: bool,
    json: bool,
) -> None:
    """Choose letters, do something with them or only see what it would come to, and tell."""
    from clickwell.kafka import KafkaLog
    from clickwell.serving.letters.check import Done
    from clickwell.serving.letters.read import read_book
    from clickwell.serving.letters.replay import Replayer

    if dry_run:
        good, done = check(KafkaLog(settings.kafka), choice.of(read_book(settings)))
        done += [Done(letter.id, outcome) for letter, _ in good]
    else:
        doing = "putting back" if outcome == "replayed" else "mending"
        with Replayer(settings) as replayer, output.Progress(doing, None) as bar:
            done = []
            for one in act(replayer, choice.of(replayer.book)):
                done.append(one)
                bar.advance()
    counts = Counter(one.outcome for one in done)
    would = "would be " if dry_run else ""
    before = f", {counts['already']:,} put back before" if counts["already"] else ""
    output.done(f"{_letters(counts[outcome])} {would}{outcome}{before}")
    bad = [one for one in done if one.outcome == "invalid"]
    if bad:
        output.warn(f"{_letters(len(bad))} left: no valid events", "`clickwell dead-letters fix` mends them")
    for one in bad[:SHOWN_REJECTS]:
        output.note(f"  {one.id}: {one.detail}")
    if json:
        said = {name: counts[name] for name in (outcome, "already", "invalid")}
        output.emit({**said, "dry_run": dry_run, "letters": done})
    if bad:
        raise typer.Exit(PARTLY_DONE)


def _filter(
    reason: list[str] | None,
    topic: list[str] | None,
    since: str | None,
    until: str | None,
    states: list[str] | None = None,
) -> "Filter":
    from clickwell.serving.letters.book import Filter

    return Filter(
        reasons=tuple(reason or ()),
        topics=tuple(topic or ()),
        since_ms=_time(since),
        until_ms=_time(until),
        states=tuple(states or ()),
    )


def _time(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(to_epoch_ms(text))
    except (PydanticCustomError, OverflowError):
        raise UsageError(f"{text!r} is not a time", fix="write it as 2026-05-01 or 2026-05-01T12:00:00Z") from None


def _change(text: str) -> tuple[str, Any]:
    """Return the field and the value of a `--set`; what is not JSON is taken as text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {text!r} names no field and value", fix="write FIELD=JSON, as in position=2")
    try:
        return name, from_json(value, allow_inf_nan=False)
    except ValueError:
        return name, value


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", fix="name a readable file, or -") from None


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'s'[: count != 1]}"


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
