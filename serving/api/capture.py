"""Takes events into the log and tells what became of each: `accepted` means that the broker has it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from clickwell.clock import Clock, SystemClock
from clickwell.errors import KafkaError
from clickwell.producers.deliveries import Delivery
from clickwell.producers.emitter import Emitter
from clickwell.producers.records import Kind, Record
from clickwell.schemas.decode import AnyRow, Decoder, EventDecoder, Row
from clickwell.schemas.decode_searches import SearchDecoder, SearchRow
from clickwell.serving.api.events import prepare
from clickwell.serving.api.problems import RETRY_SECONDS, Problem
from clickwell.serving.api.verdicts import Answer, Lack, Use, Uses, Verdict, answer_of, rejected
from clickwell.settings import Settings

# Events whose repeats are told in the answer. Twice as many are held, some 200 bytes each; a repeat of an older one is
# answered `accepted` and counts once nevertheless, as workers and sinks look at ids themselves.
REMEMBERED = 100_000

Identity = tuple[str, str]
R = TypeVar("R", bound=AnyRow)


@dataclass(frozen=True)
class _Way(Generic[R]):
    """How events of one kind are read."""

    decoder: EventDecoder[R]
    mint_ids: bool
    # What makes two events the same one, as the lake sees it; the first part is the id.
    identity: Callable[[R], Identity]
    key: Callable[[R], str]
    uses: Callable[[R], tuple[tuple[Use, ...], tuple[Lack, ...]]]
    verdict: Callable[[str], Verdict]


class _Ticket:
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


class Capture:
    """Takes events from any number of requests of one event loop.

    An event is answered `accepted` only after all in-sync replicas have it. An id that is on its way or was taken
    lately is not sent again: the request waits for what is on its way, and answers `duplicate`.

    Args:
        settings: time limits, and which signals are counted.
        emitter: without a spool; sends the events.
        clock: gives events without a time that of their receipt.
    """

    def __init__(self, settings: Settings, emitter: Emitter, *, clock: Clock | None = None) -> None:
        uses = Uses(settings.popularity)
        self._ways: dict[Kind, _Way[Any]] = {
            "interaction": _Way[Row](
                decoder=Decoder(),
                mint_ids=True,
                identity=lambda row: (row.interaction_id or "", row.feature_id),
                key=lambda row: row.feature_id,
                uses=uses.of_interaction,
                verdict=lambda event_id: Verdict("accepted", interaction_id=event_id),
            ),
            "search": _Way[SearchRow](
                decoder=SearchDecoder(),
                mint_ids=False,
                identity=lambda row: (row.execution_id, _digest(row.results)),
                key=lambda row: row.execution_id,
                uses=uses.of_search,
                verdict=lambda event_id: Verdict("accepted", execution_id=event_id),
            ),
        }
        self._emitter = emitter
        self._clock = clock or SystemClock()
        self._ack_seconds = settings.api.ack_seconds
        self._recent: dict[Identity, _Ticket] = {}
        self._older: dict[Identity, _Ticket] = {}
        self._stuck = False
        self.counted: Callable[[Kind, str, int], None] = lambda _kind, _verdict, _events: None
        """Told how many events of a kind got a verdict."""

    @property
    def stuck(self) -> bool:
        """Whether the broker has confirmed nothing since a request gave up waiting for it."""
        return self._stuck and self._emitter.pending > 0

    @property
    def pending(self) -> int:
        """Events that the broker has not confirmed."""
        return self._emitter.pending

    async def confirm(self, record: Record) -> None:
        """Send one record and return once the broker has it.

        Raises:
            Problem: 503, the broker does not confirm; the record may have got in.
        """
        self._check()
        ticket = _Ticket()
        sent = self._offer(record, ticket)
        ticket.expect(int(sent))
        if not (sent and await self._confirmed([(ticket, record.id)])):
            raise _unavailable("the event log has not confirmed the request; send it again")

    async def take(
        self, kind: Kind, events: Sequence[bytes | Mapping[str, Any]], *, salt: bytes = b"", single: bool = False
    ) -> Answer:
        """Take events and return their verdicts, in order, once the broker has confirmed all that are valid.

        Args:
            kind: what they are.
            events: JSON objects, as bytes or decoded.
            salt: see `prepare`.
            single: see `answer_of`.

        Raises:
            Problem: 503, the broker does not confirm. Events may have got in; with the same ids they count once.
        """
        self._check()
        way = self._ways[kind]
        received, refused = prepare(events, self._clock.now_ms(), mint_ids=way.mint_ids, salt=salt)
        batch = way.decoder.decode(received)
        verdicts: list[Any] = [None] * len(events)
        for place, error in refused:
            verdicts[place] = rejected(error)
        for record, error in batch.bad:
            verdicts[record.offset] = rejected(error)

        ticket, complete = _Ticket(), True
        sent = 0
        awaited: list[tuple[_Ticket, str]] = []
        for place, record, row in zip(batch.offsets, batch.records, batch.rows, strict=True):
            identity = way.identity(row)
            verdict = verdicts[place] = way.verdict(identity[0])
            verdict.uses, verdict.not_used_for = way.uses(row)
            known = self._recent.get(identity) or self._older.get(identity)
            if known is not None and identity[0] not in known.failed:
                verdict.verdict = "duplicate"
                awaited.append((known, identity[0]))
                continue
            assert record.value is not None
            event = Record(kind, identity[0], way.key(row).encode(), record.value)
            if complete := complete and self._offer(event, ticket):
                self._recent[identity] = ticket
                awaited.append((ticket, identity[0]))
                sent += 1
        ticket.expect(sent)
        if len(self._recent) > REMEMBERED:
            self._older, self._recent = self._recent, {}
        if not (await self._confirmed(awaited) and complete):
            self._refuse(kind, verdicts)
        answer = answer_of(verdicts, single=single)
        for name in ("accepted", "duplicate", "rejected"):
            self.counted(kind, name, getattr(answer, name))
        return answer

    def _check(self) -> None:
        """Refuse at once what would only wait behind what the broker does not take."""
        if self.stuck:
            raise _unavailable("the event log does not answer")

    def _offer(self, record: Record, ticket: _Ticket) -> bool:
        """Hand a record to the emitter; False when it takes no more."""
        try:
            return self._emitter.offer(record, ticket.report)
        except KafkaError:
            return False

    async def _confirmed(self, awaited: list[tuple[_Ticket, str]]) -> bool:
        """Wait until the fate of all is known, as long as the settings allow; tell whether the broker has them all."""
        unsettled = {ticket.settled for ticket, _ in awaited if not ticket.settled.done()}
        if unsettled:
            _, late = await asyncio.wait(unsettled, timeout=self._ack_seconds)
            self._stuck = bool(late)
            if late:
                return False
        return not any(event_id in ticket.failed for ticket, event_id in awaited)

    def _refuse(self, kind: Kind, verdicts: list[Any]) -> None:
        unconfirmed = [verdict for verdict in verdicts if verdict.verdict != "rejected"]
        for verdict in unconfirmed:
            verdict.verdict = "unconfirmed"
        self.counted(kind, "unconfirmed", len(unconfirmed))
        raise _unavailable(
            "the event log has not confirmed all events; send them again with the same ids", {"results": verdicts}
        )


def _unavailable(detail: str, members: Mapping[str, Any] | None = None) -> Problem:
    return Problem(503, "unavailable", detail, retry_after=RETRY_SECONDS, members=members)


def _digest(results: Sequence[str]) -> str:
    """Return what stands for a list of results, which may be a thousand times as long."""
    return blake2b("\0".join(results).encode(), digest_size=16).hexdigest()
