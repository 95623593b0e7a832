"""Environments for what is too large for clickwell's own, or pins other versions of the same packages."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parent.parent


def python_of(name: str) -> Path:
    """Return the interpreter of an environment, whether or not it is there yet."""
    return _ROOT / f".venv-{name}" / "bin" / "python"


def install(name: str, *packages: str) -> Path:
    """Make an environment with these packages, unless it is there already; return its interpreter."""
    python = python_of(name)
    done = python.parent.parent / ".installed"
    if not done.exists() or done.read_text().split() != list(packages):
        subprocess.run([sys.executable, "-m", "venv", "--clear", python.parent.parent], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
        done.write_text("\n".join(packages))
    return python
