"""A browser for the tests that look at pages; never none."""

import os
import shutil
import subprocess
import sys

import pytest
from playwright.sync_api import sync_playwright


# For a module only: while it is open, its event loop counts as running, and no other test could run one of its own.
@pytest.fixture(scope="module")
def browser():
    """Chromium: the machine's own, else installed by its package manager, else Playwright's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "--yes", "--quiet", "chromium"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=280)
        found = shutil.which("chromium")
    if found is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True, timeout=280)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()
