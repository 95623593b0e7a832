"""`clickwell keys ...`: who may use the HTTP API."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import UsageError
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.serving.api.keys import Key


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    keys = typer.Typer(
        name="keys",
        epilog=output.examples("clickwell keys create --scope write --name shop", "clickwell keys list"),
        help="Say who may use the HTTP API.",
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command, name, examples in (
        (
            create,
            "create",
            (
                "clickwell keys create --scope write --quota 500 --origin https://shop.example",
                "clickwell keys create --scope read --scope erase --name office --json",
            ),
        ),
        (list_keys, "list", ("clickwell keys list", "clickwell keys list --json")),
        (revoke, "revoke", ("clickwell keys revoke 4f1c09aa72be", "clickwell keys revoke 4f1c09aa72be --json")),
    ):
        keys.command(name, epilog=output.examples(*examples))(command)
    app.add_typer(keys)


def create(
    *,
    scope: Annotated[
        list[str], typer.Option("--scope", help="write, read, erase or admin (everything); may be repeated.")
    ],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    quota: Annotated[
        float | None, typer.Option(min=0.001, help="Events a second on average; a read counts as one.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", help="Only pages of this origin may use it; may be repeated.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    from clickwell.redis_client import connect
    from clickwell.serving.api.keys import Scope, create

    names = {each for part in scope for each in part.split(",")}
    if unknown := names - set(Scope):
        raise UsageError(f"--scope {min(unknown)!r} is none", fix=f"choose from {', '.join(Scope)}")
    with connect(Settings.load(data)) as client:
        key, text = create(client, frozenset(map(Scope, names)), name=name, quota=quota, origins=tuple(origin or ()))
    output.done(f"Key {key.id} may {_scopes(key)}; keep it, it is not shown again")
    if json:
        output.emit({"key": text, **_shown(key)})
    else:
        output.table(["key"], [[text]])


def list_keys(*, data: DataOption = None, json: JsonOption = False) -> None:
    """List the keys, without their secrets."""
    from clickwell.redis_client import connect
    from clickwell.serving.api.keys import list_keys

    with connect(Settings.load(data)) as client:
        keys = list_keys(client)
    if json:
        output.emit({"keys": [_shown(key) for key in keys]})
        return
    output.table(
        ["id", "name", "scopes", "quota", "origins", "created", "revoked"],
        [
            [
                key.id,
                key.name or "-",
                _scopes(key),
                key.quota or "-",
                ",".join(key.origins) or "-",
                _day(key.created_ms),
                _day(key.revoked_ms) if key.revoked_ms else "-",
            ]
            for key in keys
        ],
    )


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's public part.")],
    *,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a key; servers refuse it within 5 s."""
    from clickwell.redis_client import connect
    from clickwell.serving.api.keys import revoke

    with connect(Settings.load(data)) as client:
        key = revoke(client, key_id)
    output.done(f"Revoked {key.id}")
    if json:
        output.emit(_shown(key))


def _shown(key: "Key") -> dict[str, Any]:
    return {**key.model_dump(exclude={"sha256"}), "scopes": sorted(key.scopes)}


def _scopes(key: "Key") -> str:
    return ",".join(sorted(key.scopes))


def _day(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
