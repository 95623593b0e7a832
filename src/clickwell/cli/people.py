"""`clickwell exclude`, `profile`, `catalog load`, `history fill`, `sessions show`: what one user did."""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import RedisError, UsageError
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.serving.interactions import InteractionReader
    from clickwell.serving.snapshot import Reason

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="A user_id.")]


class FilterForm(StrEnum):
    """Whose language the filter is written in."""

    NIN = "nin"
    OPENSEARCH = "opensearch"
    QDRANT = "qdrant"
    SQL = "sql"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, examples in (
        (exclude, ("clickwell exclude u17 --json", "clickwell exclude u17 --signal purchase --json --form opensearch")),
        (profile, ("clickwell profile u17", "clickwell profile u17 --json")),
    ):
        app.command(epilog=output.examples(*examples))(command)
    _group(
        app,
        "catalog",
        "What is known about documents: brands, categories, tags.",
        output.examples(
            "clickwell catalog load products.jsonl", "clickwell catalog load movies.parquet --attribute genres"
        ),
    )(load)
    _group(
        app,
        "history",
        "What users did, as Redis remembers it.",
        output.examples("clickwell history fill", "clickwell history fill --json"),
    )(fill)
    _group(
        app,
        "sessions",
        "Visits, event by event.",
        output.examples("clickwell sessions show v17-981", "clickwell sessions show v17-981 --json"),
    )(show)


def _group(app: typer.Typer, name: str, text: str, epilog: str) -> Callable[[Callable[..., None]], object]:
    """Add a group and return what adds its one command, which has the same examples."""
    group = typer.Typer(
        name=name,
        help=text,
        epilog=epilog,
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # Without a callback a group of one command would be that command.
    group.callback()(lambda: None)
    app.add_typer(group)
    return group.command(epilog=epilog)


def exclude(
    user: UserArgument,
    signal: Annotated[
        list[str] | None, typer.Option("--signal", metavar="NAME", help="Signal that excludes; repeatable.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="How far back. Default: all that is kept.")] = None,
    negative_feedback: Annotated[
        bool, typer.Option("--negative-feedback", help="Exclude what the user spoke against, too.")
    ] = False,
    form: Annotated[
        FilterForm, typer.Option("--form", help="With --json: nin is {field: {$nin: [...]}}.")
    ] = FilterForm.NIN,
    field: Annotated[str, typer.Option(help="The search engine's field with the document's id.")] = "document_id",
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print what to leave out of a user's results; with --json, as a filter for a search engine."""
    settings = Settings.load(data)
    if missing := [name for name in signal or () if name not in settings.history.signals]:
        output.warn(f"not remembered by the workers: {', '.join(missing)}")
    with _reader(settings) as reader:
        found = reader.exclusion(user, signal, days, negative_feedback=negative_feedback, field=field)
    _tell(found.consumption.reason, found.consumption.detail)
    if not json:
        rows = [[item.feature_id, item.interaction_type, _when(item.timestamp)] for item in found.consumption]
        output.table(["document", "signal", "last"], rows)
        return
    condition, parameters = found.sql()
    forms: dict[FilterForm, Any] = {
        FilterForm.NIN: found.filter,
        FilterForm.OPENSEARCH: found.opensearch(),
        FilterForm.QDRANT: found.qdrant(),
        FilterForm.SQL: {"condition": condition, "parameters": parameters},
    }
    output.emit(forms[form])


def profile(
    user: UserArgument,
    top: Annotated[int, typer.Option("--top", min=1, help="Values of each attribute that are shown.")] = 5,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print what a user prefers, from what the user did and the catalogue."""
    with _reader(Settings.load(data)) as reader:
        found = reader.profile(user)
    _tell(found.reason, found.detail)
    if json:
        output.emit(found)
        return
    if not found.confidence:
        output.warn("there is no history of this user: every order stays as it is")
    elif not found.attributes:
        output.warn("nothing is known about these documents", "clickwell catalog load products.jsonl")
    kinds = {**found.attributes, "document": found.documents}
    rows = [
        [kind, value, f"{weight:.2f}"]
        for kind, values in kinds.items()
        for value, weight in sorted(values.items(), key=lambda one: -abs(one[1]))[:top]
    ]
    output.table(["attribute", "value", "weight"], rows)


def load(
    sources: Annotated[list[str], typer.Argument(metavar="FILE...", help="JSON lines, plain or gzip, or Parquet.")],
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="NAME", help="Column with the id. Default: feature_id, else document_id, id."),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", metavar="NAME", help="Repeatable. Default: brand(s), category/categories, tag(s)."),
    ] = None,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Let these files be the catalogue: what profiles and personal orders know about documents."""
    from clickwell.producers import catalog

    with output.Progress("loading", None) as bar:
        loaded = catalog.load(
            Settings.load(data), sources, names=attribute or catalog.ATTRIBUTES, id_name=id_, advance=bar.advance
        )
    if loaded.rejected:
        output.warn(f"{loaded.rejected:,} rows have no usable id")
    found = ", ".join(f"{name} in {n:,}" for name, n in loaded.attributes.items() if n)
    output.done(f"{loaded.documents:,} documents: {found}")
    if json:
        output.emit(loaded)


def fill(*, json: JsonOption = False, data: DataOption = None) -> None:
    """Add what the lake knows to the histories of users: what Kafka no longer had when Redis lost them."""
    _need_analytics()
    from clickwell.analytics import consumed

    with output.Progress("filling", None) as bar:
        offered = consumed.fill(Settings.load(data), advance=bar.advance)
    output.done(f"{offered['entries']:,} entries of {offered['histories']:,} histories")
    if json:
        output.emit(offered)


def show(
    session: Annotated[str, typer.Argument(metavar="ID", help="A session_id.")],
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print what happened in one session, in order, from the lake."""
    _need_analytics()
    from clickwell.analytics.sessions import story

    found = story(Settings.load(data), session)
    if not found["events"]:
        output.warn("the lake holds no event of this session", "clickwell lake status")
    if json:
        output.emit(found)
        return
    output.table(
        ["time", "visit", "event", "document", "position", "query"],
        [
            [
                _when(event["timestamp"]),
                event["visit"],
                ",".join(event.get("interaction_type", ("search",))),
                event.get("feature_id", f"{len(event['results'])} results" if "results" in event else "-"),
                event.get("position", "-"),
                event.get("query", "-"),
            ]
            for event in found["events"]
        ],
    )


def _need_analytics() -> None:
    for name in ("deltalake", "duckdb"):
        if find_spec(name) is None:
            raise UsageError(f"{name} is not installed", fix="pip install 'clickwell[analytics]'")


def _reader(settings: Settings) -> "InteractionReader":
    """Return a reader for a person, not a search, to wait for: Redis gets the time that workers give it."""
    import logging

    from clickwell.serving.interactions import InteractionReader

    # What the reader would log is printed by the command.
    logging.getLogger("clickwell.serving").setLevel(logging.ERROR)
    patient = settings.boosts.model_copy(update={"timeout": settings.redis.timeout})
    return InteractionReader(settings.model_copy(update={"boosts": patient}))


def _tell(reason: "Reason | None", detail: str) -> None:
    """Say what an answer may lack.

    Raises:
        RedisError: there is no answer.
    """
    from clickwell.serving.snapshot import Reason

    if reason in {Reason.UNAVAILABLE, Reason.UNREADABLE}:
        raise RedisError("the history cannot be read", why=detail, fix="`clickwell status` shows what runs")
    if reason:
        output.warn(detail, "clickwell status")


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
