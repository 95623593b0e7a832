"""Reads dead letters and their values out of Kafka; changes nothing."""

from collections import defaultdict
from collections.abc import Iterable

from clickwell.kafka import KafkaLog
from clickwell.schemas.topics import DEAD_LETTERS
from clickwell.serving.letters.book import Book, Place


def read_book(log: KafkaLog) -> Book:
    """Read all letters and what was done about them.

    What a replay is doing at this moment, or was doing when it was killed less than half a minute ago, shows up later,
    and so do letters that were written to the same partition meanwhile.

    Raises:
        KafkaError: the broker is away, or there is no such topic.
    """
    book = Book()
    _, partitions = log.describe(DEAD_LETTERS.name)
    ends = log.latest(DEAD_LETTERS.name, range(partitions))
    for record in log.read(DEAD_LETTERS.name, dict.fromkeys(ends, 0), ends, committed=True):
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
