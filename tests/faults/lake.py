"""Sinks under test, and what the lake must hold: the log's own records, read again in plain Python."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Producer
from deltalake import DeltaTable

from clickwell.kafka import KafkaLog
from clickwell.settings import KafkaSettings
from tests.processes import wait_for

from . import oracle
from .parts import Part

PROMOTED = ("query", "duration_ms", "device")


def publish_searches(kafka: str, count: int, first: int = 0) -> None:
    """Send searches, some of them twice, with a broken one now and then."""
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 20, "log_level": 0})
    for number in range(first, first + count):
        results = [f"doc-{number % 7}", "doc-x"][: number % 3]
        value = json.dumps(
            {"execution_id": f"s{number}", "query": "tent", "results": results, "arm": number % 2}
        ).encode()
        for _ in range(1 + (number % 10 == 0)):
            producer.produce("searches.v1", value, f"s{number}")
        if number % 50 == 0:
            producer.produce("searches.v1", b"{", headers=[("poison", b"1")])
    assert producer.flush(60) == 0


TOPICS = {"interactions": "interactions.v1", "searches": "searches.v1"}


def wait_written(
    lake: Path | str, kafka: str, sinks: Sequence[Part], timeout: float = 60, storage: dict[str, str] | None = None
) -> None:
    """Wait until both tables stand at the log's end; sinks that die meanwhile are started again."""
    log = KafkaLog(KafkaSettings(bootstrap_servers=kafka))

    def written(uri: str, topic: str) -> bool:
        if not DeltaTable.is_deltatable(uri, storage):
            return False
        table = DeltaTable(uri, storage_options=storage)
        topic_id, partitions = log.describe(topic)
        stored = {part: table.transaction_version(f"{topic_id}/{part}") for part in range(partitions)}
        return stored == log.latest(topic, range(partitions))

    def done() -> bool:
        for sink in sinks:
            sink.tend()
        return all(written(f"{lake}/{name}", topic) for name, topic in TOPICS.items())

    try:
        wait_for(done, timeout, "the lake to reach the log's end")
    except AssertionError as error:
        raise AssertionError(f"{error}{''.join(sink.story() for sink in sinks)}") from None


def assert_lake_is_log(
    lake: Path | str,
    kafka: str,
    *,
    storage: dict[str, str] | None = None,
    letters_once: bool = True,
    erased: Callable[[oracle.LogRecord], bool] = lambda _: False,
) -> int:
    """Compare both tables, rows and values, and the dead letters with the log less what is erased; return the rows."""
    total, poison = 0, []
    for name, topic in TOPICS.items():
        log = [record for record in oracle.read_topic(kafka, topic) if not (record.own or erased(record))]
        rows = DeltaTable(f"{lake}/{name}", storage_options=storage).to_pyarrow_table().to_pylist()
        total += len(rows)
        poison += [(topic, record) for record in log if record.poison]
        _assert_equal(rows, {(record.partition, record.offset): record for record in log if not record.poison})
    oracle.assert_dead_letters(kafka, poison, once=letters_once)
    return total


def _assert_equal(rows, records) -> None:
    places = [(row["kafka_partition"], row["kafka_offset"]) for row in rows]
    twice = [place for place, times in Counter(places).items() if times > 1]
    assert not twice, f"{len(twice)} records are in the table twice: {sorted(twice)[:5]}"
    copies = defaultdict(set)
    for place, record in records.items():
        copies[record.name].add(place)
    present = set(places)
    assert present <= records.keys(), "the table holds what the log does not"
    wrong = {name: len(group & present) for name, group in copies.items() if len(group & present) != 1}
    assert not wrong, f"{len(wrong)} of {len(copies)} events are not in the table once: {list(wrong.items())[:5]}"
    for row, place in zip(rows, places, strict=True):
        _assert_row(row, records[place])


def _assert_row(row, record) -> None:
    event = dict(record.event)
    known = set(row) - {"query", "duration_ms", "device"} if "feature_id" in event else set(row)
    metadata = event.pop("metadata", None) or {}
    metadata |= {name: event.pop(name) for name in list(event) if name not in known}
    assert json.loads(row["metadata_json"] or "{}") == metadata
    if "feature_id" in event:
        assert [row[name] for name in PROMOTED] == [metadata.get(name) for name in PROMOTED]
    at = event.pop("timestamp", record.received_ms)
    assert row["timestamp"] == datetime.fromtimestamp(at // 1000, UTC).replace(microsecond=at % 1000 * 1000)
    assert row["event_date"] == row["timestamp"].date()
    assert {name: row[name] for name in event} == event
    assert row["received_at"].timestamp() * 1000 == record.received_ms
