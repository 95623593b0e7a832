"""Traces: what is passed on, what is linked, and that nothing is made when nobody records."""

import subprocess
import sys
from http.server import HTTPServer

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from clickwell.settings import Settings, TracingSettings
from clickwell.tracing import HEADER, MOST_LINKS, Tracing, requests_of, set_up, tracing_of
from tests.web import Quiet, serving


@pytest.fixture
def exporter():
    """What has been recorded."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    """Records every span in memory."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider.get_tracer("test"))


def traceparent(number, flags="01"):
    """Return the header of a request."""
    return f"00-{number:032x}-{number:016x}-{flags}".encode()


def test_a_request_is_named_in_the_headers_of_its_events(tracing, exporter):
    """The caller's trace goes on, and the header names the request's own span."""
    with tracing.request(traceparent(7).decode()):
        [(name, value)] = tracing.headers()
    [span] = exporter.get_finished_spans()
    assert name == HEADER
    assert value == b"00-%032x-%016x-01" % (7, span.context.span_id)
    assert span.parent.span_id == 7
    assert span.kind is SpanKind.SERVER


def test_what_nobody_records_is_not_passed_on(tracing, exporter):
    """Neither outside of a request, nor when its caller has decided against it."""
    assert tracing.headers() == []
    with tracing.request(traceparent(7, "00").decode()):
        assert tracing.headers() == []
    assert not exporter.get_finished_spans()


def test_a_chunk_links_to_its_requests(tracing, exporter):
    """Each request once, whatever else the headers hold; Redis is a step within."""
    headers = [
        [("ce_id", b"a"), (HEADER, traceparent(1))],
        None,
        (),
        [(HEADER, traceparent(1))],
        [(HEADER, traceparent(2)), (HEADER, None)],
        [(HEADER, traceparent(3, "00"))],
        [(HEADER, b"\xff not one -01")],
    ]
    with tracing.batch("apply interactions.v1", requests_of(headers), partition=3), tracing.step("redis", calls=2):
        pass
    step, chunk = exporter.get_finished_spans()
    assert [link.context.span_id for link in chunk.links] == [1, 2]
    assert chunk.parent is None
    assert chunk.attributes == {"messaging.system": "kafka", "partition": 3}
    assert step.parent.span_id == chunk.context.span_id
    assert step.attributes == {"calls": 2}


def test_a_chunk_without_requests_has_no_span(tracing, exporter):
    """Nothing is recorded of what nobody traces."""
    with tracing.batch("apply", requests_of([[("ce_id", b"a")]])), tracing.step("redis"):
        pass
    assert not exporter.get_finished_spans()


def test_a_failure_is_told_without_its_words(tracing, exporter):
    """An error's text may quote an event, and traces are no place for people."""
    with pytest.raises(ValueError, match="u17"), tracing.batch("apply", [traceparent(1)]):
        raise ValueError("u17 is no number")
    [span] = exporter.get_finished_spans()
    assert span.status.description == "ValueError"
    assert "u17" not in span.to_json()


def test_links_are_bounded(tracing, exporter):
    """A large chunk does not make a span that no server takes."""
    with tracing.batch("apply", [traceparent(number) for number in range(1, 500)]):
        pass
    assert len(exporter.get_finished_spans()[0].links) == MOST_LINKS


def test_switched_off_nothing_is_imported():
    """Tracing is off by default, and then OpenTelemetry is not even loaded."""
    assert tracing_of(Settings.load()) is None
    set_up(TracingSettings(), "worker")
    code = (
        "import sys, clickwell.producers.emitter, clickwell.tracing as t; from clickwell.settings import Settings;"
        "assert t.tracing_of(Settings.load()) is None; t.set_up(Settings.load().tracing, 'api');"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Collector(Quiet):
    """Remembers what is posted."""

    def do_POST(self):
        self.server.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()


def test_a_process_sends_its_spans_to_the_endpoint():
    """`set_up` makes what is traced arrive over HTTP, under the name of the part."""
    code = """
import sys
from opentelemetry import trace
from clickwell.settings import Settings
from clickwell.tracing import set_up, tracing_of

settings = Settings.load(tracing={"enabled": True, "endpoint": sys.argv[1], "sample": 1.0})
set_up(settings.tracing, "api")
with tracing_of(settings).request(None) as span:
    span.update_name("POST /v1/test")
trace.get_tracer_provider().shutdown()
"""
    collector = HTTPServer(("127.0.0.1", 0), Collector)
    collector.got = []
    with serving(collector) as address:
        command = [sys.executable, "-W", "error", "-c", code, f"{address}/v1/traces"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [(path, body)] = collector.got
    assert path == "/v1/traces"
    assert b"clickwell-api" in body
    assert b"POST /v1/test" in body
