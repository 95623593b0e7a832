"""What the API answers of single interactions: the server makes these objects, and its client reads them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, JsonValue


class StoredInteraction(BaseModel):
    """One interaction as it was stored."""

    interaction_id: str | None
    feature_id: str
    interaction_type: list[str]
    position: int | None
    user_id: str | None
    session_id: str | None
    retriever_id: str | None
    execution_id: str | None
    timestamp: datetime
    sent_at: datetime | None
    received_at: datetime | None
    metadata: dict[str, JsonValue]


class Freshness(BaseModel):
    """How current an answer is: it is of the lake, which the sink writes every few seconds; null before the first."""

    lake_version: int | None
    written_at: datetime | None
    age_seconds: float | None


class InteractionPage(BaseModel):
    """Interactions, newest first."""

    interactions: list[StoredInteraction]
    page: int
    page_size: int
    next_cursor: str | None
    """Give it as `cursor` for the next page, which is of the same moment; null after the last."""
    freshness: Freshness


class Receipt(BaseModel):
    """A request to forget, as it stands in the log; erasing goes on from there."""

    receipt_id: str
    subject: Literal["interaction_id", "user_id"]
    status: Literal["requested"] = "requested"
    requested_at: datetime
