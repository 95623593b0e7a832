"""`DELETE /v1/retrievers/interactions`: hands requests to forget to the log, which everything that stores events reads.

The answer is a receipt for the request, not for the deed.
"""

from datetime import UTC, datetime
from hashlib import blake2b
from time import monotonic
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import StringConstraints

from clickwell.producers.records import erasure_record
from clickwell.schemas.erasure import MAX_REASON, Erasure
from clickwell.schemas.interactions import MAX_ID, MAX_INTERACTION_ID
from clickwell.schemas.wire import new_id
from clickwell.serving.answers import Receipt
from clickwell.serving.api.access import Caller, requires
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of

# A repeat within this time is the same request; later the same words ask for what has come since.
REPEAT_SECONDS = 60.0

Eraser = Annotated[Caller, requires(Scope.ERASE)]
Reason = Annotated[str, Query(max_length=MAX_REASON, description="Why, for the receipt.")]

router = APIRouter(tags=["interactions"])


class Requested:
    """The requests of the last minute, so that a retry gets the receipt of the first."""

    def __init__(self) -> None:
        self._recent: dict[str, tuple[float, Receipt]] = {}

    def find(self, user_id: str) -> Receipt | None:
        """Return the receipt of a user's request of the last minute."""
        oldest = monotonic() - REPEAT_SECONDS
        # In order of their times, as each is put in once.
        while self._recent and (first := next(iter(self._recent))) and self._recent[first][0] < oldest:
            del self._recent[first]
        return self._recent[user_id][1] if user_id in self._recent else None

    def remember(self, user_id: str, receipt: Receipt) -> None:
        """Keep the receipt of a request that is in the log."""
        self._recent.pop(user_id, None)
        self._recent[user_id] = (monotonic(), receipt)


@router.delete("/v1/retrievers/interactions/{interaction_id}", status_code=202)
async def delete_interaction(
    request: Request,
    caller: Eraser,
    interaction_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_INTERACTION_ID)],
    reason: Reason = "",
) -> Receipt:
    """Have one interaction erased everywhere; an unknown one too, as it may still be on its way."""
    digest = blake2b(interaction_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    receipt = Receipt(receipt_id=f"i-{digest}", subject="interaction_id", requested_at=datetime.now(UTC))
    erasure = Erasure(
        erasure_id=receipt.receipt_id, interaction_id=_text(interaction_id), reason=_text(reason), requester=caller.id
    )
    await services_of(request).capture.confirm(erasure_record(erasure))
    return receipt


@router.delete("/v1/retrievers/interactions", status_code=202)
async def delete_user(
    request: Request,
    caller: Eraser,
    user_id: Annotated[str, Query(min_length=1, max_length=MAX_ID)],
    reason: Reason = "",
) -> Receipt:
    """Have all events of a user erased everywhere; repeated within a minute, it is one request."""
    services = services_of(request)
    requested: Requested = request.app.state.requested
    if (known := requested.find(user_id)) is not None:
        return known
    receipt = Receipt(receipt_id=new_id(), subject="user_id", requested_at=datetime.now(UTC))
    erasure = Erasure(erasure_id=receipt.receipt_id, user_id=_text(user_id), reason=_text(reason), requester=caller.id)
    await services.capture.confirm(erasure_record(erasure))
    requested.remember(user_id, receipt)
    return receipt


def _text(value: str) -> str:
    """Return text that events may hold.

    Raises:
        Problem: 400, no event can hold it.
    """
    if "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        raise Problem(400, "invalid_field", "holds a character that no event may have")
    return value
