"""`clickwell demo`: a real Kafka and Valkey, a week of made-up traffic, and what it does to one result list."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import clickwell
from clickwell.cli import output
from clickwell.cli.output import JsonOption
from clickwell.clock import SystemClock

if TYPE_CHECKING:
    from clickwell.producers.shop import Shop
    from clickwell.serving.rerank import Ranked
    from clickwell.settings import Settings

# Results that are shown: enough to see documents change places, few enough for one screen.
SHOWN = 6
WAIT_SECONDS = 120.0


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=output.examples("clickwell demo", "clickwell demo --searches 50000 --seed 7"))(demo)


def demo(
    *,
    searches: Annotated[int, typer.Option(min=100, help="Searches to simulate, spread over seven days.")] = 8000,
    seed: Annotated[int, typer.Option(help="Seed of the simulated shop and its visitors.")] = 1,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the demo, emptied first.")] = Path(
        ".clickwell/demo"
    ),
    json: JsonOption = False,
) -> None:
    """Run the whole: traffic in, a result list before and after."""
    from clickwell.devstack.stack import Stack
    from clickwell.devstack.state import supervisor_pid
    from clickwell.errors import UsageError
    from clickwell.producers.shop import Shop

    if supervisor_pid(data):
        raise UsageError(f"a demo already runs in {data}", fix="wait for it, or name another `--data` folder")
    if data.exists() and any(data.iterdir()) and not (data / "kafka").exists():
        raise UsageError(f"{data} holds something else, and a demo empties its folder", fix="name another `--data`")
    shutil.rmtree(data, ignore_errors=True)
    began = time.monotonic()
    output.note(f"clickwell {clickwell.__version__} · data in {data}")
    shop = Shop(seed=seed)
    # What is shown needs no lake and no HTTP, and a start without them takes half the time.
    with Stack(data, parts=("kafka", "redis", "worker"), done=output.done, warn=output.warn) as stack:
        output.note(f"Ready in {time.monotonic() - began:.1f} s")
        sent = _send(stack.settings, shop, searches, seed)
        ranked = _rank(stack.settings, shop)
        trending = _top(stack.settings)
        addresses = {"kafka": stack.settings.kafka.bootstrap_servers, "redis": stack.settings.redis.url}
        if json:
            output.emit({"query": shop.queries[0], "sent": sent, "after": ranked, "top": trending, **addresses})
        else:
            _show(shop, ranked, sent)
        output.note(f"Kafka listened at {addresses['kafka']}, Valkey at {addresses['redis']}")
        output.note("stopping")
    following = "next: `clickwell up`, with a dashboard, then `clickwell simulate --rate 200`"
    output.done(f"Done in {time.monotonic() - began:.1f} s · {following}")


def _send(settings: "Settings", shop: "Shop", searches: int, seed: int) -> int:
    """Send the traffic of a week and wait until the worker has counted it; return the number of events."""
    from clickwell.producers.emitter import Emitter
    from clickwell.producers.publish import patient
    from clickwell.producers.records import TOPIC_OF
    from clickwell.producers.simulate import Traffic
    from clickwell.producers.topics import end_offsets
    from clickwell.serving.progress import wait_applied

    now_ms = SystemClock().now_ms()
    traffic = Traffic(shop, seed=seed, start_ms=now_ms, long_view_ms=settings.popularity.long_view_ms)
    began = time.monotonic()
    sent = 0
    with output.Progress("simulating searches", searches) as progress, Emitter(patient(settings)) as emitter:
        for batch in traffic.history(searches, 7.0, now_ms):
            for record in batch:
                emitter.send(record)
            sent += len(batch)
            progress.advance(sum(record.kind == "search" for record in batch))
        emitter.flush(WAIT_SECONDS)
    output.done(f"Sent and acknowledged {sent:,} events of {searches:,} searches in {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    lanes = wait_applied(settings, end_offsets(settings, TOPIC_OF.values()), WAIT_SECONDS)
    output.done(f"Counted by {', '.join(lanes)} {time.monotonic() - began:.1f} s later")
    return sent


def _rank(settings: "Settings", shop: "Shop") -> "list[Ranked[dict[str, Any]]]":
    from clickwell.serving.boosts import BoostReader
    from clickwell.serving.rerank import rerank

    stage = {"interaction_types": ["click", "purchase"], "time_window_days": 7, "boost_multiplier": 1.2}
    return rerank(shop.results(shop.queries[0]), BoostReader(settings), stage, explain=True)


def _top(settings: "Settings") -> list[str]:
    from clickwell.serving.trending import top

    return [entry.feature_id for entry in top(settings, k=3)]


def _show(shop: "Shop", ranked: "list[Ranked[dict[str, Any]]]", sent: int) -> None:
    before = shop.results(shop.queries[0])
    width = max(len(result["title"]) for result in before)
    typer.echo(f"\nquery: {shop.queries[0]}\n")
    typer.echo(f"  {'before':<{width + 4}}after {sent:,} events")
    for place in range(SHOWN):
        entry = ranked[place]
        why = entry.why
        assert why is not None
        moved = why.rank_before - why.rank_after
        arrow = f"↑{moved}" if moved > 0 else f"↓{-moved}" if moved < 0 else "="
        typer.echo(
            f"  {place + 1} {before[place]['title']:<{width}}  "
            f"{place + 1} {entry.item['title']:<{width}} {arrow:>3}  {why.sentence}"
        )
    typer.echo("")
