"""Brokers and producers that die: what was acknowledged is in the log, what was spooled gets there, in order."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from clickwell.producers import emitter as emitter_module
from clickwell.producers.emitter import Emitter
from clickwell.producers.records import interaction_record
from clickwell.producers.spool import Spool
from clickwell.producers.topics import end_offsets, ensure_topics
from clickwell.schemas.topics import INTERACTIONS
from clickwell.settings import Settings
from tests.processes import wait_for

pytestmark = [pytest.mark.broker, pytest.mark.fault]

DOCUMENTS = 5


@pytest.fixture
def broker(fresh_kafka):
    return fresh_kafka()


def settings_for(broker, **emitter):
    return Settings(kafka={"bootstrap_servers": broker.address}, emitter=emitter)


def event(number):
    return {"interaction_id": f"i{number}", "feature_id": f"d{number % DOCUMENTS}", "interaction_type": ["click"]}


def log_of(settings):
    """The (partition, number) of each interaction in the log, in log order within a partition."""
    ends = end_offsets(settings, [INTERACTIONS.name])[INTERACTIONS.name]
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "check"})
    consumer.assign([TopicPartition(INTERACTIONS.name, number, 0) for number in ends])
    found = []
    while len(found) < sum(ends.values()):
        found += [
            (message.partition(), int(json.loads(message.value())["interaction_id"][1:]))
            for message in consumer.consume(1000, timeout=1)
        ]
    consumer.close()
    return found


def first_occurrences(log):
    """Numbers by document in log order, each at its first occurrence: what a reader counts after dedup."""
    orders = defaultdict(list)
    for _, number in log:
        if number not in orders[number % DOCUMENTS]:
            orders[number % DOCUMENTS].append(number)
    return orders


def test_a_broker_that_dies_and_returns_loses_and_doubles_nothing(broker):
    """Every event emitted across a kill -9 of the broker is acknowledged in the end and is in the log exactly once."""
    settings = settings_for(broker)
    ensure_topics(settings)
    acked = []
    with Emitter(settings) as emitter:
        for number in range(6000):
            emitter.emit(event(number), on_delivery=acked.append)
            if number == 2000:
                emitter.flush(20)
            if number == 3000:
                broker.kill()
            if number == 5000:
                broker.start()
        assert emitter.flush(60) == 0
    assert Counter(delivery.outcome for delivery in acked) == {"acked": 6000}
    log = log_of(settings)
    assert Counter(number for _, number in log) == dict.fromkeys(range(6000), 1)
    assert all(numbers == sorted(numbers) for numbers in first_occurrences(log).values())


@pytest.mark.parametrize("outage", ["killed", "frozen"])
@pytest.mark.parametrize("buffer_events", [50, 100_000], ids=["overflow", "timeout"])
def test_an_outage_is_spooled_and_replayed_in_order(broker, tmp_path, monkeypatch, buffer_events, outage):
    """What did not fit into memory, or waited too long there, comes from the disk after the outage, in order."""
    monkeypatch.setattr(emitter_module, "SPOOL_AFTER_SECONDS", 1)
    settings = settings_for(broker, buffer_events=buffer_events, block_seconds=0.01, spool=tmp_path / "spool")
    ensure_topics(settings)
    with Emitter(settings) as emitter:
        for number in range(100):
            emitter.emit(event(number))
            time.sleep(0.001)
        assert emitter.flush(20) == 0
        counts = emitter.stats["interaction"]
        before = counts.spooled  # a broker that has just started may be slower than the second that memory is given
        broker.kill() if outage == "killed" else broker.pause()
        for number in range(100, 1100):
            emitter.emit(event(number))
        wait_for(lambda: counts.spooled - before >= 1000, 30, "a thousand events on the disk")
        assert counts.spooled - before == 1000
        broker.start() if outage == "killed" else broker.resume()
        for number in range(1100, 1200):
            emitter.emit(event(number))
        assert emitter.flush(60) == 0
        assert (counts.accepted, counts.acked, counts.failed) == (1200, 1200, 0)
        assert counts.replayed >= 1000
        emitter.emit(event(1200))
        assert emitter.flush(20) == 0
    orders = first_occurrences(log_of(settings))
    assert sorted(number for numbers in orders.values() for number in numbers) == list(range(1201))
    assert [numbers for numbers in orders.values() if numbers != sorted(numbers)] == []
    assert not list((tmp_path / "spool").glob("*/*.segment"))


CHILD = """
import sys
from clickwell import Emitter
from clickwell.settings import Settings

