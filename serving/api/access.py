"""Who may do what: keys and their scopes, quotas and origins; without any key, this machine only.

```python
@router.get("/v1/things")
async def things(caller: Annotated[Caller, requires(Scope.READ)]) -> list[Thing]: ...
```
"""

import asyncio
import logging
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import redis
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from clickwell.schemas.keys import KEYS
from clickwell.serving.api.keys import Key, KeyRing, Scope
from clickwell.serving.api.limits import Bucket
from clickwell.serving.api.problems import RETRY_SECONDS, Problem
from clickwell.serving.api.shared import Shared

# A revoked key has to stop within 5 s, also when one answer of Redis comes late.
REFRESH_SECONDS = 1.0

log = logging.getLogger("clickwell.api")

# They only describe the API: `Access` reads the headers itself.
_BEARER = Security(HTTPBearer(auto_error=False))
_HEADER = Security(APIKeyHeader(name="X-API-Key", auto_error=False))


class Quota:
    """What a key may spend, at all servers together; while Redis is away, at each of them.

    Args:
        key: has a quota.
        shared: knows what other servers have spent.
    """

    def __init__(self, key: Key, shared: Shared) -> None:
        self._key = key.id
        self._shared = shared
        self._bucket = Bucket(key.quota or 0)

    async def take(self, tokens: int) -> float:
        """Take tokens and return 0, or take none and return the seconds after which they are there."""
        # What is too much for one server is too much for all, and need not be asked.
        if wait := self._bucket.take(tokens):
            return wait
        wait = await self._shared.spend(self._key, self._bucket.rate, self._bucket.most, tokens)
        if wait:
            self._bucket.put_back(tokens)
        return wait


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the holder of a key, or somebody on this machine while there is no key."""

    key: Key | None
    quota: Quota | None

    @property
    def id(self) -> str:
        """Name for logs: the key's public part."""
        return self.key.id if self.key else "local"

    async def spend(self, events: int) -> None:
        """Count events, or one for a read, against the key's quota.

        Raises:
            Problem: 429, the quota is used up.
        """
        wait = await self.quota.take(events) if self.quota else 0.0
        if wait:
            raise Problem(429, "over_quota", f"this key's quota is used up for {wait:.1f} s", retry_after=wait + 0.5)


class Access:
    """Decides about requests, by the keys that Redis holds.

    While Redis is away the keys stay as they were last seen, so that events are still taken.

    Args:
        client: asked for the keys every second.
        shared: knows what keys have spent elsewhere.
        origins: those whose pages may send, whatever their key.
    """

    def __init__(self, client: Any, shared: Shared, origins: tuple[str, ...]) -> None:
        self.ring = KeyRing()
        self._client = client
        self._shared = shared
        self._origins = frozenset(origins)
        self._quotas: dict[str, Quota] = {}

    async def refresh(self) -> None:
        """Ask Redis for the keys once; a failure is logged."""
        try:
            self.ring.load(await self._client.hgetall(KEYS))
        except (redis.RedisError, OSError, ValueError) as error:
            log.warning("the keys cannot be read, those known stay in force: %s", error)

    async def keep_fresh(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self.refresh()

    def allows_origin(self, origin: str) -> bool:
        """Tell whether pages of an origin may send at all; which key they need is decided later."""
        return origin in self._origins or origin in self.ring.origins()

    def admit(self, request: Request, scope: Scope) -> Caller:
        """Return who sent a request.

        Raises:
            Problem: 401, 403, or 503 as long as Redis has not said which keys there are.
        """
        if not self.ring.known:
            raise Problem(503, "unavailable", "the keys are not known yet", retry_after=RETRY_SECONDS)
        origin = request.headers.get("origin")
        caller = self._holder(request, scope) if len(self.ring) else _local(request)
        own = caller.key.origins if caller.key else ()
        if origin and not (origin in own if own else origin in self._origins or _same(origin, request)):
            raise Problem(403, "origin_refused", "pages of this origin may not use this API")
        request.state.caller = caller.id
        return caller

    def _holder(self, request: Request, scope: Scope) -> Caller:
        key = self.ring.find(_token(request, scope))
        if key is None:
            raise Problem(401, "unauthorized", "no valid key", headers={"WWW-Authenticate": "Bearer"})
        if not key.allows(scope):
            raise Problem(403, "scope_missing", f"this key lacks the scope {scope}")
        if key.quota is None:
            return Caller(key, None)
        if key.id not in self._quotas:
            self._quotas[key.id] = Quota(key, self._shared)
        return Caller(key, self._quotas[key.id])


def requires(scope: Scope) -> Any:
    """Return the dependency of a route that needs a scope; it gives the `Caller`."""

    async def admit(request: Request, _bearer: Any = _BEARER, _header: Any = _HEADER) -> Caller:
        access: Access = request.app.state.services.access
        caller = access.admit(request, scope)
        await caller.spend(1)
        return caller

    return Depends(admit)


class Cors(CORSMiddleware):
    """CORS for the origins of the settings and of the keys, which may change while the server runs."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        super().__init__(
            app,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key", "X-API-Key"),
            expose_headers=("Retry-After",),
            max_age=600,
        )
        self._access = access

    def is_allowed_origin(self, origin: str) -> bool:
        """Tell whether an origin is one of theirs."""
        return self._access.allows_origin(origin)


def _token(request: Request, scope: Scope) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if given := request.headers.get("x-api-key"):
        return given
    # `navigator.sendBeacon` can set no header. A page's key is no secret; it may write at most.
    return request.query_params.get("key", "") if scope is Scope.WRITE else ""


def _local(request: Request) -> Caller:
    """Admit a request of this machine, while there is no key.

    A proxy's requests all come from this machine, and so do those that a foreign page makes a browser here send under
    a name of its own: neither counts.
    """
    headers = request.headers
    proxied = "forwarded" in headers or "x-forwarded-for" in headers or "x-real-ip" in headers
    if not request.client or proxied or not _is_local(request.client.host, headers.get("host", "")):
        raise Problem(403, "no_keys", "there is no key yet, so only this machine is served: `clickwell keys create`")
    return Caller(None, None)


@lru_cache(maxsize=256)
def _is_local(client: str, host: str) -> bool:
    """Tell whether both a client's address and the host that it asked for are of this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return ip_address(client).is_loopback and (name == "localhost" or ip_address(name).is_loopback)
    except ValueError:
        return False


def _same(origin: str, request: Request) -> bool:
    return urlsplit(origin).netloc == request.headers.get("host")
