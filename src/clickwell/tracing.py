"""Traces of events from the request through Kafka to Redis and the lake, by OpenTelemetry.

    trace of a request:   POST /v1/retrievers/interactions  --traceparent header of each record-->  Kafka
    trace of a chunk:     apply interactions.v1   (links to every request in it)   -> redis
    trace of a commit:    write interactions      (links to every request in it)

A chunk holds records of many requests, so its span has links and no parent. Chunks without a sampled request have no
span at all. Off by default: then `tracing_of` returns None and nothing of OpenTelemetry is imported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from clickwell.errors import UsageError
from clickwell.settings import Settings, TracingSettings

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, Tracer

HEADER = "traceparent"
# OpenTelemetry keeps no more of one span.
MOST_LINKS = 128
# The last byte of a traceparent says whether somebody records the trace.
_SAMPLED = b"-01"

Headers = Iterable[tuple[str, bytes | None]]


class Tracing:
    """Makes spans and passes them on.

    Args:
        tracer: OpenTelemetry's.
    """

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the headers by which a Kafka record names the current span; none when nobody records it."""
        from opentelemetry import trace  # noqa: PLC0415  # of an extra

        context = trace.get_current_span().get_span_context()
        if not context.is_valid or not context.trace_flags.sampled:
            return []
        return [(HEADER, b"00-%032x-%016x-01" % (context.trace_id, context.span_id))]

    def request(self, parent: str | None) -> "AbstractContextManager[Span]":
        """Return the span of an HTTP request, which its sender's `traceparent` may begin; the caller names it."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  # of an extra

        context = _context_of(parent) if parent else None
        return self._span("HTTP", context=context, kind=SpanKind.SERVER)

    @contextmanager
    def batch(self, name: str, requests: Iterable[bytes], **attributes: str | int) -> Iterator[None]:
        """Around the work on records that belong to these traceparents; without any there is no span."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  # of an extra

        if links := _links(requests):
            attributes = {"messaging.system": "kafka", **attributes}
            with self._span(name, kind=SpanKind.CONSUMER, links=links, attributes=attributes):
                yield
        else:
            yield

    def step(self, name: str, **attributes: str | int) -> AbstractContextManager[Any]:
        """Return a span within the current one; nothing where there is none."""
        from opentelemetry import trace  # noqa: PLC0415  # of an extra

        if not trace.get_current_span().is_recording():
            return nullcontext()
        return self._span(name, attributes=attributes)

    @contextmanager
    def _span(self, name: str, **options: Any) -> "Iterator[Span]":
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415  # of an extra

        options |= {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(name, **options) as span:
            try:
                yield span
            except Exception as error:
                # Not its text, which may quote an event.
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise


def requests_of(headers: Iterable[Headers | None]) -> dict[bytes, None]:
    """Return the sampled traceparents in the headers of records, each once, in order."""
    return {
        value: None
        for each in headers
        for name, value in each or ()
        if name == HEADER and value is not None and value.endswith(_SAMPLED)
    }


def tracing_of(settings: Settings) -> Tracing | None:
    """Return what makes spans, by the process's tracer provider; None when tracing is off.

    Raises:
        UsageError: OpenTelemetry is not installed.
    """
    if not settings.tracing.enabled:
        return None
    try:
        from opentelemetry import trace  # noqa: PLC0415  # of an extra
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return Tracing(trace.get_tracer("clickwell"))


def set_up(settings: TracingSettings, part: str) -> None:
    """Send this process's spans to the endpoint of the settings; nothing when tracing is off.

    Args:
        settings: where to, and how many of the API's.
        part: `api`, `worker` or `sink`; the service's name is `clickwell-PART`.

    Raises:
        UsageError: OpenTelemetry's SDK is not installed.
    """
    if not settings.enabled:
        return
    try:
        from opentelemetry import trace  # noqa: PLC0415  # of an extra
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    # Chunks and commits have spans only where a request that was sampled is in them.
    share = settings.sample if part == "api" else 1.0
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(share)), resource=Resource.create({"service.name": f"clickwell-{part}"})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint)))
    trace.set_tracer_provider(provider)


def _links(requests: Iterable[bytes]) -> "Sequence[Link]":
    from opentelemetry import trace  # noqa: PLC0415  # of an extra

    contexts = (trace.get_current_span(_context_of(each.decode("ascii", "replace"))) for each in requests)
    found = (context for span in contexts if (context := span.get_span_context()).is_valid)
    return [trace.Link(context) for _, context in zip(range(MOST_LINKS), found, strict=False)]


def _context_of(traceparent: str) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: Mapping[str, str] = {HEADER: traceparent}
    return TraceContextTextMapPropagator().extract(carrier)


def _missing(error: ModuleNotFoundError) -> UsageError:
    return UsageError(
        f"{error.name} is not installed, and CLICKWELL_TRACING__ENABLED asks for it",
        fix="pip install 'clickwell[otel]'",
    )
