"""Writes docs/settings.md and docs/metrics.md from what the code declares: `python docs/generate.py`."""  # a script

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clickwell.metrics import METRICS, Metric
from clickwell.settings import Settings

HEAD = """\
# Settings

<!-- Written by docs/generate.py from src/clickwell/settings.py; `make docs` writes it anew. -->

Each setting is read once, when a process starts, from the first of these that has it: the environment, the addresses
that `clickwell up` wrote to `DIR/stack.json`, the default. Lists and mappings are written as JSON, for example
`CLICKWELL_POPULARITY__SIGNALS='["click", "purchase"]'`.
"""


METRICS_HEAD = """\
# Metrics

<!-- Written by docs/generate.py from src/clickwell/metrics.py; `make docs` writes it anew. -->

In Prometheus' text format at `/metrics`: of the API beside everything else, of the other processes on
`CLICKWELL_METRICS__PORT` (off by default; `clickwell up` gives each a port, which `stack.json` names). Each process
counts since its start. Besides these, each has the process metrics of Prometheus' client:
`process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds`. What to do when one looks wrong:
[runbook.md](runbook.md).

No label holds a person's id, a query or a document; `retriever_id` is the only one that senders choose.
"""
PARTS = {
    None: "Every process",
    "api": "API",
    "worker": "Workers",
    "sink": "Sinks",
    "eraser": "Eraser",
    "insights": "Insights",
}


def pages() -> dict[str, str]:
    """Return the generated pages: name -> text."""
    return {"settings.md": settings_page(), "metrics.md": metrics_page()}


def metrics_page() -> str:
    """Return the text of docs/metrics.md."""
    return "\n".join([METRICS_HEAD, *(line for part in PARTS for line in _part(part))])


def _part(part: str | None) -> Iterator[str]:
    yield f"## {PARTS[part]}\n"
    yield "| metric | type | unit | labels | meaning |"
    yield "|---|---|---|---|---|"
    yield from (_metric(metric) for metric in METRICS if metric.part == part)
    yield ""


def _metric(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels or 'none'} | {metric.help} |"


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    return "\n".join([HEAD, *_section("Root", Settings, "CLICKWELL_"), *_groups()])


def _groups() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _section(name.capitalize(), field.annotation, f"CLICKWELL_{name.upper()}__")


def _section(title: str, group: type[BaseModel], prefix: str) -> Iterator[str]:
    yield f"## {title}\n"
    if title != "Root":
        yield f"{group.__doc__}\n"
    yield "| variable | default | allowed | meaning |"
    yield "|---|---|---|---|"
    for name, schema in group.model_json_schema()["properties"].items():
        if "$ref" not in schema:
            cells = (f"`{prefix}{name.upper()}`", _default(schema), _allowed(schema), schema["description"])
            yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
    yield ""


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    if value is None or value == "":
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _allowed(schema: dict[str, Any]) -> str:
    """Return the type and bounds of a setting in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(choice) for choice in schema["anyOf"] if choice["type"] != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("format") in {"path", "password"}:
        return {"path": "path", "password": "secret text"}[schema["format"]]
    words = {"integer": "whole number", "number": "number", "string": "text", "array": "list", "object": "mapping"}
    words |= {"boolean": "true or false"}
    bounds = [
        f"{sign} {schema[rule]:,}"
        for rule, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if rule in schema
    ]
    return " ".join([words[schema["type"]], ", ".join(bounds)]).strip()


if __name__ == "__main__":
    for name, text in pages().items():
        Path(__file__).with_name(name).write_text(text, encoding="utf-8")
