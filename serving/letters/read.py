"""Reads dead letters and their values out of Kafka; changes nothing."""

from collections import defaultdict
from collections.abc import Iterable

from clickwell.erasures import ErasureLog, Hidden
from clickwell.kafka import KafkaLog
from clickwell.schemas.topics import DEAD_LETTERS
from clickwell.serving.letters.book import Book, Place
from clickwell.settings import Settings


def read_book(settings: Settings) -> Book:
    """Read all letters and what was done about them, but those that name somebody who is erased.

    What a worker, sink or replay is writing at this moment, or was writing when it was killed less than a minute ago,
    shows up later, and so do letters that were written to the same partition meanwhile.

    Raises:
        KafkaError: the broker is away, or there is no such topic.
        SettingsError: people were erased with keys that this process does not have.
    """
    log, book = KafkaLog(settings.kafka), Book()
    erasures = ErasureLog(settings, log)
    erasures.catch_up()
    hidden = Hidden(erasures)
    _, partitions = log.describe(DEAD_LETTERS.name)
    ends = log.latest(DEAD_LETTERS.name, range(partitions))
    for record in log.read(DEAD_LETTERS.name, dict.fromkeys(ends, 0), ends, committed=True):
        said = record.headers.get("received_ms", b"")
        if not hidden.hides(record.value or b"", int(said) if said.isdigit() else record.received_ms):
            book.take(record)
    return book


def read_values(log: KafkaLog, places: Iterable[Place]) -> dict[Place, bytes | None]:
    """Return the values that lie at some places of the dead-letters topic, without those that retention has taken.

    Raises:
        KafkaError: the broker is away.
    """
    wanted = set(places)
    offsets = defaultdict(list)
    for place in wanted:
        offsets[place.partition].append(place.offset)
    begin = {partition: min(found) for partition, found in offsets.items()}
    end = {partition: max(found) + 1 for partition, found in offsets.items()}
    records = log.read(DEAD_LETTERS.name, begin, end)
    return {place: one.value for one in records if (place := Place(one.partition, one.offset)) in wanted}
