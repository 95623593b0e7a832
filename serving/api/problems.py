"""Errors as problem+json (RFC 9457), the only form in which this API says no.

```json
{"type": "urn:clickwell:problem:too_large", "title": "Content Too Large", "status": 413, "code": "too_large",
 "detail": "the body has more than 2,000,000 bytes"}
```
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from clickwell.errors import (
    ClickwellError,
    DecodeError,
    DependencyError,
    KafkaError,
    LakeError,
    NoTableError,
    RedisError,
    SettingsError,
    UsageError,
)

MEDIA_TYPE = "application/problem+json"
# Long enough for a broker to elect a leader, short enough for a page that waits.
RETRY_SECONDS = 2

log = logging.getLogger("clickwell.api")

# What is away, in words for callers; addresses and the libraries' own words go to the log only.
_AWAY: dict[type[DependencyError], str] = {
    KafkaError: "the event log does not answer; nothing that was not confirmed is promised",
    RedisError: "the counters do not answer",
    LakeError: "the lake does not answer",
}


class Problem(HTTPException):  # its name in the RFC
    """An answer that says no; raise it anywhere below a route, or where a body is read.

    Args:
        status: HTTP status, 4xx or 5xx.
        code: stable name for programs, such as `too_large`.
        detail: one sentence for people.
        retry_after: seconds for the `Retry-After` header.
        headers: further headers.
        members: further members of the JSON object.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        after = {} if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
        super().__init__(status, detail, {**(headers or {}), **after})
        self.code = code
        self.members = dict(members or {})

    def body(self) -> bytes:
        """Return the JSON object."""
        return msgspec.json.encode(
            {
                "type": f"urn:clickwell:problem:{self.code}",
                "title": HTTPStatus(self.status_code).phrase,
                "status": self.status_code,
                "code": self.code,
                "detail": self.detail,
                **self.members,
            }
        )

    def response(self) -> Response:
        """Return the HTTP response."""
        return Response(self.body(), self.status_code, self.headers, MEDIA_TYPE)


def problem_of(error: ClickwellError) -> Problem:
    """Return what a caller is told about an error of clickwell's own."""
    if isinstance(error, DecodeError):
        return Problem(400, error.reason, str(error), members={"field": error.field})
    # What is wrong with the server's own settings is no fault of the call.
    if isinstance(error, UsageError) and not isinstance(error, SettingsError):
        return Problem(400, "bad_request", "; ".join(filter(None, (error.message, error.why))))
    if isinstance(error, NoTableError):
        return Problem(404, "nothing_stored", "the lake holds nothing of the kind yet")
    if isinstance(error, DependencyError):
        log.warning("%s %s: %s", error.code, error.message, error.why)
        detail = next((text for kind, text in _AWAY.items() if isinstance(error, kind)), "something needed is away")
        return Problem(503, "unavailable", detail, retry_after=RETRY_SECONDS)
    log.error("%s %s: %s", error.code, error.message, error.why)
    return Problem(500, "internal", "an unexpected error; the server's log has it")


def add_problems(app: FastAPI) -> None:
    """Make every error of an app a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(ClickwellError, _clickwell)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


def _clickwell(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ClickwellError)
    return problem_of(error).response()


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return Problem(error.status_code, code, str(error.detail), headers=error.headers).response()


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The first part says where the value stood: query, path, body.
    field = ".".join(str(part) for part in first["loc"][1:])
    return Problem(400, "invalid_field", f"{field or 'body'}: {first['msg']}", members={"field": field}).response()
