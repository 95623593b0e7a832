"""The emitter for asyncio."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

from clickwell.clock import SystemClock
from clickwell.errors import KafkaError
from clickwell.producers.deliveries import Counts, Delivery
from clickwell.producers.emitter import Emitter
from clickwell.producers.records import Kind, Record, interaction_record, search_record
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.settings import Settings

# How often a full buffer is looked at again. Shorter than the shortest useful `block_seconds`.
RETRY_SECONDS = 0.005


class AsyncEmitter:
    """`Emitter` for coroutines: the same buffer, spool, order and guarantees; the event loop is never blocked.

    Use it as `async with AsyncEmitter() as emitter:` from one event loop.

    Args:
        settings: read from the environment when absent.
        source: the CloudEvents `ce_source` of every event.
    """

    def __init__(self, settings: Settings | None = None, *, source: str = "python") -> None:
        self._settings = settings or Settings.load()
        self._emitter = Emitter(self._settings, source=source)
        self._clock = SystemClock()

    async def emit(self, interaction: Interaction | Mapping[str, Any], *, wait: bool = False) -> str:
        """Take one interaction and return its id.

        Args:
            interaction: as for `Emitter.emit`.
            wait: return only when the broker has acknowledged it or, where there is a spool, when it is on disk.

        Raises:
            DecodeError: it is not a valid interaction.
            BufferFullError: buffer and spool are full; nothing was taken.
            KafkaError: with `wait`: it was given up and will not be sent.
        """
        return await self._send(interaction_record(interaction, self._clock.now_ms()), wait=wait)

    async def emit_search(self, search: Search | Mapping[str, Any], *, wait: bool = False) -> str:
        """Take one search and return its execution_id; otherwise like `emit`."""
        return await self._send(search_record(search, self._clock.now_ms()), wait=wait)

    async def emit_many(
        self, interactions: Iterable[Interaction | Mapping[str, Any]], *, wait: bool = False
    ) -> list[str]:
        """Take several interactions and return their ids; all are checked before the first is taken."""
        now = self._clock.now_ms()
        records = [interaction_record(one, now) for one in interactions]
        if wait:
            return await asyncio.gather(*(self._send(record, wait=True) for record in records))
        return [await self._send(record, wait=False) for record in records]

    @property
    def stats(self) -> dict[Kind, Counts]:
        """What became of the events, by kind."""
        return self._emitter.stats

    @property
    def pending(self) -> int:
        """Events in memory and on disk that no broker has acknowledged."""
        return self._emitter.pending

    async def flush(self, timeout: float = 30.0) -> int:  # noqa: ASYNC109  # it answers how much is left, it does not cancel
        """Wait until everything is acknowledged, at most `timeout` seconds; return what is not."""
        return await asyncio.to_thread(self._emitter.flush, timeout)

    async def close(self, timeout: float = 10.0) -> int:  # noqa: ASYNC109  # as for flush
        """Flush, put the rest on disk if there is a spool, and end; return what was not acknowledged."""
        return await asyncio.to_thread(self._emitter.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, record: Record, *, wait: bool) -> str:
        loop = asyncio.get_running_loop()
        if self._emitter.edge is not None:
            # Keys of users may have to be fetched.
            record = await asyncio.to_thread(self._emitter.named, record)
        done: asyncio.Future[Delivery] = loop.create_future()

        def settle(delivery: Delivery) -> None:
            if not done.done():  # the waiting task may have been cancelled
                done.set_result(delivery)

        def report(delivery: Delivery) -> None:
            loop.call_soon_threadsafe(settle, delivery)

        on_delivery = report if wait else None
        deadline = loop.time() + self._settings.emitter.block_seconds
        while not self._emitter.offer(record, on_delivery):
            if loop.time() >= deadline:
                self._emitter.overflow(record, on_delivery)
                break
            await asyncio.sleep(RETRY_SECONDS)
        if wait:
            delivery = await done
            if delivery.outcome == "failed":
                raise KafkaError(f"event {record.id} was not delivered: {delivery.error}")
        return record.id
