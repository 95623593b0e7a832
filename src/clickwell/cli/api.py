"""`clickwell api`: serve the HTTP API."""

from typing import Annotated

import typer

from clickwell import logs, tracing
from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import UsageError
from clickwell.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=output.examples("clickwell api", "clickwell api --host 0.0.0.0 --port 8080"))(api)


def api(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: CLICKWELL_API__HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: CLICKWELL_API__PORT; 0 takes a free one.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the HTTP API: capture, query, delete, boosts."""
    try:
        from clickwell.serving.api.server import serve
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[api]'") from None

    settings = Settings.load(data)
    logs.set_up(settings.log)
    tracing.set_up(settings.tracing, "api")
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update={"api": settings.api.model_copy(update=given)})

    def ready(address: str, keys: int | None) -> None:
        if keys == 0:
            output.note(f"{address} · no key yet, so only this machine is served: `clickwell keys create`")
        elif keys is None:
            output.warn(f"{address} · Redis is away, so nobody is served until it says which keys there are")
        else:
            output.note(f"{address} · {keys} key{'s'[: keys != 1]}")
        if json:
            output.emit({"address": address, "keys": keys})
            output.flush()

    serve(settings, ready)
