"""The dashboard's files fit together before a browser looks at them."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "serving" / "dashboard"
PAGE = (FOLDER / "index.html").read_text()
MODULES = {path.name: path.read_text() for path in FOLDER.glob("*.js") if path.name != "uplot.js"}


def test_every_module_is_asked_for_at_once():
    """A module that the page does not name would be found only when another one has come, a round trip later."""
    named = set(re.findall(r'(?:href|src)="/dashboard/static/([\w.]+\.js)"', PAGE))
    assert named == {*MODULES, "uplot.js"}


def test_every_import_is_exported():
    """What a module takes from another one is there."""
    exported = {
        name: set(re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", text, re.MULTILINE))
        | set(re.findall(r"^export const \w+ = [^;\n]+, (\w+) = ", text, re.MULTILINE))
        for name, text in MODULES.items()
    }
    for name, text in MODULES.items():
        for taken, source in re.findall(r'^import \{([^}]*)\} from "\./([\w.]+)";', text, re.MULTILINE):
            names = {part.split(" as ")[0].strip() for part in taken.split(",") if part.strip()}
            assert names <= exported[source], f"{name} takes {names - exported[source]} from {source}"


def test_nothing_makes_markup_of_text():
    """Queries and ids are hostile: no module has a way to turn a text into elements."""
    for name, text in MODULES.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name
