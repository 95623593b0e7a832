"""What the README shows is true: its Python runs as it stands, its commands exist, its demo prints what is shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import CLICKWELL, clickwell, own_environment

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DEMO = re.search(r"<!-- demo: begin -->\n```\n(.*?)```\n<!-- demo: end -->", TEXT, re.DOTALL)


def shape(output):
    """Return the lines of a demo without numbers, names of products and the padding that follows their width."""
    lines = [re.sub(r"[0-9][0-9,.:]*", "N", line) for line in output.splitlines() if line.strip()]
    lines = [re.sub(r"(?<=\S) +", " ", line) if line.startswith("✓") else line for line in lines]
    return [re.sub(r"(?:[↑↓]N|=)?  xN.*", "PRODUCT", line) if " xN " in line else line for line in lines]


@pytest.mark.broker
@pytest.mark.parametrize("snippet", SNIPPETS, ids=["sync", "async"])
def test_python_of_the_readme_runs_as_it_stands(snippet, kafka, redis_server):
    """Each snippet, copied into a file, runs without an error against real servers."""
    env = os.environ | {
        "CLICKWELL_KAFKA__BOOTSTRAP_SERVERS": kafka,
        "CLICKWELL_REDIS__URL": redis_server,
        "PYTHONWARNINGS": "error",
    }
    clickwell("topics", env=env).check_returncode()
    done = subprocess.run(
        [sys.executable, "-c", snippet], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sku-00042" in done.stdout or "[" in done.stdout


def test_commands_of_the_readme_exist():
    """Every `clickwell ...` of the README names a command and options that the command line knows."""
    prose = re.sub(r"```python\n.*?```", "", TEXT, flags=re.DOTALL)
    found = re.findall(r"\bclickwell ([a-z][a-z-]+)((?:(?!clickwell)[^`\n])*)", prose)
    assert {"up", "worker", "boost", "top", "counts", "publish", "status", "rebuild"} <= {name for name, _ in found}
    for command, rest in found:
        done = clickwell(command, "--help", env=os.environ)
        assert done.returncode == 0, command
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in done.stdout, (command, option)


@pytest.mark.broker
def test_demo_prints_what_the_readme_shows(tmp_path):
    """The demo's lines are those of the README, but for numbers and products."""
    assert DEMO is not None
    done = subprocess.run(
        [*CLICKWELL, "demo"],
        cwd=tmp_path,
        env=own_environment(PYTHONUTF8="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    varying = ("PRODUCT", "data in", "is taken")
    printed = done.stdout.replace(f"{tmp_path}/", "")
    kept = [line for line in shape(printed) if not any(word in line for word in varying)]
    shown = [line for line in shape(DEMO[1]) if not any(word in line for word in varying)]
    assert kept == shown
    assert done.stdout.count(" x1.") == DEMO[1].count(" x1.")
