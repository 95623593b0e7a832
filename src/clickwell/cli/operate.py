"""`clickwell topics`, `rebuild`, `audit`: what an operator needs besides running things."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import LayoutError, UsageError
from clickwell.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, examples in (
        (topics, ("clickwell topics", "clickwell topics --json")),
        (rebuild, ("clickwell rebuild", "clickwell rebuild --no-wait")),
        (audit, ("clickwell audit", "clickwell audit --json")),
    ):
        app.command(epilog=output.examples(*examples))(command)


def topics(*, data: DataOption = None, json: JsonOption = False) -> None:
    """Create the topics that are missing and show all of them."""
    from clickwell.kafka import KafkaLog
    from clickwell.producers.topics import ensure_topics
    from clickwell.schemas.topics import TOPICS

    settings = Settings.load(data)
    states = ensure_topics(settings)
    log = KafkaLog(settings.kafka)
    rows = []
    for topic in TOPICS:
        topic_id, partitions = log.describe(topic.name)
        ends = log.latest(topic.name, range(partitions))
        row = {"topic": topic.name, "state": states[topic.name], "id": topic_id, "key": topic.key}
        rows.append(row | {"partitions": partitions, "end_offsets": ends})
    if json:
        output.emit({"topics": rows})
        return
    output.table(
        ["topic", "state", "partitions", "records written", "key", "id"],
        [
            (r["topic"], r["state"], r["partitions"], sum(r["end_offsets"].values()), r["key"], r["id"])  # type: ignore[attr-defined]
            for r in rows
        ],
    )


def rebuild(
    *,
    wait: Annotated[bool, typer.Option(help="Return when readers see the new counts.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait at most.")] = 3600.0,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Count the whole window again from the log, then switch over."""
    asyncio.run(_rebuild(Settings.load(data), wait=wait, seconds=timeout, json=json))


async def _rebuild(settings: Settings, *, wait: bool, seconds: float, json: bool) -> None:
    from clickwell.stream_processors.rebuild import Rebuild

    began = time.monotonic()
    job = Rebuild(settings)
    generation = await job.begin()
    total = sum(generation.targets.values())
    if wait:
        with output.Progress("rebuilding", total) as progress:
            await job.wait(generation, seconds, progress.advance)
        output.done(f"Readers see generation {generation.name}, built in {time.monotonic() - began:.1f} s")
    else:
        output.done(f"Generation {generation.name} is being built by the running workers")
    if json:
        took = round(time.monotonic() - began, 3)
        output.emit({"generation": generation.name, "complete": wait, "records": total, "seconds": took})


def audit(
    *,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the lake at most.")] = 60.0,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Count the lake again and compare every count in Redis with it; exit code 3 if one differs."""
    try:
        from clickwell.analytics.audit import audit as run
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[analytics]'") from None

    result = run(Settings.load(data), timeout=timeout)
    if json:
        output.emit(result)
    wrong = result.differences
    compared = f"{result.cells:,} counts of {result.documents:,} documents, {result.records:,} records"
    compared += f", {result.windows:,} rows of windows" if result.windows else ""
    wrong_windows = result.window_differences
    if not wrong and not wrong_windows:
        output.done(f"0 differences in {compared}")
        return
    output.warn(f"{len(wrong) + len(wrong_windows):,} differences in {compared}")
    if not json:
        headers = ["document", "signal", "slot", "redis", "lake", "cause"]
        output.table(
            headers,
            [[d.feature_id, d.signal, _utc(d.slot_start), d.redis, d.lake, d.cause] for d in wrong],
        )
        rows = ((d.retriever_id, _utc(d.window_start), d.width, d.by, d.key, d.redis, d.lake) for d in wrong_windows)
        output.table(["retriever", "window", "width", "by", "key", "redis", "lake"], rows)
    raise typer.Exit(LayoutError.exit_code)


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")
