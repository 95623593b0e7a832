"""Puts the demo's real output into README.md: `python docs/demo.py`."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- demo: begin -->\n```\n).*?(```\n<!-- demo: end -->)", re.DOTALL)


def main() -> None:
    """Run the demo in a new folder and paste what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "clickwell", "demo", "--data", f"{folder}/demo"]
        done = subprocess.run(  # noqa: S603  # our own command
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        printed = done.stdout.replace(f"{folder}/demo", ".clickwell/demo")
    README.write_text(BLOCK.sub(lambda found: found[1] + printed + found[2], README.read_text()))


if __name__ == "__main__":
    main()
