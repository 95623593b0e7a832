"""The frame of the command line: help, exit codes, and no traceback ever."""

import subprocess
import sys

import pytest
import typer

from clickwell.cli import app

COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_does_and_shows_two_examples(clickwell, command):
    """Every command explains itself in 80 columns."""
    run = clickwell(command, "--help", COLUMNS="80")
    assert run.returncode == 0
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"Usage: clickwell {command}")
    assert lines[2].strip()
    assert len(run.stdout.split("Examples:\n")[1].strip().splitlines()) >= 2
    assert max(map(len, lines)) <= 80


def test_root_help_lists_every_command_and_exit_code(clickwell):
    """One page shows all there is."""
    shown = clickwell("--help", COLUMNS="80").stdout
    listed = shown.split("Commands:\n")[1].split("\n\n")[0]
    assert all(f"  {command} " in listed for command in COMMANDS)
    assert all(
        code in shown for code in ("0 done", "1 failed", "2 usage", "3 a check", "4 a dep", "5 partly", "130", "143")
    )


def test_version(clickwell):
    """`--version` names the program and its version."""
    assert clickwell("--version").stdout.startswith("clickwell 0.")


def test_an_unknown_command_is_a_usage_error(clickwell):
    """A slip gets exit code 2 and a hint."""
    run = clickwell("upp")
    assert run.returncode == 2
    assert "up" in run.stderr


def test_a_bad_setting_is_one_clear_line(clickwell):
    """The variable is named, and there is no traceback."""
    run = clickwell("status", CLICKWELL_POPULARITY__SLOT_HOURS="5")
    assert run.returncode == 2
    assert run.stderr.startswith("error: CLICKWELL_POPULARITY")
    assert "Traceback" not in run.stderr


def test_an_unreadable_stack_file_is_one_clear_line(clickwell, tmp_path):
    """A broken stack.json is named together with what to do about it."""
    (tmp_path / "stack.json").write_text("{")
    run = clickwell("status", "--data", tmp_path)
    assert run.returncode == 2
    assert str(tmp_path / "stack.json") in run.stderr
    assert "Traceback" not in run.stderr


def run_broken(*options: str) -> subprocess.CompletedProcess[str]:
    """Run a command that holds a fault of ours."""
    code = (
        "import sys; from clickwell import cli\n"
        "@cli.app.command()\n"
        "def broken(): raise KeyError('nobody')\n"
        f"sys.argv[1:] = {[*options, 'broken']!r}\n"
        "cli.main()"
    )
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


def test_a_fault_of_ours_is_a_line_and_not_a_traceback():
    """Whatever was not foreseen ends with exit code 1, a name, and what to do."""
    run = run_broken()
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "KeyError" in run.stderr
    assert "--debug" in run.stderr


def test_debug_shows_the_traceback():
    """Whoever reports a fault can show where it was."""
    assert "Traceback" in run_broken("--debug").stderr
