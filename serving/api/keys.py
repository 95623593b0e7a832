"""API keys: kept in Redis as hashes, known to every server within two seconds.

A key reads `cw_<id>_<secret>`. Redis holds the SHA-256 of the whole; a secret of 256 random bits needs no slower hash.
A revoked key's entry stays, so that what it did keeps its name, and so that revoking the last key opens nothing.
"""

import hmac
import re
import secrets
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, Field

from clickwell.clock import SystemClock
from clickwell.errors import UsageError
from clickwell.redis_client import redis_errors
from clickwell.schemas.keys import KEYS

_FORM = re.compile(r"cw_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
# What an unknown id is compared with, so that it takes as long as a known one.
_NOBODY = sha256(b"").hexdigest()


class Scope(StrEnum):
    """What a key may do; `admin` may do everything."""

    WRITE = "write"
    READ = "read"
    ERASE = "erase"
    ADMIN = "admin"


class Key(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    """Public part; stands in the access log."""
    name: str = ""
    """What it is for, in its owner's words."""
    sha256: str
    """Hex digest of the whole key."""
    scopes: frozenset[Scope]
    """What it may do."""
    quota: float | None = Field(default=None, gt=0)
    """Events a second on average, reads count one each; None means no limit."""
    origins: tuple[str, ...] = ()
    """Pages of these origins only may use it in a browser; without any, pages of the settings' origins may."""
    created_ms: int
    """When it was made, epoch ms."""
    revoked_ms: int | None = None
    """When it was revoked, epoch ms."""

    def allows(self, scope: Scope) -> bool:
        """Tell whether the key may do something."""
        return self.revoked_ms is None and (scope in self.scopes or Scope.ADMIN in self.scopes)


def create(
    client: redis.Redis,
    scopes: frozenset[Scope],
    *,
    name: str = "",
    quota: float | None = None,
    origins: tuple[str, ...] = (),
) -> tuple[Key, str]:
    """Make a key and return it with its text, which is kept nowhere.

    Raises:
        RedisError: Redis is away.
    """
    key_id = secrets.token_hex(6)
    text = f"cw_{key_id}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=key_id,
        name=name,
        sha256=_digest(text),
        scopes=scopes,
        quota=quota,
        origins=origins,
        created_ms=SystemClock().now_ms(),
    )
    _store(client, key)
    return key, text


def revoke(client: redis.Redis, key_id: str) -> Key:
    """Revoke a key and return it; safe to repeat.

    Raises:
        UsageError: there is no such key.
        RedisError: Redis is away.
    """
    for key in list_keys(client):
        if key.id == key_id:
            gone = key if key.revoked_ms else key.model_copy(update={"revoked_ms": SystemClock().now_ms()})
            _store(client, gone)
            return gone
    raise UsageError(f"there is no key {key_id!r}", fix="`clickwell keys list` shows them")


def list_keys(client: redis.Redis) -> list[Key]:
    """Return all keys, revoked ones too, oldest first.

    Raises:
        RedisError: Redis is away.
    """
    with redis_errors():
        held: Any = client.hgetall(KEYS)
    return sorted((Key.model_validate_json(value) for value in held.values()), key=lambda key: (key.created_ms, key.id))


class KeyRing:
    """The keys as one server knows them."""

    def __init__(self) -> None:
        self._held: Mapping[bytes, bytes] | None = None
        self._keys: dict[str, Key] = {}

    def load(self, held: Mapping[bytes, bytes]) -> None:
        """Take what Redis holds."""
        if held != self._held:
            self._keys = {key.id: key for key in map(Key.model_validate_json, held.values())}
            self._held = held

    @property
    def known(self) -> bool:
        """Whether Redis has ever said which keys there are."""
        return self._held is not None

    def __len__(self) -> int:
        """Return how many keys there are, revoked ones too."""
        return len(self._keys)

    def find(self, text: str) -> Key | None:
        """Return the key with a text unless it is revoked; takes as long for a wrong one as for a right one."""
        form = _FORM.fullmatch(text)
        key = self._keys.get(form[1]) if form else None
        right = hmac.compare_digest(_digest(text), key.sha256 if key else _NOBODY)
        return key if key and right and key.revoked_ms is None else None

    def origins(self) -> set[str]:
        """Return the origins that any key names."""
        return {origin for key in self._keys.values() if key.revoked_ms is None for origin in key.origins}


def _store(client: redis.Redis, key: Key) -> None:
    with redis_errors():
        client.hset(KEYS, key.id, key.model_dump_json())


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()
