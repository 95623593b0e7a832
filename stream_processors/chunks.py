"""Faust, handed one chunk of records at a time instead of one record.

Three public hooks of Faust are used (a consumer scheduler, a schema, a transport's consumer class); the consumer's
overrides make Faust's own bookkeeping of offsets ornamental. Faust and aiokafka are pinned exactly, and a contract test
holds what is assumed here about the order in which they call.
"""

import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import faust
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.structs import TopicPartition
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.transports import SchedulingStrategyT

from clickwell.schemas.decode import Record
from clickwell.settings import Settings

# The broker answers when it has so many bytes or after so many milliseconds. Every record as soon as it is written
# would come in chunks of a few records: they cost Redis five times as much for each, and so many of them fill Faust's
# buffer, which then stands still for up to a second.
FETCH_BYTES = 256 << 10
FETCH_WAIT_MS = 50


def _all_records(self: Any, max_records: int | None = None) -> list[Any]:
    """Return what was fetched of one partition, whole batches at a time, without the records of transactions' ends."""
    assert max_records is None
    if not self.check_assignment(self._topic_partition) or not self.has_more():
        return []
    part, found = self._partition_records, []
    while part._records.has_next():  # noqa: SLF001
        batch = part._records.next_batch()  # noqa: SLF001
        if not batch.is_control_batch:
            first = part.next_fetch_offset
            records = list(batch)
            # A compressed batch comes whole, also when it begins before the offset that was asked for.
            found += records if records and records[0].offset >= first else [r for r in records if r.offset >= first]
        part.next_fetch_offset = batch.next_offset
    self._update_position()
    self._partition_records = None
    return found


# aiokafka takes each record that its C code has decoded through a generator and wraps it in a dataclass: half of all it
# costs to fetch. The bare records have every attribute that is read here.
FetchResult.getall = _all_records


class Chunk:
    """Consecutive records of one partition, in the shape of the one record for which Faust takes it."""

    __slots__ = ("offset", "partition", "records", "timestamp", "timestamp_type", "topic")

    headers: tuple[()] = ()
    key = None
    checksum = None
    serialized_key_size = 0
    serialized_value_size = 0

    def __init__(self, tp: TP, records: Sequence[Any]) -> None:
        last = records[-1]
        self.records = records
        self.topic: str = tp.topic
        self.partition: int = tp.partition
        self.offset: int = last.offset
        self.timestamp: int = last.timestamp
        self.timestamp_type: int = last.timestamp_type

    @property
    def value(self) -> "Chunk":
        """What the agent gets."""
        return self


def scheduler(chunk_records: int) -> type[SchedulingStrategyT]:
    """Return a scheduler class that cuts fetched records into chunks, partitions taking turns."""

    class ChunkScheduler(SchedulingStrategyT):  # type: ignore[misc]
        def iterate(self, records: Mapping[TP, Sequence[Record]]) -> Iterator[tuple[TP, Chunk]]:
            waiting = [(tp, found, 0) for tp, found in records.items() if found]
            while waiting:
                tp, found, start = waiting.pop(0)
                stop = start + chunk_records
                yield tp, Chunk(tp, found[start:stop] if start or stop < len(found) else found)
                if stop < len(found):
                    waiting.append((tp, found, stop))

    return ChunkScheduler


class PassThrough(faust.Schema):  # type: ignore[misc]
    """A schema that decodes nothing: chunks are decoded by column, later."""

    def loads_key(self, _app: Any, _message: Any, **_: Any) -> None:
        """Chunks have no key."""

    def loads_value(self, _app: Any, message: Any, **_: Any) -> Any:
        """Return the chunk."""
        return message.value


class _NothingRead(dict[TP, int | None]):
    """Faust drops what it believes to have read before; the engine decides that, so Faust must never believe it."""

    def __getitem__(self, tp: TP) -> None:
        return None


