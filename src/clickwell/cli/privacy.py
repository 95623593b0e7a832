"""`clickwell erase`, `eraser` and `receipts ...`: forget a person, and prove it."""

import signal
import threading
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from clickwell import logs
from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption, MetricsPortOption
from clickwell.errors import DependencyError, UsageError
from clickwell.settings import Settings

FOUND = 3


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    examples = ("clickwell erase --user-id u17 --wait", "clickwell erase --feature-id d3 --from 2026-05-01")
    app.command(epilog=output.examples(*examples))(erase)
    app.command(epilog=output.examples("clickwell eraser", "clickwell eraser --data /srv/clickwell"))(eraser)
    receipts = typer.Typer(
        name="receipts",
        epilog=output.examples("clickwell receipts list", "clickwell receipts verify"),
        help="Show what was erased, and prove it.",
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command, examples in (
        (list_receipts, ("clickwell receipts list", "clickwell receipts list --json")),
        (show, ("clickwell receipts show 0199f1", "clickwell receipts show 0199f1 --json")),
        (verify, ("clickwell receipts verify", "clickwell receipts verify 0199f1 --json")),
    ):
        receipts.command(name=command.__name__.split("_", 1)[0], epilog=output.examples(*examples))(command)
    app.add_typer(receipts)


def erase(
    *,
    user_id: Annotated[str | None, typer.Option(help="Erase this person's events.")] = None,
    interaction_id: Annotated[str | None, typer.Option(help="Erase this event.")] = None,
    session_id: Annotated[str | None, typer.Option(help="Erase the events of this visit.")] = None,
    feature_id: Annotated[str | None, typer.Option(help="Erase the events of this document.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="First event time, ISO 8601 or epoch ms.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Event time before which to end.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the receipt; name nobody here.")] = "",
    requester: Annotated[str, typer.Option(help="On whose word, for the receipt.")] = "",
    erasure_id: Annotated[str | None, typer.Option(help="Name of the request; the same twice is one.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the receipt is there.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 300.0,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Ask for the erasure of a person, an event, a visit or a document, everywhere."""
    from pydantic import ValidationError

    from clickwell.producers.erasures import request_erasure
    from clickwell.schemas.erasure import Erasure
    from clickwell.schemas.wire import new_id

    settings = Settings.load(data)
    content: dict[str, Any] = {
        "erasure_id": erasure_id or new_id(),
        "user_id": user_id,
        "interaction_id": interaction_id,
        "session_id": session_id,
        "feature_id": feature_id,
        "from": _time(since),
        "to": _time(until),
        "reason": reason,
        "requester": requester,
    }
    try:
        erasure = Erasure.model_validate(content)
    except ValidationError as error:
        raise UsageError(
            f"the request {error.errors()[0]['msg']}",
            fix="name one of --user-id, --interaction-id, --session-id, --feature-id",
        ) from None
    request_erasure(settings, erasure)
    receipt = _await(settings, erasure.erasure_id, timeout) if wait else None
    output.done(f"erasure {erasure.erasure_id} is {'done' if receipt else 'requested'}")
    if json:
        output.emit({"erasure_id": erasure.erasure_id, "receipt": receipt})
    elif not wait:
        output.note(f"`clickwell receipts show {erasure.erasure_id}` shows the receipt when it is done")


def eraser(*, metrics_port: MetricsPortOption = None, data: DataOption = None) -> None:
    """Run the eraser: it carries out what `erase` and the API ask for."""
    try:
        from clickwell.analytics.privacy.eraser import Eraser
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[analytics]'") from None

    settings = Settings.load(data, **output.metrics_on(metrics_port))
    logs.set_up(settings.log)
    stopping, told = threading.Event(), [0]

    def stop(number: int, _frame: object) -> None:
        told[0] = number
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    Eraser(settings, stopping).run()
    raise typer.Exit(128 + told[0] if told[0] else 0)


def list_receipts(*, data: DataOption = None, json: JsonOption = False) -> None:
    """List the receipts, oldest first."""
    from clickwell.analytics.privacy.receipts import Receipts

    found = [each for each in Receipts(Settings.load(data)).read() if each["event"] == "erased"]
    if json:
        output.emit({"receipts": found})
        return
    output.table(
        ["erasure", "requested", "done", "kind", "rows"],
        [
            [each["erasure_id"], _day(each["requested_ms"]), _day(each["at_ms"]), each["subject"]["kind"], _rows(each)]
            for each in found
        ],
    )


def show(erasure_id: str, *, data: DataOption = None, json: JsonOption = False) -> None:
    """Show one receipt; the beginning of its id is enough."""
    from clickwell.analytics.privacy.receipts import Receipts

    found = [each for each in Receipts(Settings.load(data)).read() if str(each["erasure_id"]).startswith(erasure_id)]
    if len({each["erasure_id"] for each in found}) != 1:
        raise UsageError(
            f"{len(found)} receipts begin with {erasure_id!r}",
            why="" if found else "the erasure is not done yet, or was never asked for",
            fix="`clickwell receipts list` shows all",
        )
    if json:
        output.emit(found[0])
        return
    for name, value in found[0].items():
        output.note(f"{name:<14} {value}")


def verify(
    erasure_id: Annotated[
        list[str] | None, typer.Argument(help="Erasures to look for; all when none is named.")
    ] = None,
    *,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Prove that no receipt was changed and that what was erased is in no store."""
    from clickwell.analytics.privacy.proof import prove

    proof = prove(Settings.load(data), erasure_id or ())
    if json:
        output.emit(proof)
    else:
        for store, count in proof.searched.items():
            output.note(f"searched {count:,} {store}")
        for line in proof.pending:
            output.note(f"to go: {line}")
        for line in (*proof.chain, *proof.found):
            output.warn(line)
    if proof.chain or proof.found:
        raise typer.Exit(FOUND)
    output.done(f"{proof.receipts} erasures: nothing found, no receipt changed")


def _await(settings: Settings, erasure_id: str, timeout: float) -> dict[str, Any]:
    from clickwell.analytics.privacy.receipts import Receipts

    deadline = time.monotonic() + timeout
    while True:
        for receipt in Receipts(settings).read():
            if receipt["erasure_id"] == erasure_id:
                return receipt
        if time.monotonic() > deadline:
            raise DependencyError(
                f"erasure {erasure_id} was not done within {timeout:g} s",
                why="the request is safe in Kafka; no eraser runs, or it waits for a sink or a worker",
                fix="`clickwell eraser` carries it out; its log says what it waits for",
            )
        time.sleep(0.2)


def _time(text: str | None) -> int | str | None:
    return int(text) if text and text.isdigit() else text


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _rows(receipt: dict[str, Any]) -> int:
    return sum(table["rows_erased"] for table in receipt["stores"]["lake"].values())
