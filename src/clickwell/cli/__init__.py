"""The `clickwell` command."""

import signal
import sys
import traceback
from importlib import metadata
from typing import Annotated, Any

import typer

from clickwell.cli import (
    api,
    dead_letters,
    demo,
    insights,
    keys,
    lake,
    learn,
    operate,
    output,
    people,
    privacy,
    read,
    run,
    send,
    timers,
    train,
    windows,
)
from clickwell.errors import ClickwellError

EXIT_CODES = """\b
Exit codes:
  0 done      1 failed    2 usage     3 a check found something
  4 a dependency is away or unfit     5 partly done
  130 Ctrl-C  143 SIGTERM"""

app = typer.Typer(
    name="clickwell",
    help="Turn what people do with search results into better search.",
    epilog=output.examples("clickwell up", "clickwell simulate --rate 200") + "\n\n" + EXIT_CODES,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (
    run,
    demo,
    send,
    read,
    operate,
    lake,
    api,
    keys,
    people,
    insights,
    timers,
    learn,
    dead_letters,
    privacy,
    train,
    windows,
):
    _module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clickwell {metadata.version('clickwell')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # its callback prints it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[  # main looks for it, as an error may come before the options are read
        bool, typer.Option("--debug", help="Print the traceback of an error.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with a code that means something; no traceback reaches the user."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        try:
            app(prog_name="clickwell")
        finally:
            output.flush()
    except ClickwellError as error:
        _show_traceback()
        output.fail(error)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001  # the last line of defence: one clear line instead of a traceback
        _show_traceback()
        output.fail(_unexpected(error))
        sys.exit(ClickwellError.exit_code)


def _on_sigterm(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


def _show_traceback() -> None:
    if "--debug" in sys.argv[1:]:
        traceback.print_exc()


def _unexpected(error: Exception) -> ClickwellError:
    text = " ".join(str(error).split()) or "no message"
    return ClickwellError(
        f"unexpected {type(error).__name__}: {text}",
        why="this is a fault of clickwell",
        fix="run the command again as `clickwell --debug ...` and report what it prints",
    )
