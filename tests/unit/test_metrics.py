"""Metrics: what is declared, how values are counted, and the page as Prometheus gets it."""

import re
import urllib.request
from collections import Counter

import pytest

from clickwell import exposition, metrics
from clickwell.devstack.process import free_port
from clickwell.errors import UsageError
from clickwell.metrics import METRICS
from clickwell.settings import MetricsSettings

WAIT = metrics.READ_SECONDS


def test_names_follow_the_rules_of_prometheus():
    """Each metric has a name of its own with its unit, counters end in `_total`, and labels are few."""
    names = Counter(metric.name for metric in METRICS)
    assert names.most_common(1)[0][1] == 1
    for metric in METRICS:
        assert re.fullmatch(r"clickwell_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert metric.kind != "histogram" or metric.unit == "seconds"
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert len(metric.labels) <= 3
        assert metric.help.endswith(".")


def test_the_page_has_every_sample_under_its_name():
    """Counters, gauges and histograms keep their labels, and a label may hold anything."""
    histogram = WAIT.histogram()
    histogram.observe(0.0006)
    page = exposition.page(
        lambda: [
            metrics.WORKER_LAG(7, "popularity", "interactions.v1", 3),
            metrics.ALERT_OPEN(1, "ctr_drop", 'a"b\\c\nd'),
            WAIT(histogram, "boosts"),
            metrics.WORKER_APPLIED(12),
        ]
    )
    lines = page.splitlines()
    assert 'clickwell_worker_lag_records{lane="popularity",partition="3",topic="interactions.v1"} 7.0' in lines
    assert r'clickwell_alert_open{retriever_id="a\"b\\c\nd",rule="ctr_drop"} 1.0' in lines
    assert 'clickwell_read_seconds_bucket{le="0.0005",reader="boosts"} 0.0' in lines
    assert 'clickwell_read_seconds_bucket{le="0.00075",reader="boosts"} 1.0' in lines
    assert 'clickwell_read_seconds_count{reader="boosts"} 1.0' in lines
    assert "clickwell_worker_applied_events_total 12.0" in lines


def test_the_port_serves_what_is_true_now_and_the_process():
    """Each read of the page asks anew, and finds the process's own metrics beside them."""
    port, applied = free_port(), [1]
    stop = exposition.serve(MetricsSettings(port=port), "worker", lambda: [metrics.WORKER_APPLIED(applied[0])])
    try:
        for count in (1, 2):
            applied[0] = count
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                page = answer.read().decode()
            assert f"clickwell_worker_applied_events_total {count}.0" in page
        assert 'part="worker"' in page
        assert "process_resident_memory_bytes" in page
        with pytest.raises(UsageError, match=str(port)):
            exposition.serve(MetricsSettings(port=port), "sink", list)
    finally:
        stop()


def test_without_a_port_nothing_is_served():
    """Off by default, and switched off nobody is asked for samples."""
    assert MetricsSettings().port == 0
    exposition.serve(MetricsSettings(), "worker", lambda: pytest.fail("asked for samples"))()
