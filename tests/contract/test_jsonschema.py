"""The published JSON Schemas: current, wide enough for every released sender, and honest about what is accepted."""

import json
from importlib.resources import files

import pytest

from clickwell.schemas import generate
from clickwell.schemas.evolve import compatible
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search

RELEASED = sorted((generate.FOLDER / "released").glob("*/*.json"))


def test_the_committed_schemas_are_current(capsys):
    """The files equal what the models give; `make docs` writes them anew."""
    assert generate.outdated(generate.FOLDER) == []
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_an_outdated_schema_is_named(tmp_path, monkeypatch, capsys):
    """`--check` exits with 3 and names each file that is missing or differs; writing mends it."""
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.main(["--check"]) == 3
    assert "erasure.v1.json is not current" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.outdated(tmp_path) == []
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_whatever_a_release_accepted_is_still_accepted(released):
    """A schema under one version of a topic only becomes wider; a narrower one is a new version."""
    present = json.loads(generate.documents()[released.name])
    assert compatible(json.loads(released.read_text(encoding="utf-8")), present) == []


def test_every_kind_has_a_release_to_compare_with():
    """The comparison above is not empty: each schema has been released at least once."""
    assert {path.name for path in RELEASED} == set(generate.documents())


def test_schemas_are_package_data():
    """Users of the wheel find the schemas beside the code."""
    for name in generate.documents():
        assert json.loads(files("clickwell.schemas").joinpath("jsonschema", name).read_text(encoding="utf-8"))["$id"]


@pytest.mark.parametrize("model", [Interaction, Search])
def test_schemas_describe_the_input(model):
    """Senders may write ISO 8601 and fields of their own, as the models accept both."""
    schema = model.model_json_schema()
    kinds = {choice["type"] for choice in schema["properties"]["timestamp"]["anyOf"]}
    assert kinds == {"integer", "string", "null"}
    assert schema["additionalProperties"] is True
    assert all("description" in field for field in schema["properties"].values())
