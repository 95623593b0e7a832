"""`POST /v1/ingest/ubi` and `/v1/ingest/metarank`: events as OpenSearch UBI and Metarank write them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import Request
from pydantic_core import to_json
from starlette.responses import Response
from starlette.routing import Route

from clickwell.errors import DecodeError
from clickwell.producers import metarank, ubi
from clickwell.producers.records import Kind
from clickwell.schemas.interactions import MAX_ID
from clickwell.schemas.wire import decode_object
from clickwell.serving.api.capture import Capture
from clickwell.serving.api.events import strictly
from clickwell.serving.api.ingest import receive, respond
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of
from clickwell.serving.api.verdicts import Answer, Verdict, answer_of, rejected

Translate = Callable[[Mapping[str, Any]], dict[str, Any]]

DIALECTS: dict[str, str] = {"/v1/ingest/ubi": "UBI", "/v1/ingest/metarank": "Metarank"}

# What can be said of a whole request, in its address.
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "retriever_id",
        "in": "query",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID},
        "description": "Of the events that name none.",
    },
    {
        "name": "first_position",
        "in": "query",
        "schema": {"type": "integer", "enum": [0, 1], "default": ubi.FIRST_POSITION},
        "description": "UBI: the ordinal of the uppermost result.",
    },
]


def routes() -> list[Route]:
    """Return the routes; `describe` has their part of the OpenAPI document."""
    return [Route(path, _route(path), methods=["POST"]) for path in DIALECTS]


def _route(path: str) -> Callable[[Request], Awaitable[Response]]:
    async def ingest(request: Request) -> Response:
        request.state.route = path
        services = services_of(request)
        caller = services.access.admit(request, Scope.WRITE)
        translate = _translation(path, request)
        events, single = await receive(request)
        await caller.spend(len(events))
        request.state.events = len(events)
        return respond(await take(services.capture, translate, events, single=single))

    return ingest


async def take(capture: Capture, translate: Translate, events: Sequence[bytes], *, single: bool) -> Answer:
    """Take events of a dialect and return their verdicts, in order; a retry makes the same ids.

    Raises:
        Problem: 503, the broker does not confirm.
    """
    verdicts: list[Verdict | None] = [None] * len(events)
    found: dict[Kind, list[tuple[int, bytes]]] = {"search": [], "interaction": []}
    for place, value in enumerate(events):
        try:
            strictly(value)
            event = translate(decode_object(value))
            found["interaction" if "feature_id" in event else "search"].append((place, to_json(event)))
        except DecodeError as error:
            verdicts[place] = rejected(error)
        except (ValueError, RecursionError) as error:
            verdicts[place] = rejected(DecodeError("bad_json", str(error) or "nested too deeply"))
    for kind, ready in found.items():
        if ready:
            answer = await capture.take(kind, [event for _, event in ready])
            for (place, _), verdict in zip(ready, answer.results, strict=True):
                verdicts[place] = verdict
    return answer_of([verdict for verdict in verdicts if verdict is not None], single=single)


def _translation(path: str, request: Request) -> Translate:
    """Return how the events of a request are read.

    Raises:
        Problem: the address says something that cannot be.
    """
    retriever = request.query_params.get("retriever_id")
    first = request.query_params.get("first_position", str(ubi.FIRST_POSITION))
    if retriever is not None and not 0 < len(retriever) <= MAX_ID:
        raise Problem(400, "bad_request", f"retriever_id has 1 to {MAX_ID} characters")
    if first not in {"0", "1"}:
        raise Problem(400, "bad_request", "first_position is 0 or 1")
    if DIALECTS[path] == "UBI":
        return lambda event: ubi.to_event(event, retriever=retriever, first_position=int(first))
    return lambda event: metarank.to_event(event, retriever=retriever)
