"""What a running stack tells its operators: metrics of every process, logs as JSON, one trace from request to lake."""

import json
from http.server import ThreadingHTTPServer

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from clickwell.metrics import METRICS
from tests.processes import commands_on, wait_for
from tests.web import Quiet, serving

pytestmark = pytest.mark.broker

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLICKS = 40


class Collector(Quiet):
    """Takes spans as an OpenTelemetry collector does; `spans` holds (service, span)."""

    spans: list

    def do_POST(self):
        """Keep the spans of one request."""
        request = ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()


@pytest.fixture(scope="module")
def spans():
    """Spans that have arrived, and where they are sent to."""
    kind = type("Kept", (Collector,), {"spans": []})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), kind)) as address:
        yield kind.spans, f"{address}/v1/traces"


@pytest.fixture(scope="module")
def stack(tmp_path_factory, spans):
    """A stack that has counted some events: its folder, its components by name, and its metrics by component."""
    folder = tmp_path_factory.mktemp("telemetry")
    run = commands_on(
        folder,
        CLICKWELL_SINK__FLUSH_SECONDS="0.5",
        CLICKWELL_LOG__FORMAT="json",
        CLICKWELL_TRACING__ENABLED="true",
        CLICKWELL_TRACING__ENDPOINT=spans[1],
        # Of the SDK itself: spans are sent so often.
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    state = json.loads(run("up", "--detach", "--json"))
    parts = {part["name"]: part for part in state["components"]}
    try:
        with httpx2.Client(base_url=parts["api"]["address"], timeout=30) as client:
            search = {"execution_id": "x1", "query": "trail shoe", "retriever_id": "shop", "results": ["d0", "d1"]}
            assert client.post("/v1/retrievers/searches", json=[search]).status_code == 202
            clicks = [
                {
                    "interaction_id": f"c{number}",
                    "feature_id": f"d{number % 7}",
                    "interaction_type": ["click"],
                    "user_id": f"u{number % 5}",
                }
                for number in range(CLICKS)
            ]
            answer = client.post(
                "/v1/retrievers/interactions",
                json=[*clicks, {"feature_id": ""}],
                headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
            )
            assert answer.json()["accepted"] == CLICKS
        # What no API has checked, and what came before.
        others = [
            json.dumps({"feature_id": "d1", "interaction_type": ["click"], "interaction_id": "c1"}),
            json.dumps({"feature_id": "d1", "interaction_type": ["click"], "timestamp": "2001-01-01T00:00:00Z"}),
        ]
        (folder / "others.jsonl").write_text("\n".join(others) + "\n")
        run("publish", folder / "others.jsonl", "--wait")
        poison(state["kafka"]["bootstrap_servers"])
        run("erase", "--user-id", "u3", "--wait")
        run("alerts", "check")
        with httpx2.Client(base_url=parts["api"]["address"], timeout=30) as client:
            assert client.get("/v1/boosts", params={"feature_id": "d1"}).status_code == 200
        yield folder, parts
    finally:
        run("down")


def poison(bootstrap):
    """Write a record that is no event."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    producer.produce("interactions.v1", b"{")
    assert producer.flush(20) == 0


def page_of(part):
    """Return what a process tells now: name -> [(labels, value)]."""
    answer = httpx2.get(part["metrics"], timeout=10)
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(page, name, **labels):
    """Return the sum of a metric's samples that have these labels."""
    return sum(value for has, value in page.get(name, []) if labels.items() <= has.items())


@pytest.mark.parametrize("name", ["api", "worker-1", "sink", "eraser", "insights"])
def test_every_process_has_the_metrics_of_its_part(stack, name):
    """Each process serves what docs/metrics.md says of its part, and nothing else of clickwell's."""
    part = name.split("-")[0]
    expected = {metric for metric in METRICS if metric.part in {None, part}}
    # Nothing of this has happened.
    expected = {metric for metric in expected if metric.name != "clickwell_alert_open"}
    # A reason stands there once it was met; the sink leaves the bad interactions to the worker.
    seldom = {"clickwell_sink_rejected_records_total"}

    def complete():
        names = {metric.removesuffix("_bucket") for metric in page_of(stack[1][name])}
        return {metric.name for metric in expected} - seldom <= names

    wait_for(complete, 40, "every metric")
    page = page_of(stack[1][name])
    ours = {n for n in page if n.startswith("clickwell_") and not n.endswith(("_created", "_sum", "_count"))}
    assert ours <= {f"{m.name}_bucket" if m.buckets else m.name for m in expected}
    assert page["process_open_fds"][0][1] > 0
    assert total(page, "clickwell_build_info", part=part) == 1


def test_the_numbers_are_those_of_the_events(stack):
    """What was sent is what each process has counted, and nothing waits any more."""
    parts = stack[1]
    wait_for(
        lambda: total(page_of(parts["worker-1"]), "clickwell_worker_rejected_records_total") == 1, 40, "the bad record"
    )
    worker, sink, api, eraser = (page_of(parts[name]) for name in ("worker-1", "sink", "api", "eraser"))
    assert total(api, "clickwell_api_events_total", kind="interaction", verdict="accepted") == CLICKS
    assert (
        total(api, "clickwell_api_rejected_events_total", reason="invalid_field")
        + total(api, "clickwell_api_rejected_events_total", reason="missing_field")
        == 1
    )
    assert total(api, "clickwell_api_pending_events") == 0
    assert total(api, "clickwell_reads_total", reader="boosts") >= 1
    assert total(api, "clickwell_read_seconds_count", reader="boosts") == total(
        api, "clickwell_reads_total", reader="boosts"
    )
    assert total(worker, "clickwell_worker_applied_events_total") == CLICKS + 3
    assert total(worker, "clickwell_worker_counted_events_total", lane="popularity") == CLICKS
    assert total(worker, "clickwell_worker_duplicate_events_total", lane="popularity") == 1
    assert total(worker, "clickwell_worker_late_events_total", lane="popularity") == 1
    assert total(worker, "clickwell_worker_rejected_records_total", reason="bad_json") == 1
    assert total(worker, "clickwell_worker_dead_letters_total") == 1
    assert total(worker, "clickwell_worker_retracted_events_total") == CLICKS / 5
    assert total(worker, "clickwell_worker_rebuilds_total") == 1
    assert total(worker, "clickwell_redis_up") == 1
    assert total(worker, "clickwell_redis_memory_policy", policy="noeviction") == 1
    assert total(worker, "clickwell_redis_memory_used_bytes") > 1_000_000
    assert total(sink, "clickwell_sink_rows_total", table="interactions") == CLICKS + 1
    assert total(sink, "clickwell_sink_repeated_rows_total", table="interactions") == 1
    assert total(sink, "clickwell_sink_rows_total", table="searches") == 1
    assert total(sink, "clickwell_sink_freshness_seconds_count") == total(sink, "clickwell_sink_commits_total")
    assert total(eraser, "clickwell_erasures_done_total") == 1
    assert total(eraser, "clickwell_erasures_open") == 0
    # Markers of the eraser's transactions, which are no records, are stepped over within some seconds.
    wait_for(lambda: total(page_of(parts["worker-1"]), "clickwell_worker_lag_records") == 0, 40, "lag 0 of the worker")
    wait_for(lambda: total(page_of(parts["sink"]), "clickwell_sink_lag_records") == 0, 40, "lag 0 of the sink")


def test_every_line_of_the_logs_is_an_object(stack):
    """With the setting, a machine can read all that the processes say."""
    folder, parts = stack
    for name in ("api", "worker-1", "sink", "eraser", "insights"):
        lines = [json.loads(line) for line in (folder / "log" / f"{name}.log").read_text().splitlines()]
        assert {"at", "level", "logger"} <= set.intersection(*map(set, lines)), name
    access = [line for line in lines_of(folder, "api") if line["logger"] == "clickwell.access"]
    assert {"/v1/boosts", "/v1/retrievers/interactions"} <= {line["route"] for line in access}
    assert parts


def lines_of(folder, name):
    """Return the objects of a log."""
    return [json.loads(line) for line in (folder / "log" / f"{name}.log").read_text().splitlines()]


def test_one_trace_leads_from_the_request_to_redis_and_the_lake(stack, spans):
    """The request continues its caller's trace; the chunk and the commit that took its events link to it."""
    assert stack
    found = spans[0]

    def all_of(service, name):
        return [span for part, span in list(found) if part == f"clickwell-{service}" and span.name == name]

    def linked(service, name, request):
        return [s for s in all_of(service, name) if request.span_id in {link.span_id for link in s.links}]

    def asked():
        return [span for part, span in list(found) if part == "clickwell-api" and span.trace_id.hex() == TRACE]

    [request] = wait_for(asked, 40, "the span of the request")
    assert request.name == "POST /v1/retrievers/interactions"
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    chunks = wait_for(lambda: linked("worker", "apply interactions.v1", request), 40, "the span of its chunk")
    commits = wait_for(lambda: linked("sink", "write interactions", request), 40, "the span of its commit")
    assert {link.trace_id.hex() for span in (*chunks, *commits) for link in span.links} == {TRACE}
    ids = {span.span_id for span in chunks}
    steps = wait_for(
        lambda: [s for s in all_of("worker", "redis") if s.parent_span_id in ids], 40, "the spans of its steps"
    )
    assert all(step.end_time_unix_nano > step.start_time_unix_nano for step in steps)
    # Neither what people looked for nor which of them it was.
    assert not [span for _, span in found if "trail" in str(span) or '"u3"' in str(span)]
    # What the sender has not asked to be traced is not, at the default share of one in a hundred.
    assert len(all_of("worker", "apply searches.v1")) <= 1
