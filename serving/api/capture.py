"""Takes events into the log and tells what became of each: `accepted` means that the broker has it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from clickwell.clock import Clock, SystemClock
from clickwell.errors import KafkaError
from clickwell.kafka import KafkaLog
from clickwell.producers.emitter import Emitter
from clickwell.producers.records import TOPIC_OF, Kind, Record
from clickwell.schemas.decode import AnyRow, Decoder, EventDecoder, Row
from clickwell.schemas.decode_searches import SearchDecoder, SearchRow
from clickwell.serving.api.events import Received, prepare
from clickwell.serving.api.problems import RETRY_SECONDS, Problem
from clickwell.serving.api.repeats import Identity, Repeats, Ticket, tail
from clickwell.serving.api.verdicts import Answer, Lack, Use, Uses, Verdict, answer_of, rejected
from clickwell.settings import Settings

R = TypeVar("R", bound=AnyRow)


@dataclass(frozen=True)
class _Way(Generic[R]):
    """How events of one kind are read."""

    decoder: EventDecoder[R]
    mint_ids: bool
    identity: Callable[[R], Identity]
    key: Callable[[R], str]
    uses: Callable[[R], tuple[tuple[Use, ...], tuple[Lack, ...]]]
    verdict: Callable[[str], Verdict]

    def recall(self, log: KafkaLog, topic: str) -> list[Identity]:
        """Return what the last records of a topic are."""
        read = (Received(record.offset, record.received_ms, record.value or b"") for record in tail(log, topic))
        return [self.identity(row) for row in self.decoder.decode(list(read)).rows]


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
        self._repeats = Repeats()
        self._stuck = False
        self.counted: Callable[[Kind, str, int], None] = lambda _kind, _verdict, _events: None
        """Told how many events of a kind got a verdict."""
        self.refused: Callable[[Kind, Mapping[str, int]], None] = lambda _kind, _reasons: None
        """Told why events of a kind were rejected."""

    @property
    def stuck(self) -> bool:
        """Whether the broker has confirmed nothing since a request gave up waiting for it."""
        return self._stuck and self._emitter.pending > 0

    @property
    def pending(self) -> int:
        """Events that the broker has not confirmed."""
        return self._emitter.pending

    async def recall(self, log: KafkaLog) -> None:
        """Learn from the log what was taken last, so that repeats are known after a restart, too.

        Raises:
            KafkaError: the broker is away or has no such topics.
        """
        for kind, way in self._ways.items():
            ticket = Ticket()
            ticket.expect(0)
            for identity in await asyncio.to_thread(way.recall, log, TOPIC_OF[kind]):
                self._repeats.add(identity, ticket)

    async def confirm(self, record: Record) -> None:
        """Send one record and return once the broker has it.

        Raises:
            Problem: 503, the broker does not confirm; the record may have got in.
        """
        self._check()
        ticket = Ticket()
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

        if self._emitter.edge is not None:
            users = {row.user_id for row in batch.rows if row.user_id is not None}
            await asyncio.to_thread(self._emitter.edge.prepare, users)
        ticket, complete = Ticket(), True
        sent = 0
        awaited: list[tuple[Ticket, str]] = []
        for place, record, row in zip(batch.offsets, batch.records, batch.rows, strict=True):
            identity = way.identity(row)
            verdict = verdicts[place] = way.verdict(identity[0])
            verdict.uses, verdict.not_used_for = way.uses(row)
            if (known := self._repeats.find(identity)) is not None:
                verdict.verdict = "duplicate"
                awaited.append((known, identity[0]))
                continue
            assert record.value is not None
            event = Record(kind, identity[0], way.key(row).encode(), record.value)
            if complete := complete and self._offer(self._emitter.named(event), ticket):
                self._repeats.add(identity, ticket)
                awaited.append((ticket, identity[0]))
                sent += 1
        ticket.expect(sent)
        if not (await self._confirmed(awaited) and complete):
            self._refuse(kind, verdicts)
        answer = answer_of(verdicts, single=single)
        for name in ("accepted", "duplicate", "rejected"):
            self.counted(kind, name, getattr(answer, name))
        if answer.rejected:
            self.refused(kind, Counter(verdict.code for verdict in verdicts if verdict.verdict == "rejected"))
        return answer

    def _check(self) -> None:
        """Refuse at once what would only wait behind what the broker does not take."""
        if self.stuck:
            raise _unavailable("the event log does not answer")

    def _offer(self, record: Record, ticket: Ticket) -> bool:
        """Hand a record to the emitter; False when it takes no more."""
        try:
            return self._emitter.offer(record, ticket.report)
        except KafkaError:
            return False

    async def _confirmed(self, awaited: list[tuple[Ticket, str]]) -> bool:
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
