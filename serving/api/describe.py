"""The OpenAPI document: FastAPI's own, the ingestion routes that it does not see, and problems as the error of all."""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from clickwell.producers.records import Kind
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.serving.api.dialects import DIALECTS, PARAMETERS
from clickwell.serving.api.ingest import LINES, MAX_IDEMPOTENCY_KEY, PATHS
from clickwell.serving.api.limits import MAX_BODY, MAX_EVENTS
from clickwell.serving.api.problems import MEDIA_TYPE
from clickwell.serving.api.verdicts import Answer

_REF = "#/components/schemas/{name}"
_MODELS: dict[Kind, type[BaseModel]] = {"interaction": Interaction, "search": Search}
_PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. Requests with events have their verdicts, too.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable name for programs."},
        "detail": {"type": "string"},
        "field": {"type": "string", "description": "The first offending field."},
        "results": {"type": "array", "items": {"$ref": _REF.format(name="Verdict")}},
    },
}
_REFUSALS = {
    "400": "Not valid",
    "401": "No valid key",
    "403": "The key lacks the scope, or its origin is another",
    "404": "There is none",
    "405": "Not with this method",
    "408": "Too slow",
    "413": "Too large",
    "415": "Of an unknown type or encoding",
    "431": "The head is too large",
    "429": "The key's quota is used up",
    "503": "Something needed is away; Retry-After says when to try again",
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document of an app; made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app)
    document: dict[str, Any] = app.openapi_schema
    return document


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _PROBLEM
    _, answers = msgspec.json.schema_components([Answer], ref_template=_REF)
    schemas.update(answers)
    for path, kind in PATHS.items():
        schemas.update(_event_schemas(_MODELS[kind]))
        document["paths"].setdefault(path, {})["post"] = _ingest(kind)
    for path, name in DIALECTS.items():
        document["paths"][path] = {"post": _ingest_dialect(name)}
    for path in document["paths"].values():
        for operation in path.values():
            _add_problems(operation)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _event_schemas(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_REF.replace("{name}", "{model}"), mode="validation")
    parts: dict[str, Any] = schema.pop("$defs", {})
    return parts | {model.__name__: schema}


def _ingest(kind: Kind) -> dict[str, Any]:
    event = {"$ref": _REF.format(name=_MODELS[kind].__name__)}
    batch = {"type": "array", "items": event, "minItems": 1, "maxItems": MAX_EVENTS}
    content: dict[str, Any] = {"application/json": {"schema": {"anyOf": [event, batch]}}}
    content |= {name: {"schema": {"type": "string", "description": "One event on each line."}} for name in LINES[:1]}
    return {
        "tags": [f"{kind}s" if kind == "interaction" else "searches"],
        "summary": f"Take one {kind}, or a batch.",
        "description": (
            f"At most {MAX_EVENTS:,} events and {MAX_BODY:,} bytes, also after decompression (gzip, zstd). Each event "
            "gets a verdict; a bad one does not refuse the others. 202 comes after the broker has all accepted ones."
        ),
        "operationId": f"post_{kind}",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY},
                "description": "Gives the events of a repeated request the same ids, so that they count once.",
            }
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "202": {
                "description": "The verdicts, in the order of the events",
                "content": {"application/json": {"schema": {"$ref": _REF.format(name="Answer")}}},
            }
        },
        "security": [{"HTTPBearer": []}, {"APIKeyHeader": []}],
    }


def _ingest_dialect(name: str) -> dict[str, Any]:
    event = {"type": "object", "description": f"An event of {name}."}
    batch = {"type": "array", "items": event, "minItems": 1, "maxItems": MAX_EVENTS}
    operation = _ingest("interaction")
    operation["requestBody"]["content"]["application/json"] = {"schema": {"anyOf": [event, batch]}}
    operation |= {
        "tags": ["dialects"],
        "summary": f"Take one event as {name} writes it, or a batch.",
        "operationId": f"post_{name.lower()}",
        "parameters": PARAMETERS,
    }
    return operation


def _add_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for status, meaning in _REFUSALS.items():
        problem = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}
        responses.setdefault(status, {"description": meaning, "content": {}})["content"] |= problem
