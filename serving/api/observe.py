"""What operators see of every request: its time, a span, and a line of log that names no person and holds no secret."""

import logging
import time
from pathlib import Path

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clickwell import tracing
from clickwell.serving.api.measures import Measures
from clickwell.serving.api.problems import Problem
from clickwell.tracing import Tracing

access_log = logging.getLogger("clickwell.access")
log = logging.getLogger("clickwell.api")


class Observe:
    """Middleware around everything: measures, logs, and answers what nobody else has caught.

    The log has the route's template and never the path, the query string, a header or an error's own words: all of
    these may hold ids of people.

    Args:
        app: the app below.
        measures: takes the measurements.
        tracing: makes the spans, if any.
    """

    def __init__(self, app: ASGIApp, measures: Measures, tracing: Tracing | None = None) -> None:
        self._app = app
        self._measures = measures
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracing is None:
            await self._observed(scope, receive, send)
        else:
            with self._tracing.request(Headers(scope=scope).get(tracing.HEADER)) as span:
                method, route, status = await self._observed(scope, receive, send)
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {"http.request.method": method, "http.route": route, "http.response.status_code": status}
                )

    async def _observed(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, str, int]:
        """Pass a request on, and return its method, its route and the status of the answer."""
        began = time.perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:  # noqa: BLE001  # the last line of defence
            _log_error(error)
            if not status:
                problem = Problem(500, "internal", "an unexpected error; the server's log has it")
                await problem.response()(scope, receive, noted)
        finally:
            # FastAPI names its own routes only.
            route = scope.get("state", {}).get("route") or getattr(scope.get("route"), "path", None)
            method = scope["method"] if route else "ANY"
            route = route or "unmatched"
            self._note(scope, method, route, status, time.perf_counter() - began)
        return method, route, status

    def _note(self, scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
        self._measures.request(method, route, status, seconds)
        if access_log.isEnabledFor(logging.INFO):
            state = scope.get("state", {})
            line = {
                "at": round(time.time(), 3),
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "key": state.get("caller", ""),
                "events": state.get("events", 0),
            }
            access_log.info("%s", msgspec.json.encode(line).decode(), extra={"fields": line})


def _log_error(error: Exception) -> None:
    """Log what broke and where, without the error's text, which may quote an event."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    log.error("unexpected %s at %s", type(error).__name__, " < ".join(reversed(places[-6:])))
