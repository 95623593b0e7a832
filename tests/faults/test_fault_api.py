"""The broker and the API are killed while events are sent: what was answered with 202 is in the log, once."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
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
from tests.processes import wait_for

pytestmark = [pytest.mark.fault, pytest.mark.broker]

LOAD = Path(__file__).parents[2] / "benchmarks" / "api_load.py"
# For a longer run; kills come at a third and at two thirds of it.
EVENTS = int(os.environ.get("CLICKWELL_TEST_API_EVENTS", "6000"))
BATCH = 20


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


class Site:
    """A broker, a Valkey and an API of the test's own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, kafka: KafkaServer, valkey: ValkeyServer) -> None:
        patch.setenv("CLICKWELL_KAFKA__BOOTSTRAP_SERVERS", kafka.address)
        patch.setenv("CLICKWELL_REDIS__URL", valkey.url)
        patch.setenv("CLICKWELL_API__ACK_SECONDS", "2")
        self.kafka, self.valkey = kafka, valkey
        self.settings = Settings.load(folder)
        ensure_topics(self.settings)
        self.api = Api(folder, free_port())
        self.api.spawn()
        wait_for(lambda: listens(self.api.port), 60, "the API")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """One that runs."""
    with KafkaServer(tmp_path) as kafka, ValkeyServer(tmp_path) as valkey:
        running = Site(tmp_path, monkeypatch, kafka, valkey)
        yield running
        running.api.stop()


def test_every_202_is_in_the_log_once_whoever_is_killed(site: Site, tmp_path: Path) -> None:
    """Senders repeat with the same ids what was not answered with 202, to whichever process answers then."""
    accepted = tmp_path / "ids"
    options = ["--rate", 500, "--batch", BATCH, "--requests", EVENTS // BATCH, "--connections", 8, "--retry"]
    command = [sys.executable, LOAD, "--address", site.api.address, "--ids", accepted, *options]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as load:
        wait_for(lambda: events_in_log(site.settings) > EVENTS / 6, 60, "a sixth of the events")
        site.kafka.kill()
        site.kafka.start()
        wait_for(lambda: events_in_log(site.settings) > EVENTS / 3, 60, "a third of the events")
        site.api.kill()
        site.api.spawn()
        told, _ = load.communicate(timeout=120)
    logged = ids_in_log(site.settings)
    outcomes = json.loads(told)["outcomes"]
    ids = accepted.read_text().split()
    assert len(ids) == outcomes["202"] * BATCH >= EVENTS
    assert outcomes["0"] > 0  # the API was away
    assert not [event_id for event_id in ids if logged[event_id] != 1]
    assert logged.total() == len(logged)


def test_a_frozen_broker_is_a_503_and_a_dead_redis_is_none(site: Site) -> None:
    """Both heal by themselves, and what was sent again is in the log once."""
    with httpx2.Client(base_url=site.api.address, timeout=20) as client:

        def send(first: int, last: int) -> httpx2.Response:
            events = [
                {"interaction_id": f"f{n}", "feature_id": "d", "interaction_type": ["click"]}
                for n in range(first, last)
            ]
            return client.post("/v1/retrievers/interactions", json=events)

        assert send(0, 50).json()["accepted"] == 50
        site.kafka.pause()
        began = time.monotonic()
        late = send(50, 100)
        assert (late.status_code, {each["verdict"] for each in late.json()["results"]}) == (503, {"unconfirmed"})
        assert late.headers["retry-after"]
        assert time.monotonic() - began < 10
        refused = send(100, 150)  # at once, as the broker is known to be away
        assert refused.status_code == 503
        wait_for(lambda: client.get("/readyz").status_code == 503, 60, "the API to miss its broker")
        site.kafka.resume()
        wait_for(lambda: send(50, 150).status_code == 202, 60, "events to be taken again")
        # It looks once a second.
        wait_for(lambda: client.get("/readyz").status_code == 200, 60, "the API to be ready again")

        site.valkey.kill()
        assert send(150, 250).json()["accepted"] == 100
        assert send(150, 250).json()["duplicate"] == 100
        assert 'clickwell_api_unshared_total{what="events"}' in client.get("/metrics").text
        site.valkey.start()
    logged = ids_in_log(site.settings)
    assert logged == {f"f{n}": 1 for n in range(250)}
