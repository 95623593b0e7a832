"""`POST /v1/retrievers/interactions` and `/searches`: plain routes that read raw bodies, for speed."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response
from starlette.routing import Route

from clickwell.producers.records import Kind
from clickwell.serving.api.events import split
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.limits import MAX_EVENTS, read_body
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of
from clickwell.serving.api.verdicts import Answer

PATHS: dict[str, Kind] = {"/v1/retrievers/interactions": "interaction", "/v1/retrievers/searches": "search"}
LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
# Browsers send text/plain without asking the server first; no type at all is taken as JSON.
DOCUMENTS = ("application/json", "text/plain", "")
MAX_IDEMPOTENCY_KEY = 256


def routes() -> list[Route]:
    """Return the routes; `describe.paths` has their part of the OpenAPI document."""
    return [Route(path, _route(path, kind), methods=["POST"]) for path, kind in PATHS.items()]


async def receive(request: Request) -> tuple[list[bytes], bool]:
    """Return the events of a request's body, and whether it holds a single one and no batch.

    Raises:
        Problem: the body cannot be told apart into 1 to 1,000 events.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in LINES and kind not in DOCUMENTS:
        raise Problem(415, "unknown_type", f"send application/json, application/x-ndjson or text/plain, not {kind!r}")
    body = await read_body(request)
    events, single = split(body, lines=kind in LINES)
    if not events:
        raise Problem(400, "no_events", "the body holds no event")
    if len(events) > MAX_EVENTS:
        raise Problem(
            413, "too_many_events", f"a request has at most {MAX_EVENTS:,} events, this one has {len(events):,}"
        )
    return events, single


def salt_of(request: Request, caller_id: str) -> bytes:
    """Return what names a request that may be repeated; empty when it has no `Idempotency-Key`.

    Raises:
        Problem: the key is too long.
    """
    key = request.headers.get("idempotency-key", "")
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise Problem(400, "bad_idempotency_key", f"an Idempotency-Key has at most {MAX_IDEMPOTENCY_KEY} characters")
    return f"{caller_id}:{key}".encode() if key else b""


def respond(answer: Answer) -> Response:
    """Return 202 with the verdicts, or a problem that has them when every event was rejected."""
    if answer.accepted or answer.duplicate:
        return Response(msgspec.json.encode(answer), 202, media_type="application/json")
    first = answer.results[0]
    members: dict[str, Any] = {name: getattr(answer, name) for name in ("accepted", "duplicate", "rejected", "results")}
    return Problem(400, first.code, first.reason, members={"field": first.field, **members}).response()


def _route(path: str, kind: Kind) -> Callable[[Request], Awaitable[Response]]:
    async def ingest(request: Request) -> Response:
        request.state.route = path
        services = services_of(request)
        caller = services.access.admit(request, Scope.WRITE)
        salt = salt_of(request, caller.id)
        events, single = await receive(request)
        await caller.spend(len(events))
        request.state.events = len(events)
        return respond(await services.capture.take(kind, events, salt=salt, single=single))

    return ingest
