"""The cookbook, run from its first line to its last as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import CLICKWELL, own_environment

PAGE = Path(__file__).parents[2] / "docs" / "cookbook.md"
STEPS = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.broker
def test_every_line_of_the_cookbook_runs(tmp_path):
    """Each line of shell and each block of Python ends well, in order, in an empty folder."""
    env = own_environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", PYTHONUTF8="1")

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    assert len(STEPS) > 5
    try:
        for language, text in STEPS:
            if language == "python":
                assert run(sys.executable, "-c", text), text
            else:
                for line in text.splitlines():
                    run("bash", "-o", "pipefail", "-c", line)
    finally:
        subprocess.run([*CLICKWELL, "down"], cwd=tmp_path, env=env, check=False, timeout=60)
