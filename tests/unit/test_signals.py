"""Signals, facts, reports and alerts of small lakes in a folder. No servers."""

import json
import logging
import os
import re
import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer

import numpy as np
import pytest

from clickwell import exposition
from clickwell.analytics import alerting, facts, kept, report, words
from clickwell.analytics.alerting import Alert, Book
from clickwell.analytics.alerts import Finding
from clickwell.analytics.impressions import join
from clickwell.analytics.signals import get_retriever_signals, retrievers
from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.errors import InputError, UsageError
from clickwell.producers.records import interaction_record, search_record
from clickwell.settings import AlertSettings, Settings
from clickwell.simulation import Life, Plan, Site, midnight
from clickwell.sinks.load import Loader
from tests.web import Quiet, serving

START = datetime(2026, 1, 5, tzinfo=UTC).date()
BEGIN = midnight(START)
NOW = BEGIN + 300 * MS_PER_DAY


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Settings of a lake with two weeks of a small site."""
    settings = Settings.load(tmp_path_factory.mktemp("site"))
    plan = Plan(queries=60, bad=2, skipped=2, unfindable=2)
    Site(plan).write(settings, start_ms=BEGIN, days=14, searches=8_000)
    return settings


def load(settings, *events):
    """Put events, given as dictionaries, into the lake."""
    loader = Loader(settings, f"load-{len(events)}-{events[0]}")
    for event in events:
        record = interaction_record if "feature_id" in event else search_record
        loader.send(record({"retriever_id": "r", **event}, NOW))
    loader.flush()


def test_facts_tell_the_same_as_impressions(site):
    """Results shown, clicked and skipped by position, query and document are those of the joined impressions."""
    shown = join(site).relation
    with kept.connect(site, START, START + timedelta(days=13)) as connection:
        for table, key, mine in (
            ("positions", "position", "sum(examined - clicks)"),
            ("queries", "query_key", "null"),
            ("documents", "feature_id", "null"),
        ):
            sums = f"{key}, sum(shown)::bigint, sum(clicks)::bigint, {mine}::bigint"
            text = f"select {sums} from {table} group by 1 order by 1"
            counted = connection.execute(text).fetchall()
            skips = "count(*) filter (skipped)" if table == "positions" else "null::bigint"
            joined = shown.aggregate(f"{key}, count(*) as n, count(*) filter (clicked) as c, {skips} as s", key)
            rows = [row for row in joined.order(key).fetchall() if row[0] is not None]
            assert [row for row in counted if row[1]] == rows


def test_pages_repeats_and_strangers_are_counted_once_or_not_at_all(tmp_path):
    """Pages of one search are one list; a repeated click counts once; one on what was not shown counts nowhere."""
    settings = Settings.load(tmp_path)
    about = {"execution_id": "e1", "session_id": "s", "query": "Tent"}
    load(
        settings,
        {**about, "timestamp": BEGIN, "results": ["a", "b"]},
        {**about, "timestamp": BEGIN + 1000, "results": ["c", "d"]},
        {"execution_id": "e2", "session_id": "s", "query": "tents", "timestamp": BEGIN + 60_000, "results": []},
        {"execution_id": "e3", "query": "tent", "timestamp": BEGIN + 5 * MS_PER_HOUR, "results": ["a"]},
        *(
            {
                "interaction_id": f"i{n}",
                "feature_id": doc,
                "execution_id": e,
                "interaction_type": ["click"],
                "timestamp": at,
            }
            for n, (doc, e, at) in enumerate(
                [("d", "e1", BEGIN + 9000), ("d", "e1", BEGIN + 9500), ("b", "e1", BEGIN + 8000), ("x", "e3", BEGIN)]
            )
        ),
    )
    found = get_retriever_signals("r", settings=settings, since=START, until=START)
    numbers = found.numbers
    assert (numbers.searches, numbers.ctr.count, numbers.ctr.of) == (3, 2, 5)
    assert (numbers.skip_rate.count, numbers.skip_rate.of) == (2, 4)
    assert (numbers.zero_results.count, numbers.abandoned.count, numbers.abandoned.of) == (1, 1, 2)
    assert numbers.reformulated.count == 1
    assert numbers.first_click_position.value == 1
    assert numbers.first_click_ms["median"] == pytest.approx(8000, rel=0.03)
    assert found.comparison is None


def test_nothing_is_not_zero(tmp_path):
    """Where nothing was shown there is no CTR, neither in the numbers nor in words."""
    settings = Settings.load(tmp_path)
    load(settings, {"execution_id": "e", "query": "", "timestamp": BEGIN, "results": []})
    found = get_retriever_signals("r", settings=settings, since=START, until=START)
    assert found.ctr.value is None
    assert found.numbers.first_click_ms is None
    assert words.with_interval(found.ctr) == "—"
    assert get_retriever_signals("other", settings=settings, since=START, until=START).numbers.searches == 0


def test_a_late_click_changes_the_day_and_only_that(tmp_path):
    """Kept facts are counted anew when a file of the day or of the next is new, and read otherwise."""
    settings = Settings.load(tmp_path)
    for day in range(3):
        at = BEGIN + day * MS_PER_DAY
        load(settings, {"execution_id": f"e{day}", "query": "q", "timestamp": at, "results": ["a", "b"]})
    last = START + timedelta(days=2)
    assert get_retriever_signals("r", settings=settings, since=START, until=last).ctr.count == 0
    before = {path.name for path in (settings.data / kept.FOLDER).iterdir()}
    assert len(before) == 3 * len(facts.SCHEMAS)
    late = {"interaction_id": "i", "feature_id": "b", "execution_id": "e0", "interaction_type": ["click"]}
    load(settings, {**late, "timestamp": BEGIN + 1000})
    assert get_retriever_signals("r", settings=settings, since=START, until=last).ctr.count == 1
    folder = settings.data / kept.FOLDER
    assert before < {path.name for path in folder.iterdir()}, "somebody may still read what was kept before"
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    get_retriever_signals("r", settings=settings, since=START, until=last)
    after = {path.name for path in folder.iterdir()}
    assert len(after) == len(before)
    assert len(after & before) == 2 * len(facts.SCHEMAS)


def test_bad_questions_are_refused(site):
    """Days in the wrong order and a threshold that is no share say so."""
    with pytest.raises(UsageError, match="after the last"):
        get_retriever_signals("site", settings=site, since=START, until=START - timedelta(days=1))
    with pytest.raises(UsageError, match="threshold"):
        get_retriever_signals("site", settings=site, since=START, until=START, low_ctr=5)
    assert retrievers(site, START, START) == ["site"]


def test_a_report_is_the_same_twice_self_contained_and_small(site, tmp_path):
    """The same bytes, also when all is counted anew; no script, nothing from elsewhere, at most 150 kB."""
    since, until = START + timedelta(days=7), START + timedelta(days=13)
    elsewhere = site.model_copy(update={"lake": site.lake_uri, "data": tmp_path})
    first, second = (report.make(each, "site", since, until) for each in (site, elsewhere))
    page = report.html(first)
    assert page == report.html(second)
    assert report.markdown(first) == report.markdown(second)
    assert len(page.encode()) <= 150_000
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|\bsrc=|style=", page)
    assert page.count("<svg") == page.count("<desc>") == 3


def test_hostile_queries_stay_text(tmp_path):
    """Markup, line breaks and right-to-left marks in a query reach neither HTML nor Markdown as what they are."""
    settings = Settings.load(tmp_path)
    query = "<img src=x onerror=alert(1)> | `a` [b](c)\u202e"
    load(
        settings, *({"execution_id": f"e{n}", "query": query, "timestamp": BEGIN + n, "results": []} for n in range(9))
    )
    made = report.make(settings, "r", START, START)
    assert "<img" not in report.html(made)
    assert "&lt;img" in report.html(made)
    lines = [line for line in report.markdown(made).splitlines() if "onerror" in line]
    assert len(lines) == 1
    assert re.sub(r"\\.", "", lines[0]).count("|") == 6


FOUND = Finding("ctr_drop", "shop", 24, 0.1, 0.08, 9.0, 5000, "CTR fell")


def test_alerts_open_stay_and_close(caplog):
    """An alert keeps its begin while it is found, closes when it is not, and is forgotten weeks later."""
    opened = Book().after([FOUND], BEGIN, 1)
    still = opened.after([replace(FOUND, after=0.07)], BEGIN + MS_PER_HOUR, 1)
    assert [(alert.since_ms, alert.after) for alert in still.open] == [(BEGIN, 0.07)]
    closed = still.after([], BEGIN + 2 * MS_PER_HOUR, 1)
    assert not closed.open
    assert closed.alerts[0].until_ms == BEGIN + 2 * MS_PER_HOUR
    assert not closed.after([], BEGIN + 60 * MS_PER_DAY, 1).alerts
    again = closed.after([FOUND], BEGIN + 3 * MS_PER_HOUR, 1)
    assert [alert.state for alert in again.alerts] == ["closed", "open"]
    text = exposition.page(lambda: alerting.samples(again))
    assert 'clickwell_alert_open{retriever_id="shop",rule="ctr_drop"} 1.0' in text
    with caplog.at_level(logging.WARNING, logger="clickwell.alerts"):
        told = alerting.told(Settings.load(), again)
    assert all(alert.told for alert in told.alerts)
    assert len(caplog.records) == 2


class Hook(Quiet):
    """Remembers what is posted, and answers as the server is told."""

    def do_POST(self):
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()


def test_the_webhook_gets_what_it_refused_again(tmp_path):
    """A regression is posted once it is taken, its end too, and the state survives between checks."""
    life = Life(relevance=lambda day: np.where((day >= 15.0) & (day < 16.0), 0.5, 1.0))
    hook = HTTPServer(("127.0.0.1", 0), Hook)
    hook.got = []
    with serving(hook) as address:
        gauge = tmp_path / "alerts.prom"
        settings = Settings.load(tmp_path, alerts=AlertSettings(webhook=f"{address}/token", prometheus=gauge))
        Site(Plan(queries=100)).write(settings, start_ms=BEGIN, days=18, searches=36_000, life=life)
        hook.status = 503
        noon = BEGIN + 15 * MS_PER_DAY + 20 * MS_PER_HOUR
        book = alerting.run(settings, noon + 1)
        assert "ctr_drop" in {alert.rule for alert in book.open}
        assert not any(alert.told for alert in book.open)
        hook.status, first = 200, hook.got[:]
        assert alerting.run(settings, noon + 2).open == [replace(alert, told=True) for alert in book.open]
        assert hook.got[len(first) :] == first
        assert all(posted["state"] == "open" and "shop" not in posted for posted in first)
        assert "} 1.0\n" in gauge.read_text()
        after = len(hook.got)
        assert not alerting.run(settings, BEGIN + 18 * MS_PER_DAY - MS_PER_HOUR).open
        assert {posted["state"] for posted in hook.got[after:]} == {"closed"}
        assert "} 1.0\n" not in gauge.read_text()


def test_a_webhook_that_speaks_no_http_is_told_again(caplog):
    """The check goes on, and the log does not name the address."""

    def answer(server):
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"hello\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=[server])
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/secret"
        book = alerting.told(Settings.load(alerts=AlertSettings(webhook=address)), Book().after([FOUND], BEGIN, 1))
        thread.join()
    assert [alert.told for alert in book.open] == [False]
    assert "told again" in caplog.text
    assert "secret" not in caplog.text


def test_an_unreadable_state_says_what_to_do(tmp_path):
    """A broken file of alerts is an error with its name, not an empty answer."""
    (tmp_path / alerting.FILE).write_text("{")
    with pytest.raises(InputError, match=re.escape(alerting.FILE)):
        Book.read(Settings.load(tmp_path))
    alert = Alert("ctr_drop", "r", 1, None, 24, 0.1, 0.05, 100, "x")
    Book(5, 1, (alert,)).write(Settings.load(tmp_path))
    assert Book.read(Settings.load(tmp_path)).open == [alert]
