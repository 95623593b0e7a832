"""The eraser's writer on a real broker that is away for longer than a transaction may take."""

import time

import pytest

from clickwell.analytics.privacy import fences
from clickwell.analytics.privacy.fences import LogWriter
from clickwell.erasures import ErasureLog, Step
from clickwell.errors import KafkaError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.producers.topics import ensure_topics
from clickwell.settings import Settings

pytestmark = [pytest.mark.broker, pytest.mark.fault]


def test_a_writer_goes_on_after_a_transaction_that_was_broken_off(fresh_kafka, monkeypatch, tmp_path):
    """It must not need a restart: nobody would look at an eraser that says that it waits."""
    monkeypatch.setattr(fences, "SECONDS", 2.0)
    broker = fresh_kafka()
    settings = Settings.load(tmp_path, kafka={"bootstrap_servers": broker.address})
    ensure_topics(settings)
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
