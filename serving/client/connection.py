"""What both clients share: the address, the key, and reading answers."""

from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError

from clickwell.errors import DependencyError, UsageError
from clickwell.serving.client.calls import AGAIN, Call, refusal
from clickwell.settings import Settings

T = TypeVar("T")

# Longer than the API itself waits for its broker.
TIMEOUT = 15.0
ATTEMPTS = 5


def http() -> ModuleType:
    """Return the HTTP library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import httpx2  # noqa: PLC0415  # an optional extra
    except ModuleNotFoundError:
        raise UsageError("httpx2 is not installed", fix="pip install 'clickwell[client]'") from None
    return httpx2


def options(api_key: str | None, base_url: str | None, settings: Settings, timeout: float) -> dict[str, Any]:
    """Return how the HTTP library is set up."""
    api = settings.api
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": base_url or f"http://{api.host}:{api.port}", "headers": headers, "timeout": timeout}


def read(call: Call[T], response: Any, attempts: int) -> T:
    """Return the result of an answer that will not be asked for again.

    Raises:
        DecodeError: the event was rejected.
        UsageError: the API refuses the call.
        DependencyError: something that the API needs is away.
    """
    try:
        answer = response.json()
    except ValueError:
        answer = None
    status = response.status_code
    if not (response.is_success or status in call.answers):
        raise refusal(status, answer, attempts)
    try:
        return call.read(status, answer)
    except (ValidationError, KeyError, TypeError):
        raise DependencyError(
            f"the answer of {response.url} is not that of this API",
            why="the address is another service's, or of a version that this client does not know",
            fix="check base_url",
        ) from None


def is_worth_another(response: Any) -> bool:
    """Say whether the same call may succeed later."""
    return response.status_code in AGAIN


def unreachable(error: Exception, address: object, attempts: int) -> DependencyError:
    """Return the error of an API that does not answer."""
    return DependencyError(
        f"the API at {address} does not answer",
        why=f"{error or type(error).__name__}, after {attempts} attempts",
        fix="`clickwell api` serves it; repeated events count once",
    )
