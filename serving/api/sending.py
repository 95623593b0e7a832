"""Sends records from the event loop, where what waits for them is settled: neither a thread nor a lock between them.

A thread that waited for delivery reports would take the interpreter from the loop once for each of them.
"""

import asyncio
import logging
from functools import partial

from confluent_kafka import KafkaError as Report
from confluent_kafka import Message

from clickwell.producers.connection import Connection
from clickwell.producers.records import Record
from clickwell.settings import Settings

# While reports are awaited; they come 5 ms (`emitter.linger_ms`) after an event at the soonest.
_POLL_SECONDS = 0.002
# Otherwise, for the errors of a broker that has gone: they would pile up.
_IDLE_SECONDS = 1.0

_NONE: frozenset[bytes] = frozenset()

log = logging.getLogger("clickwell.api")


class Ticket:
    """The events of one request, until all are sent and the fate of each is known. Belongs to the event loop.

    Attributes:
        settled: done when all is known.
        failed: digests of the events that the log does not have, as far as is known.
    """

    # Hundreds of thousands are remembered.
    __slots__ = ("_awaited", "failed", "settled")

    def __init__(self) -> None:
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed: frozenset[bytes] = _NONE
        self._awaited = 1  # that all are sent

    def fail(self, digest: bytes) -> None:
        """Note that the log does not have an event."""
        self.failed |= {digest}

    def open(self) -> None:
        """Note that one more thing is awaited."""
        self._awaited += 1

    def close(self) -> None:
        """Note that one thing less is awaited."""
        self._awaited -= 1
        if not self._awaited and not self.settled.done():
            self.settled.set_result(None)


class Sender:
    """Sends records and notes on their tickets when all in-sync replicas have them. Belongs to one event loop.

    What is not acknowledged within 120 s is given up.

    Args:
        settings: where the broker is, and how much is buffered.

    Attributes:
        pending: records that are neither acknowledged nor given up.
    """

    def __init__(self, settings: Settings) -> None:
        self.pending = 0
        self._connection = Connection(settings, "api", expires=True)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_IDLE_SECONDS, self._poll)
        self._polling = False
        self._failing = False

    def send(self, record: Record, ticket: Ticket, digest: bytes) -> bool:
        """Hand a record over; False when the client takes no more."""
        error = self._connection.produce(record, partial(self._reported, ticket, digest))
        if error is not None:
            self._tell(error)
            return False
        self.pending += 1
        ticket.open()
        if not self._polling:
            self._polling = True
            self._timer.cancel()
            self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)
        return True

    def close(self, seconds: float) -> None:
        """Wait for what is on its way, as long as told, then give it up; it may have got in. Holds up the loop."""
        self._timer.cancel()
        ends = self._loop.time() + seconds
        while self.pending:
            if self._loop.time() > ends:
                self._connection.purge()
            self._connection.poll(0.1)

    def _poll(self) -> None:
        self._connection.poll(0)
        if self._connection.broken:
            self._connection.mend()
        self._polling = self.pending > 0
        self._timer = self._loop.call_later(_POLL_SECONDS if self._polling else _IDLE_SECONDS, self._poll)

    def _reported(self, ticket: Ticket, digest: bytes, error: Report | None, _: Message) -> None:
        self.pending -= 1
        if error is None:
            self._failing = False
        else:
            ticket.fail(digest)
            self._connection.note(error)
            self._tell(error)
        ticket.close()

    def _tell(self, error: Report) -> None:
        """Log the first error of a row; the counter of unconfirmed events has the rest."""
        if not self._failing:
            self._failing = True
            log.warning("events do not get into the log: %s", error.str())
