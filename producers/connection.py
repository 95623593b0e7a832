"""One client of Kafka that sends, set up so that nothing is reordered or stored twice; made anew when it breaks."""

import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError as Report
from confluent_kafka import KafkaException, Message, Producer

from clickwell.kafka import librdkafka_config
from clickwell.producers.records import TOPIC_OF, Record
from clickwell.schemas.wire import MAX_EVENT_BYTES, headers
from clickwell.settings import Settings
from clickwell.tracing import tracing_of

# Room for the key, the headers and the batch's own framing beside the largest event.
MAX_RECORD_BYTES = MAX_EVENT_BYTES + (1 << 20)
# A buffer of the default 200,000 events holds 1.3 KiB of each; larger events fill it before their number does.
BUFFER_KBYTES = 256 << 10
# Longer than a broker's restart or a change of leader, about 10 s.
DELIVERY_SECONDS = 120
# Reports about the record itself: it will never be taken, so that keeping it would block all behind it.
HOPELESS = frozenset({Report.MSG_SIZE_TOO_LARGE, Report.INVALID_MSG, Report.INVALID_MSG_SIZE, Report.INVALID_RECORD})

# All of librdkafka's own codes begin with an underscore.
FATAL, QUEUE_FULL = Report._FATAL, Report._QUEUE_FULL  # noqa: SLF001

OnReport = Callable[[Report | None, Message], None]

_log = logging.getLogger(__name__)
# librdkafka tells of every reconnect; whoever wants to read that turns this logger on.
_client_log = logging.getLogger("clickwell.librdkafka")
_client_log.addHandler(logging.NullHandler())
_client_log.propagate = False


class Connection:
    """Sends records; idempotent, acks=all, in order for each document.

    `produce` may be called from any thread. Reports come in `poll` alone, which belongs to one thread, as does `mend`.

    Args:
        settings: where the broker is, and how much is buffered.
        source: the CloudEvents `ce_source` of every record: name of the service that sends.
        expires: give up what is not acknowledged within 120 s; otherwise it is tried for ever.
    """

    def __init__(self, settings: Settings, source: str, *, expires: bool) -> None:
        buffers = settings.emitter
        self._config: dict[str, Any] = {
            **librdkafka_config(settings.kafka),
            "enable.idempotence": True,
            "acks": "all",
            # As the Java client picks partitions, so that all clients put a document into the same one.
            "partitioner": "murmur2_random",
            "compression.type": buffers.compression,
            "linger.ms": buffers.linger_ms,
            "delivery.timeout.ms": DELIVERY_SECONDS * 1000 if expires else 0,
            "message.max.bytes": MAX_RECORD_BYTES,
            "queue.buffering.max.messages": buffers.buffer_events,
            "queue.buffering.max.kbytes": BUFFER_KBYTES,
            # The default of 10 s would let a broker that is back wait that long for the first event.
            "reconnect.backoff.max.ms": 1000,
            "error_cb": self.note,
        }
        # All but the second one, the id, are the same for every event of a kind.
        self._headers = {kind: headers(kind, "", source) for kind in TOPIC_OF}
        self._tracing = tracing_of(settings)
        self._broken = False
        self._producer = self._connect()

    def produce(self, record: Record, report: OnReport) -> Report | None:
        """Hand a record over and return None, or say why it is not taken; then there will be no report."""
        version, _, *rest = self._headers[record.kind]
        if self._tracing is not None:
            rest += self._tracing.headers()
        try:
            self._producer.produce(
                TOPIC_OF[record.kind],
                record.value,
                record.key,
                on_delivery=report,
                headers=[version, ("ce_id", record.id.encode()), *rest],
            )
        except BufferError:
            return Report(QUEUE_FULL)
        except KafkaException as error:
            self.note(error.args[0])
            return error.args[0]  # type: ignore[no-any-return]  # it is always a KafkaError
        return None

    def poll(self, seconds: float) -> None:
        """Report what has become known; wait for the first report, as long as told."""
        self._producer.poll(seconds)

    def purge(self) -> None:
        """Give up all that is in memory; each record is reported as failed, although some may be in the log."""
        self._producer.purge()

    def note(self, error: Report) -> None:
        """Look at an error that was reported: some break the client for good."""
        if error.fatal() or error.code() == FATAL:
            self._broken = True

    @property
    def broken(self) -> bool:
        """Whether the client takes nothing any more, and all it had is reported."""
        return self._broken and not len(self._producer)

    def mend(self) -> None:
        """Make a broken client anew; nobody may produce meanwhile."""
        _log.warning("the Kafka client met an error that it cannot mend and was made anew")
        self._producer = self._connect()
        self._broken = False

    def _connect(self) -> Producer:
        return Producer(self._config, logger=_client_log)
