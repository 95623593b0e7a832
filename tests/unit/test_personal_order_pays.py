"""The personal order in the simulated shop: later clicks stand higher, and strangers see what they saw."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "personalisation.py"


def test_later_clicks_stand_higher_in_the_personal_order():
    """With tastes every interval lies above 0, whoever counts the clicks; without a history nothing moves."""
    command = [sys.executable, str(BENCHMARK), "--seeds", "2", "--searches", "15000", "--tastes", "1.5", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert run.returncode == 0, run.stderr + run.stdout
    found = json.loads(run.stdout)
    assert found["neutral"]
    for seed in found["seeds"]:
        assert seed["searches"] > 500
        assert seed["gain"][1] > 0
        assert seed["unbiased_gain"][1] > 0
