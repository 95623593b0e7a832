"""The calls of the API without sending them: what is asked, how the answer is read, what is tried again and when."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from clickwell.errors import ClickwellError, DecodeError, DependencyError, UsageError
from clickwell.schemas.wire import new_id
from clickwell.serving.client.results import Created, InteractionPage, Receipt, StoredInteraction

T = TypeVar("T")

INTERACTIONS = "/v1/retrievers/interactions"
# A call that may succeed later; each is safe to repeat, as events and erasures carry their ids.
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
FIRST_WAIT = 0.2
LONGEST_WAIT = 10.0

_CREATED = TypeAdapter(list[Created])


class InteractionFields(TypedDict, total=False):
    """What an interaction may have besides document and type; see `clickwell.Interaction`."""

    position: int | None
    metadata: Mapping[str, Any]
    user_id: str
    session_id: str
    retriever_id: str
    execution_id: str
    timestamp: datetime | int | str
    interaction_id: str


class Filters(TypedDict, total=False):
    """Which interactions are listed. `from_` and `to` are ISO 8601 or epoch ms; `days` counts back from now."""

    feature_id: str
    user_id: str
    session_id: str
    retriever_id: str
    execution_id: str
    interaction_type: str
    from_: datetime | int | str
    to: datetime | int | str
    days: float
    limit: int
    page: int
    page_size: int
    cursor: str


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call.

    Attributes:
        method: of HTTP.
        path: below the address of the API.
        read: makes the result of a status and the JSON of a body.
        params: of the query.
        body: sent as JSON, None for none.
        answers: statuses beside 2xx whose bodies `read` understands.
    """

    method: str
    path: str
    read: Callable[[int, Any], T]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    answers: frozenset[int] = frozenset()


# A request whose events are all rejected is refused, but has their verdicts.
_VERDICTS = frozenset({400})


def create(feature_id: str, interaction_type: Sequence[str], fields: InteractionFields) -> Call[Created]:
    """Return the call that sends one interaction; a rejected one raises when it is read."""
    types = [interaction_type] if isinstance(interaction_type, str) else list(interaction_type)
    event = _with_id({"feature_id": feature_id, "interaction_type": types, **fields})

    def read(status: int, answer: Any) -> Created:
        found = _verdicts(status, answer)[0]
        if found.verdict == "rejected":
            raise DecodeError(found.code, found.reason, field=found.field)
        return found

    return Call("POST", INTERACTIONS, read, body=event, answers=_VERDICTS)


def create_many(events: Iterable[Mapping[str, Any]]) -> Call[list[Created]]:
    """Return the call that sends a batch; the verdicts tell which of it were rejected."""
    return Call("POST", INTERACTIONS, _verdicts, body=[_with_id(event) for event in events], answers=_VERDICTS)


def list_(filters: Filters) -> Call[InteractionPage]:
    """Return the call that lists interactions."""
    params = {name.rstrip("_"): _text(value) for name, value in filters.items() if value is not None}
    return Call("GET", INTERACTIONS, lambda _, answer: InteractionPage.model_validate(answer), params=params)


def get(interaction_id: str) -> Call[StoredInteraction | None]:
    """Return the call that reads one interaction; None until the lake has it."""

    def read(status: int, answer: Any) -> StoredInteraction | None:
        return None if status == 404 else StoredInteraction.model_validate(answer)

    return Call("GET", _one(interaction_id), read, answers=frozenset({404}))


def delete(interaction_id: str | None, user_id: str | None, reason: str) -> Call[Receipt]:
    """Return the call that has one interaction, or all of a user's, erased everywhere.

    Raises:
        UsageError: neither or both are named.
    """
    if (interaction_id is None) == (user_id is None):
        raise UsageError("an erasure is of one interaction or of one user", fix="name interaction_id or user_id")
    params = {"reason": reason} if reason else {}
    path = INTERACTIONS
    if interaction_id is not None:
        path = _one(interaction_id)
    elif user_id is not None:
        params["user_id"] = user_id
    return Call("DELETE", path, lambda _, answer: Receipt.model_validate(answer), params=params)


def wait(attempt: int, retry_after: str | None) -> float:
    """Return the seconds before the next attempt: what the server asks for, else twice as long each time.

    Args:
        attempt: how many were made.
        retry_after: the header, if there was one.
    """
    if retry_after is not None and retry_after.isdecimal():
        return min(float(retry_after), LONGEST_WAIT)
    # Spread, so that those who failed at the same moment do not come back at the same moment.
    return min(FIRST_WAIT * float(2 ** (attempt - 1)), LONGEST_WAIT) * random.uniform(0.5, 1.0)


def refusal(status: int, answer: Any, attempts: int) -> ClickwellError:
    """Return the error of an answer that says no."""
    problem = answer if isinstance(answer, dict) else {}
    detail = str(problem.get("detail") or f"the API answered {status}")
    if status in AGAIN:
        return DependencyError(detail, why=f"after {attempts} attempts", fix="try later: repeated events count once")
    hints = {401: "give a valid api_key", 403: "use a key with the scope for this"}
    return UsageError(detail, why=f"the API refuses: {status} {problem.get('code', '')}", fix=hints.get(status, ""))


def _verdicts(status: int, answer: Any) -> list[Created]:
    if status == 400 and "results" not in answer:
        raise refusal(status, answer, 1)
    return _CREATED.validate_python(answer["results"])


def _with_id(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event with an id of its own: what makes it safe to send it again."""
    given = {name: value for name, value in event.items() if value is not None}
    moment = given.get("timestamp")
    if isinstance(moment, datetime):
        given["timestamp"] = moment.isoformat()
    return {"interaction_id": new_id()} | given


def _one(interaction_id: str) -> str:
    return f"{INTERACTIONS}/{quote(interaction_id, safe='')}"


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
