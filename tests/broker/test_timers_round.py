"""One round of what `clickwell insights` does, over a real lake and into a real Redis."""

from datetime import UTC, datetime, timedelta

import pytest

from clickwell.analytics.alerting import Book
from clickwell.analytics.timers import jobs, turn
from clickwell.redis_client import connect
from clickwell.schemas.keys import corrected_key
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight

pytestmark = pytest.mark.broker


def test_a_round_checks_and_publishes(tmp_path, redis_server):
    """One round over a lake with two retrievers leaves a book of alerts, and numbers of both for rerankers."""
    settings = Settings.load(tmp_path, redis={"url": redis_server})
    yesterday = midnight(datetime.now(UTC).date() - timedelta(days=1))
    for run, retriever in enumerate(("timers-a", "timers-b")):
        Site(Plan(queries=5)).write(settings, start_ms=yesterday, days=1, searches=50, retriever=retriever, run=run)
    turn(jobs(settings), 0.0)
    assert Book.read(settings).retrievers == 2
    with connect(settings) as client:
        assert all(client.hlen(corrected_key(retriever)) > 5 for retriever in ("timers-a", "timers-b"))
