"""What was sent lately, so that a repeat is told and does not lie in the log twice."""

import asyncio
from collections.abc import Iterator

from clickwell.kafka import KafkaLog, LogRecord
from clickwell.producers.deliveries import Delivery

# Twice as many events are held, some 200 bytes each. A repeat of an older one is answered `accepted` and counts once
# nevertheless, as workers and sinks look at ids themselves.
REMEMBERED = 100_000
# Read when the server starts; takes about a second.
RECALLED = 50_000

Identity = tuple[str, str]
"""What makes two events the same one, as the lake sees it; the first part is the id."""


class Ticket:
    """The events of one request that are on their way. Made and settled on the event loop, reported to by the emitter.

    Attributes:
        settled: done when the fate of all is known.
        failed: ids of those that were given up.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.settled: asyncio.Future[None] = self._loop.create_future()
        self.failed: set[str] = set()
        self._reported = 0
        self._expected = -1

    def report(self, delivery: Delivery) -> None:
        """Take a delivery report, in the emitter's thread."""
        if delivery.outcome != "acked":
            self.failed.add(delivery.id)
        self._reported += 1
        if self._reported == self._expected:
            self._loop.call_soon_threadsafe(self._settle)

    def expect(self, events: int) -> None:
        """Say how many reports there will be; some may have come."""
        self._expected = events
        if self._reported == events:
            self._settle()

    def _settle(self) -> None:
        # Both sides may see that all is known.
        if not self.settled.done():
            self.settled.set_result(None)


class Repeats:
    """Events that are on their way or were taken lately, each with the ticket of its request; bounded."""

    def __init__(self) -> None:
        self._recent: dict[Identity, Ticket] = {}
        self._older: dict[Identity, Ticket] = {}

    def find(self, identity: Identity) -> Ticket | None:
        """Return the ticket of an event that was sent, unless it failed."""
        ticket = self._recent.get(identity) or self._older.get(identity)
        return None if ticket is None or identity[0] in ticket.failed else ticket

    def add(self, identity: Identity, ticket: Ticket) -> None:
        """Remember an event."""
        if len(self._recent) >= REMEMBERED:
            self._older, self._recent = self._recent, {}
        self._recent[identity] = ticket


def tail(log: KafkaLog, topic: str) -> Iterator[LogRecord]:
    """Yield the last records of a topic: what a server that was killed may have sent without answering.

    Raises:
        KafkaError: the broker is away or the topic does not exist.
    """
    _, partitions = log.describe(topic)
    ends = log.latest(topic, range(partitions))
    yield from log.read(topic, {p: max(0, end - RECALLED // partitions) for p, end in ends.items()}, ends)
