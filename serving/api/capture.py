"""Takes events into the log and tells what became of each: `accepted` means that the broker has it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from clickwell.clock import Clock, SystemClock
from clickwell.kafka import KafkaLog
from clickwell.producers.records import TOPIC_OF, Kind, Record
from clickwell.schemas.decode import AnyRow, Batch, Decoder, EventDecoder, Row
from clickwell.schemas.decode_searches import SearchDecoder, SearchRow
from clickwell.serving.api.events import Received, prepare
from clickwell.serving.api.problems import RETRY_SECONDS, Problem
from clickwell.serving.api.repeats import Repeats, digests_of_interactions, digests_of_searches, tail
from clickwell.serving.api.sending import Sender, Ticket
from clickwell.serving.api.shared import Shared
from clickwell.serving.api.verdicts import Answer, Lack, Use, Uses, Verdict, answer_of, rejected
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.producers.edge import Edge

R = TypeVar("R", bound=AnyRow)


@dataclass(frozen=True)
class _Way(Generic[R]):
    """How events of one kind are read."""

    decoder: EventDecoder[R]
    mint_ids: bool
    digests: Callable[[Sequence[R]], list[bytes]]
    record: Callable[[R, bytes], Record]
    uses: Callable[[R], tuple[tuple[Use, ...], tuple[Lack, ...]]]
    verdict: Callable[[R], Verdict]

    def recall(self, log: KafkaLog, topic: str) -> list[bytes]:
        """Return the digests of a topic's last records."""
        read = [Received(record.offset, record.received_ms, record.value or b"") for record in tail(log, topic)]
        return self.digests(self.decoder.decode(read).rows)


