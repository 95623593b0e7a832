"""The documentation against the code: codes, reasons, settings, links and limits are what the pages say."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from clickwell import errors
from clickwell.schemas import interactions, wire

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def _tree(base: type[errors.ClickwellError]) -> list[type[errors.ClickwellError]]:
    """Return the errors below `base` that stand in errors.py, base included."""
    below = [kind for child in base.__subclasses__() if child.__module__ == errors.__name__ for kind in _tree(child)]
    return [base, *below]


ERRORS = _tree(errors.ClickwellError)


def test_every_error_has_its_section():
    """docs/errors.md has one section for each code, in order, with the name and exit code of the class."""
    page = (ROOT / "docs/errors.md").read_text()
    sections = re.findall(r"(?m)^## (CW-\d+) (\w+)\nExit (\d+)\.", page)
    assert sections == [
        (kind.code, kind.__name__, str(kind.exit_code)) for kind in sorted(ERRORS, key=lambda e: e.code)
    ]
    assert len({kind.code for kind in ERRORS}) == len(ERRORS)


def test_every_reason_is_explained():
    """The reasons of dead letters that the code gives are those in the table."""
    page = (ROOT / "docs/errors.md").read_text()
    sources = [*ROOT.glob("schemas/*.py"), *ROOT.glob("stream_processors/*.py")]
    raised = {name for path in sources for name in re.findall(r'DecodeError\(\s*"(\w+)"', path.read_text())}
    raised |= {"missing_field", "invalid_field"}
    assert raised == set(re.findall(r"(?m)^\| `(\w+)` \|", page))


@pytest.mark.parametrize("name", ["settings.md", "metrics.md"])
def test_generated_pages_are_current(name):
    """The pages equal what the code declares; `make docs` writes them anew."""
    pages = runpy.run_path(str(ROOT / "docs/generate.py"))["pages"]()
    assert (ROOT / "docs" / name).read_text() == pages[name]


@pytest.mark.parametrize(
    "number",
    [
        interactions.MAX_ID,
        interactions.MAX_FEATURE_ID,
        interactions.MAX_INTERACTION_ID,
        interactions.MAX_TYPES,
        interactions.MAX_QUERY,
    ],
)
def test_limits_are_those_of_the_code(number):
    """Each limit of the models stands on the limits page."""
    assert f"{number:,} " in (ROOT / "docs/limits.md").read_text()


def test_byte_limits_are_those_of_the_code():
    """Sizes in bytes are written in their larger units."""
    page = (ROOT / "docs/limits.md").read_text()
    assert f"{wire.MAX_EVENT_BYTES >> 20} MiB; " in page
    assert f"{interactions.MAX_METADATA_BYTES >> 10} KiB as compact JSON" in page
    assert f"{interactions.MAX_AHEAD_MS // 60_000} minutes ahead" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """Each relative link names a file that exists, and a heading in it where it has an anchor."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        headings = re.findall(r"(?m)^#+ (.*)$", file.read_text()) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}, target


def test_make_lists_its_targets():
    """`make` alone shows each target with what it does, and the pages name only targets that exist."""
    listed = set(re.findall(r"(?m)^  make (\w+)", subprocess.check_output(["make", "-C", ROOT], text=True)))
    named = {name for page in PAGES for name in re.findall(r"(?m)(?:^|`)make (\w+)", page.read_text())}
    assert named <= listed
    assert {"setup", "test", "check", "demo", "bench", "clean"} <= listed


def test_the_module_form_of_the_generator_works():
    """`python -m clickwell.schemas.generate --check` runs as documented."""
    subprocess.run([sys.executable, "-m", "clickwell.schemas.generate", "--check"], check=True)
