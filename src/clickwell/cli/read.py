"""`clickwell boost`, `top`, `counts`: look at what the workers have counted."""

from typing import Annotated

import typer

from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import RedisError, UsageError
from clickwell.settings import Settings

NOTHING_YET = "nothing has been counted yet"

SignalOption = Annotated[
    list[str] | None,
    typer.Option("--signal", metavar="NAME[=WEIGHT]", help="Signal to count; repeatable. Default: click"),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command, examples in (
        (boost, ("clickwell boost trail-pro road-runner-3", "clickwell boost d1 d2 --signal purchase=5 --days 3")),
        (top, ("clickwell top", "clickwell top --k 100 --json")),
        (counts, ("clickwell counts --jsonl > counts.jsonl", "clickwell counts --document trail-pro")),
    ):
        app.command(epilog=output.examples(*examples))(command)


def boost(
    documents: Annotated[list[str], typer.Argument(metavar="DOC...", help="Documents, as one result list.")],
    signal: SignalOption = None,
    days: Annotated[float, typer.Option(help="How far back to count.")] = 7,
    multiplier: Annotated[float, typer.Option(help="The largest boost.")] = 1.2,
    cap: Annotated[float | None, typer.Option(help="Count that earns it. Default: the list's largest.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, for each document.")] = False,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print the boost of each document of a result list."""
    import logging

    from clickwell.serving.boosts import BoostReader
    from clickwell.serving.formula import stage_of
    from clickwell.serving.snapshot import Reason

    stage = stage_of(
        {
            "interaction_types": _weights(signal or ["click"]),
            "time_window_days": days,
            "boost_multiplier": multiplier,
            "cap": cap,
        }
    )
    settings = Settings.load(data)
    # What the reader would log is printed below.
    logging.getLogger("clickwell.serving").setLevel(logging.ERROR)
    # A person waits here, not a search: Redis gets the time that workers give it.
    patient = settings.boosts.model_copy(update={"timeout": settings.redis.timeout})
    with BoostReader(settings.model_copy(update={"boosts": patient})) as reader:
        boosts = reader.boosts(documents, stage)
    if boosts.reason in {Reason.UNAVAILABLE, Reason.UNREADABLE}:
        raise RedisError("the counters cannot be read", why=boosts.detail, fix="`clickwell status` shows what runs")
    if boosts.uncounted:
        output.warn(f"not counted by the workers: {', '.join(boosts.uncounted)}")
    if json:
        reliable = {"fresh_ms": boosts.fresh_ms, "age_seconds": boosts.age_seconds, "reason": boosts.reason}
        output.emit({"stage": stage, **reliable, "documents": list(boosts)})
        return
    if boosts.reason:
        output.warn(f"every boost is neutral: {boosts.detail}", "clickwell status")
    headers = ["document", "boost", "count", *(["why"] if explain else [])]
    rows = ([one.feature_id, f"{one.boost:.3f}", f"{one.count:g}", boosts.why(row)] for row, one in enumerate(boosts))
    output.table(headers, [row[: len(headers)] for row in rows])


def top(
    k: Annotated[int, typer.Option("--k", min=1, help="How many.")] = 10,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print the documents that are being used most right now."""
    from clickwell.serving.trending import top as trending

    found = trending(Settings.load(data), k)
    if json:
        output.emit({"top": found})
        return
    if not found:
        output.warn(NOTHING_YET, "clickwell simulate")
    output.table(["rank", "document", "weight"], [[one.rank, one.feature_id, f"{one.weight:.3f}"] for one in found])


def counts(
    document: Annotated[str | None, typer.Option("--document", metavar="DOC", help="Only this one.")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object for each count.")] = False,
    json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print every count of the window: document, signal, slot."""
    from dataclasses import astuple, fields

    from clickwell.redis_client import active_generation, connect
    from clickwell.serving.counts import CountRow, rows_of, summary

    if json and jsonl:
        raise UsageError("--json and --jsonl exclude each other")
    with connect(Settings.load(data)) as client:
        generation = active_generation(client)
        if generation is None:
            output.warn(NOTHING_YET, "clickwell simulate")
        if json:
            output.emit(summary(client, generation, feature_id=document))
            return
        rows = rows_of(client, generation, feature_id=document) if generation else iter(())
        if jsonl:
            for row in rows:
                output.emit(row)
        else:
            output.table([field.name for field in fields(CountRow)], map(astuple, rows))


def _weights(signals: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for signal in signals:
        name, _, weight = signal.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise UsageError(f"--signal {signal}: the weight is not a number", fix=f"--signal {name}=1") from None
    return weights