class Capture:
    """Takes events from any number of requests of one event loop.

    An event is answered `accepted` only after all in-sync replicas have it. One that is on its way or was taken lately
    is not sent again: the request waits for what is on its way, and answers `duplicate`.

    Args:
        settings: time limits, and which signals are counted.
        sender: sends the events.
        shared: knows what other servers took.
        edge: replaces names in what is sent; None leaves them.
        clock: gives events without a time that of their receipt.
    """

    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        shared: Shared,
        edge: "Edge | None" = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        uses = Uses(settings.popularity)
        self._ways: dict[Kind, _Way[Any]] = {
            "interaction": _Way[Row](
                decoder=Decoder(),
                mint_ids=True,
                digests=digests_of_interactions,
                record=lambda row, value: Record(
                    "interaction", row.interaction_id or "", row.feature_id.encode(), value
                ),
                uses=uses.of_interaction,
                verdict=lambda row: Verdict("accepted", interaction_id=row.interaction_id),
            ),
            "search": _Way[SearchRow](
                decoder=SearchDecoder(),
                mint_ids=False,
                digests=digests_of_searches,
                record=lambda row, value: Record("search", row.execution_id, row.execution_id.encode(), value),
                uses=uses.of_search,
                verdict=lambda row: Verdict("accepted", execution_id=row.execution_id),
            ),
        }
        self._sender = sender
        self._shared = shared
        self._edge = edge
        self._clock = clock or SystemClock()
        self._ack_seconds = settings.api.ack_seconds
        self._repeats = Repeats()
        self._stuck = False
        self._telling: set[asyncio.Task[None]] = set()
        self.counted: Callable[[Kind, str, int], None] = lambda _kind, _verdict, _events: None
        """Told how many events of a kind got a verdict."""
        self.refused: Callable[[Kind, Mapping[str, int]], None] = lambda _kind, _reasons: None
        """Told why events of a kind were rejected."""

    @property
    def stuck(self) -> bool:
        """Whether the broker has confirmed nothing since a request gave up waiting for it."""
        return self._stuck and self._sender.pending > 0

    @property
    def pending(self) -> int:
        """Events that the broker has not confirmed."""
        return self._sender.pending

    async def recall(self, log: KafkaLog) -> None:
        """Learn from the log what was taken last, so that repeats are known after a restart, too.

        Raises:
            KafkaError: the broker is away or has no such topics.
        """
        ticket = Ticket()
        ticket.close()
        for kind, way in self._ways.items():
            for digest in await asyncio.to_thread(way.recall, log, TOPIC_OF[kind]):
                self._repeats.claim(digest, ticket)

    async def confirm(self, record: Record) -> None:
        """Send one record and return once the broker has it.

        Raises:
            Problem: 503, the broker does not confirm; the record may have got in.
        """
        self._check()
        ticket = Ticket()
        sent = self._sender.send(record, ticket, b"")
        ticket.close()
        if not (sent and await self._in_time({ticket.settled}) and not ticket.failed):
            raise _unavailable("the event log has not confirmed the request; send it again")

    async def take(self, kind: Kind, events: Sequence[bytes], *, salt: bytes = b"", single: bool = False) -> Answer:
        """Take events and return their verdicts, in order, once the broker has confirmed all that are valid.

        Args:
            kind: what they are.
            events: JSON objects.
            salt: see `prepare`.
            single: see `answer_of`.

        Raises:
            Problem: 503, the broker does not confirm. Events may have got in; with the same ids they count once.
            DependencyError: the keys for names are out of reach; nothing is sent.
        """
        self._check()
        way = self._ways[kind]
        batch, verdicts = self._read(way, events, salt)
        if self._edge is not None:
            users = {row.user_id for row in batch.rows if row.user_id is not None}
            await asyncio.to_thread(self._edge.prepare, users)
        digests = way.digests(batch.rows)
        own = Ticket()
        earlier = [self._repeats.claim(digest, own) for digest in digests]
        sent = await self._send(way, batch, digests, [at for at, other in enumerate(earlier) if other is None], own)
        for at in {*range(len(digests))}.difference(sent):
            verdicts[batch.offsets[at]].verdict = "duplicate"

        telling = asyncio.create_task(self._tell(own, [digests[at] for at in sent]))
        # It also tells of what is confirmed after the request has given up.
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        in_time = await self._in_time({telling, *(other.settled for other in earlier if other)})
        if not in_time or any(digest in (other or own).failed for digest, other in zip(digests, earlier, strict=True)):
            self._refuse(kind, verdicts)
        answer = answer_of(verdicts, single=single)
        for name in ("accepted", "duplicate", "rejected"):
            self.counted(kind, name, getattr(answer, name))
        if answer.rejected:
            self.refused(kind, Counter(verdict.code for verdict in verdicts if verdict.verdict == "rejected"))
        return answer

    def _read(self, way: _Way[R], events: Sequence[bytes], salt: bytes) -> tuple[Batch[R], list[Verdict]]:
        """Return the valid events, and a verdict for each event, as if none were a repeat."""
        received, refused = prepare(events, self._clock.now_ms(), mint_ids=way.mint_ids, salt=salt)
        batch = way.decoder.decode(received)
        verdicts: list[Any] = [None] * len(events)
        for place, error in refused:
            verdicts[place] = rejected(error)
        for record, error in batch.bad:
            verdicts[record.offset] = rejected(error)
        for place, row in zip(batch.offsets, batch.rows, strict=True):
            verdict = verdicts[place] = way.verdict(row)
            verdict.uses, verdict.not_used_for = way.uses(row)
        return batch, verdicts

    async def _send(
        self, way: _Way[R], batch: Batch[R], digests: Sequence[bytes], new: Sequence[int], ticket: Ticket
    ) -> list[int]:
        """Send the new events that no other server has taken either, and return their places in the batch."""
        try:
            known = await self._shared.known([digests[at] for at in new])
            sent = [at for at, taken in zip(new, known, strict=True) if not taken]
            for at in sent:
                record = way.record(batch.rows[at], batch.records[at].value or b"")
                if self._edge is not None:
                    record = self._edge.apply(record)
                # After one that is not taken none is sent, so that a document's events keep their order.
                if ticket.failed or not self._sender.send(record, ticket, digests[at]):
                    ticket.fail(digests[at])
        except BaseException:
            # Nobody knows how far it came: a repeat is to be sent again.
            for at in new:
                ticket.fail(digests[at])
            raise
        finally:
            ticket.close()
        return sent

    async def _tell(self, ticket: Ticket, digests: Sequence[bytes]) -> None:
        """Wait until the fate of events is known, and let all servers know of those that the log has."""
        await ticket.settled
        await self._shared.tell([digest for digest in digests if digest not in ticket.failed])

    async def _in_time(self, awaited: set[asyncio.Future[None]]) -> bool:
        """Wait for all, as long as the settings allow, and tell whether all are done."""
        if all(each.done() for each in awaited):
            return True
        _, late = await asyncio.wait(awaited, timeout=self._ack_seconds)
        self._stuck = bool(late)
        return not late

    def _check(self) -> None:
        """Refuse at once what would only wait behind what the broker does not take."""
        if self.stuck:
            raise _unavailable("the event log does not answer")

    def _refuse(self, kind: Kind, verdicts: Sequence[Verdict]) -> None:
        unconfirmed = [verdict for verdict in verdicts if verdict.verdict != "rejected"]
        for verdict in unconfirmed:
            verdict.verdict = "unconfirmed"
        self.counted(kind, "unconfirmed", len(unconfirmed))
        raise _unavailable(
            "the event log has not confirmed all events; send them again with the same ids", {"results": verdicts}
        )


def _unavailable(detail: str, members: Mapping[str, Any] | None = None) -> Problem:
    return Problem(503, "unavailable", detail, retry_after=RETRY_SECONDS, members=members)
