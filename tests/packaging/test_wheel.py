"""The wheel against the checkout: everything is in it, nothing else is, and it runs without the checkout."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "clickwell"
LINKS = sorted(path for path in PACKAGE.iterdir() if path.is_symlink())


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed; its output is the failure's text."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    """Return the files below a folder, links not followed, without what Python and the checkers leave behind."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
    }


def in_wheel(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name.removeprefix("clickwell/") for name in names if name.startswith("clickwell/")}


def expected() -> set[str]:
    linked = {f"{link.name}/{name}" for link in LINKS for name in files(link.resolve())}
    return files(PACKAGE) | linked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from an sdist of the checkout, as for a release."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_exactly_the_folders(wheel):
    """Each module and data file of the folders is in the wheel under `clickwell/`, and nothing else."""
    assert in_wheel(wheel) == expected()
    roots = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {root.partition("-")[0] for root in roots} == {"clickwell"}


def test_the_wheel_holds_its_data(wheel):
    """JSON Schemas, the Redis functions, the type marker and the licence travel with the code."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "clickwell/py.typed",
        "clickwell/schemas/jsonschema/interaction.v1.json",
        "clickwell/serving/api/beacon.js",
        "clickwell/serving/api/shared.lua",
        "clickwell/stream_processors/functions.lua",
        "clickwell/stream_processors/history.lua",
        "clickwell/stream_processors/engagement.lua",
        "clickwell/stream_processors/popularity.lua",
    } <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_passes_check_wheel_contents(wheel):
    """The independent checker finds no stray or missing file."""
    checker = Path(sys.executable).with_name("check-wheel-contents")
    # W002, equal files: a released JSON Schema and the present one are equal until the latter grows.
    run(checker, "--ignore", "W002", "--toplevel", "clickwell", "--package", PACKAGE, wheel)


def test_a_checkout_without_links_builds_the_same_wheel(wheel, tmp_path):
    """Where git writes links as text files, as on Windows, the wheel is the same: it is built from the real folders."""
    copy = tmp_path / "checkout"
    shutil.copytree(
        ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "build", "dist")
    )
    for link in LINKS:
        flat = copy / link.relative_to(ROOT)
        target = flat.readlink()
        flat.unlink()
        flat.write_text(str(target))
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "dist", cwd=copy)
    assert in_wheel(next((tmp_path / "dist").glob("*.whl"))) == in_wheel(wheel)


def test_the_installed_wheel_runs(wheel, tmp_path):
    """In a fresh environment with the wheel and its dependencies the command runs, from another folder."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # The dependencies are this environment's own. A path file inside a path file is not read, so the checkout,
    # which is installed here as one, is not seen.
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    found = run(python, "-c", "import clickwell.schemas; print(clickwell.schemas.__file__)", cwd=tmp_path).strip()
    assert Path(found).is_relative_to(purelib)
    assert "publish" in run(python.with_name("clickwell"), "--help", cwd=tmp_path)
