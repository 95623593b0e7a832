"""The emitter where no broker is, and events as records."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from clickwell.errors import BufferFullError, DecodeError, KafkaError, UsageError
from clickwell.kafka import librdkafka_config
from clickwell.producers.deliveries import Delivery
from clickwell.producers.emitter import Emitter
from clickwell.producers.records import Record, interaction_record, search_record, unpack
from clickwell.producers.spool import Spool
from clickwell.producers.topics import ensure_topics
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import parse
from clickwell.settings import KafkaSettings, Settings

NOW = 1_790_000_000_000
CLICK = {"feature_id": "d1", "interaction_type": ["click"]}


def away(**emitter):
    """Settings whose broker is not there."""
    return Settings(kafka={"bootstrap_servers": "127.0.0.1:1"}, emitter=emitter)


@given(kind=st.sampled_from(["interaction", "search"]), name=st.text(max_size=20), key=st.binary(), value=st.binary())
def test_a_record_survives_the_spool(kind, name, key, value):
    """Packing and unpacking a record yields the same record, whatever it holds."""
    record = Record(kind, name, key, value)
    assert unpack(record.pack()) == record


def test_what_is_absent_is_filled_in():
    """An interaction without id and time gets a new id and the emitter's time; the caller's object stays as it is."""
    given = Interaction(**CLICK)
    record = interaction_record(given, NOW)
    assert given.interaction_id is None
    sent = parse(Interaction, record.value, received_ms=NOW)
    assert (sent.interaction_id, sent.timestamp, record.key) == (record.id, NOW, b"d1")
    assert interaction_record(given, NOW).id != record.id


def test_what_is_given_is_kept():
    """Ids and times that the caller names are sent as they are, unknown fields move under metadata."""
    record = interaction_record({**CLICK, "interaction_id": "i1", "timestamp": NOW - 5, "colour": "red"}, NOW)
    sent = parse(Interaction, record.value, received_ms=NOW)
    assert (sent.interaction_id, sent.timestamp, sent.metadata) == ("i1", NOW - 5, {"colour": "red"})


def test_a_search_is_keyed_by_its_execution():
    """A search's id and key are its execution_id."""
    record = search_record(Search(execution_id="e1", results=["a"]), NOW)
    assert (record.kind, record.id, record.key) == ("search", "e1", b"e1")
    assert parse(Search, record.value, received_ms=NOW).timestamp == NOW


def test_sasl_and_tls_are_named_in_librdkafkas_words(tmp_path):
    """Login and certificate authority reach the client, and only where the protocol uses them."""
    full = KafkaSettings(
        security_protocol="SASL_SSL",
        sasl_username="me",
        sasl_password=SecretStr("secret"),
        ssl_cafile=tmp_path / "ca.pem",
    )
    config = librdkafka_config(full)
    assert config["sasl.mechanism"] == "SCRAM-SHA-512"
    assert config["sasl.password"] == "secret"
    assert config["ssl.ca.location"] == str(tmp_path / "ca.pem")
    plain = librdkafka_config(full.model_copy(update={"security_protocol": "PLAINTEXT"}))
    assert not [name for name in plain if name.startswith(("sasl", "ssl"))]


def test_an_invalid_event_is_refused_to_the_caller():
    """A bad event raises with its reason, and of several events with a bad one none is taken."""
    emitter = Emitter(away())
    with pytest.raises(DecodeError, match="feature_id"):
        emitter.emit({"interaction_type": ["click"]})
    with pytest.raises(DecodeError):
        emitter.emit_many([CLICK, {"feature_id": "d1"}])
    assert emitter.pending == 0
    emitter.close()


def test_a_full_buffer_blocks_for_the_set_time_and_then_refuses():
    """Without a spool the event is refused after `block_seconds`, and the refusal is counted."""
    emitter = Emitter(away(buffer_events=3, block_seconds=0.2))
    for _ in range(3):
        emitter.emit(CLICK)
    began = time.monotonic()
    with pytest.raises(BufferFullError, match="3 events are waiting"):
        emitter.emit(CLICK)
    assert 0.2 <= time.monotonic() - began < 2
    counts = emitter.stats["interaction"]
    assert (counts.accepted, counts.refused) == (3, 1)
    assert emitter.close(timeout=0.1) == 3
    assert counts.failed == 3


def test_a_closed_emitter_takes_nothing():
    """After `close` an event raises, and closing again does nothing."""
    emitter = Emitter(away())
    assert emitter.close() == 0
    with pytest.raises(KafkaError, match="closed"):
        emitter.emit(CLICK)
    assert emitter.close() == 0


def test_close_puts_memory_before_what_is_on_disk(tmp_path):
    """What was in memory is older than what was spooled, and so it lies before it on disk; every fate is told."""
    told: list[Delivery] = []
    emitter = Emitter(away(buffer_events=3, block_seconds=0, spool=tmp_path))
    ids = [emitter.emit({**CLICK, "interaction_id": f"i{n}"}, on_delivery=told.append) for n in range(8)]
    ids.append(emitter.emit_search({"execution_id": "e1"}, on_delivery=told.append))
    assert emitter.flush(0.1) == 9
    assert emitter.close(timeout=0.1) == 9
    assert {delivery.id for delivery in told} == set(ids)
    assert {delivery.outcome for delivery in told} == {"spooled"}
    assert emitter.stats["interaction"].spooled == 8
    spool = Spool.claim(tmp_path, max_bytes=1 << 20)
    assert [unpack(payload).id for payload in spool.take(100)] == ids
    spool.close()


def test_a_full_spool_refuses(tmp_path):
    """When memory and spool are full the event is refused, and what was taken stays."""
    emitter = Emitter(away(buffer_events=1, block_seconds=0, spool=tmp_path, spool_bytes=1 << 16))

    def emit_until_full():
        while True:
            emitter.emit(CLICK)

    with pytest.raises(BufferFullError):
        emit_until_full()
    taken = emitter.stats["interaction"].accepted
    assert emitter.pending == taken > 100
    assert emitter.close(timeout=0) == taken


def test_on_delivery_may_raise():
    """An exception in the caller's callback is logged and does not stop the others' deliveries."""

    def broken(_):
        raise ValueError("mine")

    emitter = Emitter(away())
    emitter.emit(CLICK, on_delivery=broken)
    emitter.emit(CLICK)
    assert emitter.close(timeout=0) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told():
    """In a child the thread that delivers does not exist: emitting there raises instead of losing the event."""
    emitter = Emitter(away())
    child = os.fork()
    if child == 0:
        try:
            emitter.emit(CLICK)
        except UsageError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    emitter.close()


def test_a_missing_broker_is_one_clear_error(monkeypatch):
    """Making topics without a broker says which address does not answer and what to do."""
    monkeypatch.setattr("clickwell.producers.topics.TIMEOUT_SECONDS", 0.5)
    with pytest.raises(KafkaError, match=r"Kafka at 127\.0\.0\.1:1 does not answer") as caught:
        ensure_topics(away())
    assert "clickwell up" in caught.value.fix
