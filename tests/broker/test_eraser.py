"""The eraser on a real broker and a real Redis: what it does when something that it needs is missing."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from clickwell.analytics.privacy import fences
from clickwell.analytics.privacy.eraser import Eraser
from clickwell.analytics.privacy.fences import LogWriter
from clickwell.erasures import ErasureLog, Step
from clickwell.errors import KafkaError, SettingsError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.producers.emitter import Emitter
from clickwell.producers.records import erasure_record
from clickwell.producers.topics import ensure_topics
from clickwell.schemas.erasure import Erasure
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight

pytestmark = [pytest.mark.broker, pytest.mark.fault]


@pytest.fixture(scope="module")
def broker(fresh_kafka):
    """A broker with the topics."""
    server = fresh_kafka()
    ensure_topics(Settings(kafka={"bootstrap_servers": server.address}))
    return server


def test_a_batch_that_was_marked_with_another_key_is_one_clear_error(broker, fresh_redis, tmp_path):
    """Who starts the eraser without the keys of the one before is told which is missing."""

    def eraser_with(key):
        keys = {"keys": {key: "a secret of sixteen"}}
        where = {"kafka": {"bootstrap_servers": broker.address}, "redis": {"url": fresh_redis.url}}
        return Eraser(Settings.load(tmp_path, privacy=keys, **where), threading.Event())

    first = eraser_with("old")
    yesterday = midnight(datetime.now(UTC).date() - timedelta(days=1))
    Site(Plan(queries=5)).write(first._settings, start_ms=yesterday, days=1, searches=50)
    with Emitter(first._settings) as emitter:
        emitter.send(erasure_record(Erasure(erasure_id="e", user_id="somebody")))
    assert first.step()
    with pytest.raises(SettingsError, match="old"):
        eraser_with("new").step()


def test_a_writer_goes_on_after_a_transaction_that_was_broken_off(broker, monkeypatch, tmp_path):
    """It must not need a restart: nobody would look at an eraser that says that it waits."""
    monkeypatch.setattr(fences, "SECONDS", 2.0)
    settings = Settings.load(tmp_path, kafka={"bootstrap_servers": broker.address})
    kafka = KafkaLog(settings.kafka)
    log = ErasureLog(settings, kafka)
    writer = LogWriter(settings, kafka, log, Failpoints())
    writer.step(Step("fenced", "before"))
    broker.pause()
    with pytest.raises(KafkaError):
        writer.step(Step("fenced", "during"))
    broker.resume()
    deadline = time.monotonic() + 60
    while "after" not in log.batches:
        try:
            writer.settle()
            writer.step(Step("fenced", "after"))
            log.catch_up()
        except KafkaError:
            assert time.monotonic() < deadline
    assert "before" in log.batches