address, spool = sys.argv[1:]
settings = Settings(kafka={"bootstrap_servers": address}, emitter={
    "buffer_events": 50, "block_seconds": 0.01, "spool": spool})
emitter = Emitter(settings)
tell = lambda delivery: print(delivery.outcome, delivery.id, flush=True)

def emit(first, last):
    for n in range(first, last):
        emitter.emit({"interaction_id": f"i{n}", "feature_id": f"d{n % 5}", "interaction_type": ["click"]},
                     on_delivery=tell)

emit(0, 40)
emitter.flush(20)
print("frozen?", flush=True)
sys.stdin.readline()
emit(40, 300)
print("emitted", flush=True)
sys.stdin.readline()
"""


def test_a_producer_killed_between_produce_and_ack(broker, tmp_path):
    """What a killed process reported as acked or spooled reaches the log; its client sends the rest again."""
    settings = settings_for(broker, spool=tmp_path / "spool")
    ensure_topics(settings)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, broker.address, str(tmp_path / "spool")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    told = {"acked": set(), "spooled": set()}

    def listen(until):
        for line in child.stdout:
            if line.strip() == until:
                return
            outcome, event_id = line.split()
            told[outcome].add(int(event_id[1:]))

    listen("frozen?")
    broker.pause()
    child.stdin.write("\n")
    child.stdin.flush()
    listen("emitted")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    broker.resume()
    assert len(told["acked"]) == 40
    assert len(told["spooled"]) >= 200

    with Emitter(settings) as heir:
        assert heir.flush(60) == 0
        assert heir.stats["interaction"].replayed == len(told["spooled"])
        found = {number for _, number in log_of(settings)}
        assert told["acked"] | told["spooled"] <= found
        for number in set(range(300)) - told["acked"] - told["spooled"]:
            heir.emit(event(number))
        assert heir.flush(20) == 0
    assert {number for _, number in log_of(settings)} == set(range(300))


def test_an_event_that_the_broker_never_takes_does_not_block_the_others(broker, tmp_path):
    """A record that is larger than its topic allows is given up and counted, from memory as from the spool."""
    settings = settings_for(broker, spool=tmp_path / "spool", compression="none")
    ensure_topics(settings)
    resource = ConfigResource(
        ResourceType.TOPIC,
        INTERACTIONS.name,
        incremental_configs=[ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)],
    )
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.incremental_alter_configs([resource])[resource].result()
    large = {**event(1), "metadata": {"note": "x" * 4000}}
    spool = Spool.claim(tmp_path / "spool", max_bytes=1 << 20)
    for one in (event(0), large, event(2)):
        assert spool.append(interaction_record(one, int(time.time() * 1000)).pack())
    spool.close()
    told = []
    with Emitter(settings) as emitter:
        assert emitter.flush(30) == 0
        counts = emitter.stats["interaction"]
        assert (counts.acked, counts.replayed, counts.failed) == (2, 2, 1)
        emitter.emit({**large, "interaction_id": "i4"}, on_delivery=told.append)
        assert emitter.flush(30) == 0
        emitter.emit(event(3), on_delivery=told.append)
        assert emitter.flush(30) == 0
    assert [delivery.outcome for delivery in told] == ["failed", "acked"]
    assert counts.failed == 2
    assert sorted(number for _, number in log_of(settings)) == [0, 2, 3]


def test_a_broker_that_comes_back_empty_gets_the_later_events(broker, tmp_path):
    """A broker that lost its data knows no producer ids and no topics: the emitter goes on when the topics are back."""
    settings = settings_for(broker, spool=tmp_path / "spool")
    ensure_topics(settings)
    with Emitter(settings) as emitter:
        for number in range(100):
            emitter.emit(event(number))
        assert emitter.flush(30) == 0
        broker.kill()
        for number in range(100, 200):
            emitter.emit(event(number))
        shutil.rmtree(tmp_path_of(broker))
        broker.start()
        ensure_topics(settings)
        for number in range(200, 300):
            emitter.emit(event(number))
        assert emitter.flush(60) == 0
        assert emitter.stats["interaction"].failed == 0
    assert {number for _, number in log_of(settings)} == set(range(100, 300))


def tmp_path_of(broker):
    """The folder with the broker's data; its log file lies elsewhere."""
    return broker.log.parent.parent / "kafka"
