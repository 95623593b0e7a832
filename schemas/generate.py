"""The JSON Schemas of what services send, written from the pydantic models.

`python -m clickwell.schemas.generate` writes them beside this file, `--check` says which ones are not current.

A schema cannot say everything: sizes in bytes, NUL, times too far ahead and ranges are left to
`clickwell.schemas.wire.parse`, which decides.
"""

import argparse
import json
import sys
from pathlib import Path

from pydantic import BaseModel

from clickwell.schemas.erasure import Erasure
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search

FOLDER = Path(__file__).with_name("jsonschema")
MODELS: dict[str, type[BaseModel]] = {"interaction": Interaction, "search": Search, "erasure": Erasure}


def documents() -> dict[str, str]:
    """Return the text of each schema by file name; the same models give the same bytes."""
    return {f"{kind}.v1.json": _text(kind, model) for kind, model in MODELS.items()}


def outdated(folder: Path) -> list[str]:
    """Return the names of the files in `folder` that are missing or differ from the models."""
    return [
        name
        for name, text in documents().items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str] | None = None) -> int:
    """Write the schemas, or with `--check` only compare them; return 3 if any is not current, else 0."""
    parser = argparse.ArgumentParser(prog="python -m clickwell.schemas.generate", description="Write the JSON Schemas.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 3 if a file is not current")
    if not parser.parse_args(arguments).check:
        for name, text in documents().items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        return 0
    names = outdated(FOLDER)
    for name in names:
        sys.stderr.write(f"{FOLDER / name} is not current: run `python -m clickwell.schemas.generate`\n")
    return 3 if names else 0


def _text(kind: str, model: type[BaseModel]) -> str:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:clickwell:{kind}:v1",
        **model.model_json_schema(mode="validation", by_alias=True),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
