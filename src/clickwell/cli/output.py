"""What every command says, and how: data on stdout, everything else on stderr, readable without colour.

Colour and animation are decided here, by `isatty()`: libraries that guess draw bars into the logs of build servers.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self, TextIO

import typer
from pydantic_core import to_json

from clickwell import logs
from clickwell.errors import ClickwellError

_log = logging.getLogger("clickwell")

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the local stack. Default: CLICKWELL_DATA, else .clickwell"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Port of /metrics; 0 serves none. Default: CLICKWELL_METRICS__PORT, else none."
    ),
]

# A run that ends sooner needs no bar; a bar that flashes up is only noise.
_QUIET_SECONDS = 0.5
# Often enough to show in a build log that the run lives, rarely enough not to fill it.
_PLAIN_SECONDS = 10.0
_REDRAW_SECONDS = 0.1
_ERASE_LINE = "\r\x1b[2K"
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}
_ASCII = str.maketrans({"✓": "ok", "✗": "x", "·": "-", "…": "..."})


def examples(*commands: str) -> str:
    """Return the epilog of a command's `--help`: lines that can be copied."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def metrics_on(port: int | None) -> dict[str, Any]:
    """Return the setting that `--metrics-port` stands for, for `Settings.load`."""
    return {} if port is None else {"metrics": {"port": port}}


def note(text: str) -> None:
    """Print one line that tells what goes on."""
    if logs.as_json():
        _log.info(text)
    else:
        _line(text)


def done(text: str) -> None:
    """Print one line that tells what was done."""
    _line(f"{_paint('✓', 'green')} {text}")


def warn(text: str, hint: str = "") -> None:
    """Print one line that tells what is not as it should be, and below it what can be done."""
    if logs.as_json():
        _log.warning(text)
        return
    _line(f"{_paint('!', 'yellow')} {text}")
    if hint:
        _line(f"  hint: {_paint(hint, 'cyan')}")


def fail(error: ClickwellError) -> None:
    """Print an error: what, why, what to do, and the code under which the documentation explains it."""
    if logs.as_json():
        fields = {"message": error.message, "why": error.why, "fix": error.fix, "code": error.code}
        _log.error(error.message, extra={"fields": fields})
        return
    _line(f"{_paint('error:', 'red')} {error.message}")
    if error.why:
        _line(f"  why: {error.why}")
    if error.fix:
        _line(f"  fix: {_paint(error.fix, 'cyan')}")
    _line(f"  code: {error.code}")


def emit(obj: Any) -> None:
    """Print one JSON document on one line of stdout; pydantic models, paths and numpy values are allowed."""
    _data(to_json(obj, inf_nan_mode="null", fallback=lambda value: value.tolist()).decode())


def table(headers: list[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows on stdout: aligned for a person, separated by tabs and never cut for a pipe."""
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            _data("\t".join(str(cell).replace("\t", " ").replace("\n", " ") for cell in row))
        return
    cells = [headers, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(headers))]
    for row in cells:
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True))
        _data("  ".join(padded).rstrip())


def flush() -> None:
    """Hand over what is still buffered for stdout; a reader that has gone ends the process as SIGPIPE would."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_has_gone()


class Progress:
    """Progress of a long piece of work, on stderr.

    On a terminal one line is redrawn and erased at the end; elsewhere a plain line is written at the start, every ten
    seconds and at the end.

    Args:
        label: what is being done, such as `sending`.
        total: how many there are to do, None when that is unknown.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self._label = label
        self._total = total
        self._count = 0
        self._extra = ""
        self._live = _is_terminal(sys.stderr)
        self._drawn = False
        self._started = self._next = 0.0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._next = self._started + (_QUIET_SECONDS if self._live else _PLAIN_SECONDS)
        if not self._live:
            _line(self._label if self._total is None else f"{self._label}  0/{self._total:,}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            _write(sys.stderr, _ERASE_LINE)
        if not self._live:
            _line(self._text(time.monotonic()))

    def advance(self, n: int = 1) -> None:
        """Count `n` more as done."""
        self._count += n
        self._show()

    def postfix(self, text: str) -> None:
        """Replace what stands at the end of the line."""
        self._extra = text
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_REDRAW_SECONDS if self._live else _PLAIN_SECONDS)
        if self._live:
            self._drawn = True
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            _write(sys.stderr, _ERASE_LINE + self._text(now)[: max(width - 1, 20)])
        else:
            _line(self._text(now))

    def _text(self, now: float) -> str:
        rate = self._count / max(now - self._started, 1e-9)
        parts = [self._label]
        if self._total is None:
            parts += [f"{self._count:,}", f"{rate:,.0f}/s"]
        else:
            share = self._count / self._total if self._total else 1.0
            parts += [f"{self._count:,}/{self._total:,}", f"{share:.0%}", f"{rate:,.0f}/s"]
            if 0 < self._count < self._total:
                parts.append(f"eta {(self._total - self._count) / rate:,.0f} s")
        return "  ".join([*parts, self._extra]).rstrip()


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).removeprefix("-").isdigit()


def _paint(text: str, colour: str) -> str:
    if not _is_terminal(sys.stderr) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def _line(text: str) -> None:
    _write(sys.stderr, text + "\n")


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "ascii"
    if not encoding.lower().startswith("utf"):
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Nobody listens any more; what the command does matters more than what it says about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _data(text: str) -> None:
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        _reader_has_gone()


def _reader_has_gone() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(128 + signal.SIGPIPE)
