"""What operators see: metrics of every request, and one line of log for it that names no person and holds no secret."""

import logging
import time
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clickwell.serving.api.capture import Capture
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.shared import Shared

# From a read of Redis to a wait for a broker that is away.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

access_log = logging.getLogger("clickwell.access")
log = logging.getLogger("clickwell.api")


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "clickwell_api_request_seconds",
            "Time from a request's head to its answer.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.events = Counter(
            "clickwell_api_events", "Events by what they were told.", ("kind", "verdict"), registry=self.registry
        )
        self.pending = Gauge(
            "clickwell_api_pending_events", "Events that the broker has not confirmed.", registry=self.registry
        )
        self.unshared = Counter(
            "clickwell_api_unshared",
            "Events and quotas that this server decided by itself, as Redis did not answer.",
            ("what",),
            registry=self.registry,
        )

    def watch(self, capture: Capture, shared: Shared) -> None:
        """Count what a capture does, and what it could not share."""
        capture.counted = lambda kind, verdict, n: self.events.labels(kind, verdict).inc(n)
        self.pending.set_function(lambda: capture.pending)
        shared.unshared = lambda what, n: self.unshared.labels(what).inc(n)


class Observe:
    """Middleware around everything: measures, logs, and answers what nobody else has caught.

    The log has the route's template and never the path, the query string, a header or an error's own words: all of
    these may hold ids of people.

    Args:
        app: the app below.
        metrics: takes the measurements.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
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
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope.get("state", {})
        # FastAPI names its own routes only.
        route = state.get("route") or getattr(scope.get("route"), "path", None)
        method = scope["method"] if route else "ANY"
        route = route or "unmatched"
        self._metrics.seconds.labels(method, route, status).observe(seconds)
        if access_log.isEnabledFor(logging.INFO):
            line = {
                "at": round(time.time(), 3),
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "key": state.get("caller", ""),
                "events": state.get("events", 0),
            }
            access_log.info("%s", msgspec.json.encode(line).decode())


def _log_error(error: Exception) -> None:
    """Log what broke and where, without the error's text, which may quote an event."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    log.error("unexpected %s at %s", type(error).__name__, " < ".join(reversed(places[-6:])))
