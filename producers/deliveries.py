"""What becomes of events that an emitter took."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

_log = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """What became of one event.

    Attributes:
        id: the event's id.
        outcome: `acked` by the broker; `spooled` on disk, to be sent later; `failed`, it is not and will not be sent.
        partition: where it lies if acked.
        offset: where it lies if acked.
        error: the broker's or the client's word if failed.
    """

    id: str
    outcome: Literal["acked", "spooled", "failed"]
    partition: int = -1
    offset: int = -1
    error: str = ""


OnDelivery = Callable[[Delivery], None]


@dataclass(slots=True)
class Counts:
    """Events of one kind since the emitter began: acked + failed + pending = accepted + what an earlier process left.

    Attributes:
        accepted: taken by an `emit`.
        refused: not taken, as memory and spool were full; the caller got a `BufferFullError`.
        acked: acknowledged by all in-sync replicas.
        failed: given up; each was logged or reported to its `on_delivery`.
        spooled: written to the spool.
        replayed: of the acked ones, those that came from the spool, also of an earlier process.
    """

    accepted: int = 0
    refused: int = 0
    acked: int = 0
    failed: int = 0
    spooled: int = 0
    replayed: int = 0


def tell(on_delivery: OnDelivery, delivery: Delivery) -> None:
    """Call back with a delivery; what the callback raises is logged."""
    try:
        on_delivery(delivery)
    except Exception:  # noqa: BLE001  # it is the caller's code, and must not end the thread that delivers
        _log.exception("on_delivery raised for event %s", delivery.id)
