"""Alerts and the dashboard against the metrics: what they name exists, fires when it must, and is explained."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from clickwell import exposition
from clickwell.metrics import METRICS, Sample

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/clickwell.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{f"panel {p['id']}, {p['title']}: {t['refId']}": t["expr"] for p in PANELS for t in p["targets"]},
}
# What Prometheus' clients and Prometheus itself add.
TARGET_LABELS = {"instance", "job", "le"}
OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}
# Of the query language.
WORDS = {
    *("sum", "min", "max", "count", "rate", "increase", "histogram_quantile", "absent", "time"),
    *("by", "on", "and", "or", "offset"),
}


@pytest.fixture(scope="session")
def promtool(tmp_path_factory) -> str:
    """Prometheus' tool for rules: the machine's own, else out of Debian's package, which is not installed."""
    if found := shutil.which("promtool"):
        return found
    folder = tmp_path_factory.mktemp("prometheus")
    if shutil.which("apt-get") and shutil.which("dpkg"):
        # Lists may be absent or old; only root can bring them up to date.
        for command in (["apt-get", "download", "prometheus"], ["apt-get", "update"]) * 2:
            done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=280)
            if packages := [*folder.glob("prometheus_*.deb")]:
                subprocess.run(["dpkg", "-x", packages[0], folder], check=True, capture_output=True)
                return str(folder / "usr/bin/promtool")
        pytest.fail(f"promtool cannot be had: {done.stderr}")
    pytest.fail("install promtool, which comes with Prometheus, such as by `brew install prometheus`")


def run(promtool: str, *arguments: str, given: str | None = None) -> None:
    """Run promtool, which says what is wrong."""
    done = subprocess.run(
        [promtool, *arguments], cwd=PROMETHEUS, input=given, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def series() -> dict[str, set[str]]:
    """Return the names that can stand in a query, with their labels."""
    names: dict[str, set[str]] = {name: set() for name in OTHERS}
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {metric.name + suffix: {*metric.labels} for suffix in suffixes}
    return names


def test_alerts_fire_when_they_must_and_only_then(promtool):
    """The unit tests of the rules pass."""
    run(promtool, "test", "rules", "rules.test.yml")


def test_prometheus_reads_its_configuration(promtool):
    """Configuration and rules are valid."""
    run(promtool, "check", "config", "prometheus.yml")


def test_the_page_of_metrics_is_as_prometheus_wants_it(promtool):
    """Names, help and units of every metric pass Prometheus' own linter."""

    def samples() -> Iterator[Sample]:
        for metric in METRICS:
            yield metric(metric.histogram() if metric.buckets else 1, *metric.labels)

    run(promtool, "check", "metrics", given=exposition.page(samples))


def test_every_alert_is_tested_to_fire():
    """Each alert is expected at least once, and expected not to fire at least once."""
    cases = yaml.safe_load((PROMETHEUS / "rules.test.yml").read_text())["tests"]
    fires, rests = set(), set()
    for case in (case for test in cases for case in test["alert_rule_test"]):
        (fires if case.get("exp_alerts") else rests).add(case["alertname"])
    names = {rule["alert"] for rule in RULES}
    assert fires == rests == names
    assert len(names) == len(RULES)


def test_every_alert_has_its_section_in_the_runbook():
    """Somebody who is woken up finds what to do; no section outlives its alert."""
    page = (ROOT / "docs/runbook.md").read_text()
    assert re.findall(r"(?m)^## (\w+)$", page) == [rule["alert"] for rule in RULES]
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_name_in_a_query_exists(name):
    """Metrics and labels are those that the code declares: a query on anything else is empty for ever."""
    known, text = series(), re.sub(r"\$__rate_interval|\b\d+[smh]?\b", "", EXPRESSIONS[name])
    bare = re.sub(r'"[^"]*"', "", text)
    labels = {*re.findall(r"(\w+)\s*(?:=~|!=|=)\s*(?=[,}]|$)", bare)}
    for group in re.findall(r"(?:by|on)\s*\(([^)]*)\)", bare):
        labels |= {*re.findall(r"\w+", group)}
    used = {*re.findall(r"[a-z_]\w*", bare)} - WORDS - labels
    assert used
    assert used <= known.keys()
    assert labels <= TARGET_LABELS.union(*(known[metric] for metric in used))


def test_every_metric_is_shown():
    """The dashboard shows every metric that there is."""
    text = " ".join(expression for name, expression in EXPRESSIONS.items() if name.startswith("panel"))
    assert not [metric.name for metric in METRICS if metric.name not in text]


def test_the_dashboard_fits_its_provisioning():
    """Panels do not overlap, say what they show, and ask the data source that is provisioned."""
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    uid = source["datasources"][0]["uid"]
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places
        assert at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {uid}
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    grafana = compose["services"]["grafana"]
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/clickwell.yml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/clickwell.json"