class _FetchingThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Fetches again at once when a partition that is caught up holds the broker's answer back.

    aiokafka has one request to a broker under way, for the partitions of which it holds nothing. If all of those are
    caught up, Faust's fixed wait of 1.5 s keeps every other partition waiting too.
    """

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Handed to the fetcher when it starts.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        consumer._fetch_min_bytes = FETCH_BYTES  # noqa: SLF001
        return consumer


class StoredOffsetsConsumer(driver.Consumer):  # type: ignore[misc]
    """Starts where the engine says instead of at the group's committed offsets."""

    app: "ChunkApp"

    def _new_consumer_thread(self) -> Any:
        return _FetchingThread(self, loop=self.loop, beacon=self.beacon)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NothingRead()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Hand the assignment over to the engine; Faust calls this after every rebalance, before records flow."""
        positions = await self.app.assign([(tp.topic, tp.partition) for tp in self.assignment()])
        return {TP(*tp): offset for tp, offset in positions.items()}

    def _new_offset(self, tp: TP) -> int | None:
        # Called for every partition at each commit: the group's offset only feeds lag displays. Clearing what was
        # acknowledged keeps these lists from growing for ever.
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self.app.applied_offset((tp.topic, tp.partition))


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = StoredOffsetsConsumer


class ChunkApp(faust.App):  # type: ignore[misc]
    """A Faust application whose agents receive chunks.

    Attributes:
        assign: called with all assigned (topic, partition) pairs after every rebalance; returns where they go on.
        applied_offset: returns the offset to show as the group's position, or None.
    """

    assign: Callable[[Sequence[tuple[str, int]]], Awaitable[Mapping[tuple[str, int], int]]]
    applied_offset: Callable[[tuple[str, int]], int | None]

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Make none: without tables there is nothing to keep on disk."""

    async def seek(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Move the consumer, throwing away what it fetched elsewhere; partitions that are gone are ignored."""
        thread = self.consumer._thread  # noqa: SLF001  # Faust's own seek would record what it believes to have read

        async def move() -> None:
            consumer = thread._ensure_consumer()  # noqa: SLF001
            assigned = consumer.assignment()
            for tp, offset in positions.items():
                if TopicPartition(*tp) in assigned:
                    consumer.seek(TopicPartition(*tp), offset)

        await thread.call_thread(move)

    def end_of(self, tp: tuple[str, int]) -> int:
        """Return the log's end of a partition as last seen by the consumer, 0 when it is not known."""
        try:
            return self.consumer.highwater(TP(*tp)) or 0
        except (AssertionError, AttributeError, KeyError, TypeError):
            # A rebalance is under way, or the consumer does not run yet.
            return 0


def build_app(settings: Settings) -> ChunkApp:
    """Return the application with everything configured but its agents."""
    kafka, worker = settings.kafka, settings.worker
    return ChunkApp(
        kafka.group,
        broker=[f"kafka://{server.strip()}" for server in kafka.bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        store="memory://",
        web_enabled=False,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        stream_recovery_delay=0,
        # Counted in chunks: a few of them keep the agent busy, more only hold memory.
        stream_buffer_maxsize=8,
        consumer_max_fetch_size=worker.fetch_bytes,
        # As in librdkafka: TCP guards the way, and a record damaged on disk would not decode.
        broker_check_crcs=False,
        # The engine compares every offset and declares what retention took, so a jump cannot pass unnoticed.
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=worker.instance_id or None,
        consumer_metadata_max_age_ms=int(worker.metadata_max_age * 1000),
        broker_session_timeout=worker.session_timeout,
        broker_heartbeat_interval=worker.heartbeat_interval,
        broker_rebalance_timeout=worker.session_timeout,
        # Bounds a rebalance; Faust refuses values below the session timeout.
        broker_request_timeout=worker.session_timeout + 10,
        ConsumerScheduler=scheduler(worker.chunk_records),
    )


def _credentials(settings: Settings) -> Any:
    kafka = settings.kafka
    if kafka.security_protocol == "PLAINTEXT":
        return None
    context = None
    if kafka.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    if kafka.security_protocol == "SSL":
        return SSLCredentials(context)
    return SASLCredentials(
        username=kafka.sasl_username,
        password=kafka.sasl_password.get_secret_value(),
        mechanism=kafka.sasl_mechanism,
        ssl_context=context,
    )
