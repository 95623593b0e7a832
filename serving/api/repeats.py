"""What was sent lately, so that a repeat is told and does not lie in the log twice."""

from collections.abc import Iterator, Sequence

from xxhash import xxh3_128_digest

from clickwell.kafka import KafkaLog, LogRecord
from clickwell.schemas.decode import Row
from clickwell.schemas.decode_searches import SearchRow
from clickwell.serving.api.sending import Ticket

# Twice as many events are held, 100 bytes each if they came in batches, 300 if alone.
REMEMBERED = 100_000
# Read when the server starts; takes about a second.
RECALLED = 50_000


def digests_of_interactions(rows: Sequence[Row]) -> list[bytes]:
    """Return 16 bytes for each interaction, the same for what the lake takes as the same: id and document."""
    return [xxh3_128_digest(f"{row.interaction_id}\0{row.feature_id}".encode()) for row in rows]


def digests_of_searches(rows: Sequence[SearchRow]) -> list[bytes]:
    """Return 16 bytes for each search: the same one with other results is another page."""
    return [xxh3_128_digest("\0".join((row.execution_id, *row.results)).encode(), seed=1) for row in rows]


class Repeats:
    """Events that are on their way or were taken lately, each with the ticket of its request; bounded."""

    def __init__(self) -> None:
        self._recent: dict[bytes, Ticket] = {}
        self._older: dict[bytes, Ticket] = {}

    def claim(self, digest: bytes, ticket: Ticket) -> Ticket | None:
        """Return the ticket of an event that was sent and has not failed; if there is none, remember this one."""
        earlier = self._recent.get(digest) or self._older.get(digest)
        if earlier is not None and digest not in earlier.failed:
            return earlier
        if len(self._recent) >= REMEMBERED:
            self._older, self._recent = self._recent, {}
        self._recent[digest] = ticket
        return None


def tail(log: KafkaLog, topic: str) -> Iterator[LogRecord]:
    """Yield the last records of a topic: what a server that was killed may have sent without answering.

    Raises:
        KafkaError: the broker is away or the topic does not exist.
    """
    _, partitions = log.describe(topic)
    ends = log.latest(topic, range(partitions))
    yield from log.read(topic, {p: max(0, end - RECALLED // partitions) for p, end in ends.items()}, ends)
