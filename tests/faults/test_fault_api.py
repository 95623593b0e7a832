"""The broker and the API are killed while events are sent: what was answered with 202 is in the log, once."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.process import free_port, listens
from clickwell.devstack.stack import Api
from clickwell.devstack.valkey import ValkeyServer
from clickwell.errors import KafkaError
from clickwell.kafka import KafkaLog
from clickwell.producers.topics import ensure_topics
from clickwell.schemas.topics import INTERACTIONS
from clickwell.settings import Settings

pytestmark = [pytest.mark.fault, pytest.mark.broker]

LOAD = Path(__file__).parents[2] / "benchmarks" / "api_load.py"
# For a longer run; kills come at a third and at two thirds of it.
EVENTS = int(os.environ.get("CLICKWELL_TEST_API_EVENTS", "6000"))
BATCH = 20


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail when it does not in a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def events_in_log(settings: Settings) -> int:
    """Return how many records the topic has; 0 while the broker does not know."""
    try:
        return sum(KafkaLog(settings.kafka).latest(INTERACTIONS.name, range(settings.kafka.partitions)).values())
    except KafkaError:
        return 0


def ids_in_log(settings: Settings) -> Counter[str]:
    """Return how often each event id stands in the topic."""
    log = KafkaLog(settings.kafka)
    ends = log.latest(INTERACTIONS.name, range(log.describe(INTERACTIONS.name)[1]))
    records = log.read(INTERACTIONS.name, dict.fromkeys(ends, 0), ends)
    return Counter(record.headers["ce_id"].decode() for record in records)


def test_every_202_is_in_the_log_once_whoever_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Senders repeat with the same ids what was not answered with 202, to whichever process answers then."""
    with KafkaServer(tmp_path) as kafka, ValkeyServer(tmp_path) as valkey:
        monkeypatch.setenv("CLICKWELL_KAFKA__BOOTSTRAP_SERVERS", kafka.address)
        monkeypatch.setenv("CLICKWELL_REDIS__URL", valkey.url)
        monkeypatch.setenv("CLICKWELL_API__ACK_SECONDS", "2")
        settings = Settings.load(tmp_path)
        ensure_topics(settings)
        api = Api(tmp_path, free_port())
        api.spawn()
        wait_for(lambda: listens(api.port))
        accepted = tmp_path / "ids"
        options = ["--rate", 500, "--batch", BATCH, "--requests", EVENTS // BATCH, "--connections", 8, "--retry"]
        command = [sys.executable, LOAD, "--address", api.address, "--ids", accepted, *options]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as load:
            wait_for(lambda: events_in_log(settings) > EVENTS / 6)
            kafka.kill()
            kafka.start()
            wait_for(lambda: events_in_log(settings) > EVENTS / 3)
            api.kill()
            api.spawn()
            told, _ = load.communicate(timeout=120)
        api.stop()
        logged = ids_in_log(settings)
    outcomes = json.loads(told)["outcomes"]
    ids = accepted.read_text().split()
    assert len(ids) == outcomes["202"] * BATCH >= EVENTS
    assert outcomes["0"] > 0  # the API was away
    assert not [event_id for event_id in ids if logged[event_id] != 1]
    assert logged.total() == len(logged)
