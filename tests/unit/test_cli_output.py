"""What the commands print: on a terminal, in a pipe, and where the encoding knows no marks."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clickwell.cli import output
from clickwell.errors import RedisError
from clickwell.schemas.rings import Layout


def run_on_terminal(code: str) -> tuple[str, str]:
    """Run Python code with stderr and stdout on a terminal of 80 columns; return (everything shown, exit code)."""
    master, slave = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TERM"}}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=slave, stderr=slave, env={**environment, "PYTHONUTF8": "1"}
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not block:
            break
        shown += block
    os.close(master)
    return shown.decode(), str(process.wait())


def test_lines_go_to_stderr_and_data_to_stdout(capsys):
    """A pipe gets the data and nothing else."""
    output.note("starting")
    output.done("Sent 3")
    output.warn("1 rejected", hint="look")
    output.emit({"sent": 3})
    out, err = capsys.readouterr()
    assert out == '{"sent":3}\n'
    assert err == "starting\n✓ Sent 3\n! 1 rejected\n  hint: look\n"


def test_an_error_says_what_why_fix_and_code(capsys):
    """The four things that a user needs stand on four lines."""
    output.fail(RedisError("Redis is away", why="connection refused", fix="`clickwell up`"))
    assert capsys.readouterr().err == (
        "error: Redis is away\n  why: connection refused\n  fix: `clickwell up`\n  code: CW-210\n"
    )


def test_lines_without_why_and_fix_are_left_out(capsys):
    """An error of which only the fact is known takes two lines."""
    output.fail(RedisError("Redis is away"))
    assert capsys.readouterr().err == "error: Redis is away\n  code: CW-210\n"


def test_emit_knows_models_paths_and_numpy(capsys):
    """Everything that commands hold becomes plain JSON; what JSON lacks becomes null."""
    layout = Layout(slot_ms=1, window=2, signals=("click",))
    output.emit(
        {
            "layout": layout,
            "path": Path("a/b"),
            "int": np.int64(3),
            "float": np.float32(1.5),
            "array": np.arange(2),
            "nan": float("nan"),
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "layout": {"slot_ms": 1, "window": 2, "signals": ["click"]},
        "path": "a/b",
        "int": 3,
        "float": 1.5,
        "array": [0, 1],
        "nan": None,
    }


def test_table_in_a_pipe_is_separated_by_tabs(capsys):
    """Cells are never cut or wrapped, and a tab within a cell does not make another cell."""
    output.table(["document", "n"], [["a\tb", 1], ["x" * 200, 20]])
    assert capsys.readouterr().out == f"document\tn\na b\t1\n{'x' * 200}\t20\n"


def test_table_on_a_terminal_is_aligned():
    """Text stands left, numbers right."""
    shown, _ = run_on_terminal(
        "from clickwell.cli import output; output.table(['doc', 'n'], [['abc', 1], ['d', 2000]])"
    )
    assert shown.splitlines() == ["doc     n", "abc     1", "d    2000"]


def test_progress_in_a_pipe_is_a_few_plain_lines(capsys):
    """A build log gets one line at the start and one at the end, without control codes."""
    with output.Progress("sending", 2000) as progress:
        for _ in range(2000):
            progress.advance()
        progress.postfix("done")
    first, last = capsys.readouterr().err.splitlines()
    assert first == "sending  0/2,000"
    assert last.startswith("sending  2,000/2,000  100%  ")
    assert last.endswith("/s  done")


def test_progress_without_a_total_counts(capsys):
    """Where nobody knows how much there is, there is no percentage."""
    with output.Progress("reading", None) as progress:
        progress.advance(5)
    assert capsys.readouterr().err.splitlines()[1].startswith("reading  5  ")


def test_progress_on_a_terminal_is_one_line_that_goes_away():
    """The bar is redrawn in place with percentage and time left, and erased at the end."""
    shown, _ = run_on_terminal(
        "import time\n"
        "from clickwell.cli import output\n"
        "with output.Progress('sending', 1000) as progress:\n"
        "    while not progress._drawn:\n"
        "        time.sleep(0.05); progress.advance(10)\n"
    )
    assert "\n" not in shown
    assert "eta" in shown
    assert shown.endswith("\r\x1b[2K")


def test_progress_of_a_short_run_is_silent_on_a_terminal():
    """A bar that would be gone at once is not drawn."""
    shown, _ = run_on_terminal(
        "from clickwell.cli import output\nwith output.Progress('sending', 10) as progress: progress.advance(10)"
    )
    assert shown == ""


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(no_colour, coloured):
    """NO_COLOR turns colour off; when it is empty it counts as unset."""
    shown, _ = run_on_terminal(
        f"import os; os.environ['NO_COLOR'] = {no_colour!r}\nfrom clickwell.cli import output; output.done('ok')"
    )
    assert ("\x1b[32m" in shown) is coloured


def test_marks_are_ascii_where_the_encoding_needs_it(monkeypatch):
    """A terminal that cannot show the marks gets words, and characters of names it lacks do not end the command."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "ascii"))
    output.done("Kafka · ключ")
    assert raw.getvalue() == b"ok Kafka - ????\n"


def test_a_reader_that_goes_away_ends_the_command_quietly():
    """`clickwell counts | head` ends like any other tool: no traceback, the exit code of SIGPIPE."""
    code = "from clickwell.cli import output\nfor n in range(200_000): output.emit({'n': n})\noutput.flush()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
