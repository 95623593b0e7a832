"""Names that nobody can read any more once a key is destroyed: sealed before Kafka, opened by who counts and stores.

A sealed user_id is `~`, the user's pseudonym, `~` and the name under AES-256-GCM with a key that is the user's own; a
sealed session_id is `~` and the same of the visit. Whoever has the key opens both. When the key is destroyed, what is
left in the log, in backups and in copies of it is a pseudonym without a name, under which an erasure still finds it.

A user_id of up to 120 bytes and a session_id of up to 160 can be sealed. Of a longer user_id the pseudonym alone is
sent, of a longer session_id nothing.
"""

import base64
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clickwell.errors import DependencyError, SettingsError, UsageError
from clickwell.privacy import load_keys, write_once
from clickwell.redis_client import connect, redis_errors
from clickwell.schemas.interactions import MAX_ID
from clickwell.schemas.keys import PERSONAL_KEYS
from clickwell.schemas.marks import SEAL, sealed_name
from clickwell.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE, _KEY, _TIME = 12, 32, 8
# Kept beside the keys from the first on: without it a store is not the one that the names were sealed with.
_MARKER = "store"
# A process may go on with a key for so long after it was destroyed.
REMEMBERED_SECONDS = 10.0
_MOST_REMEMBERED = 1 << 17


class KeyStore(ABC):
    """Keeps a secret for each pseudonym: when it was made, epoch ms in 8 bytes, then the key.

    Raises:
        DependencyError: by every method, the store is away.
    """

    @abstractmethod
    def get(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the secrets, None where there is none."""

    @abstractmethod
    def add(self, name: str, secret: bytes) -> None:
        """Keep a secret unless there is one already."""

    @abstractmethod
    def destroy(self, names: Collection[str]) -> int:
        """Destroy secrets; return how many there were."""

    @abstractmethod
    def every(self) -> Iterator[tuple[str, bytes]]:
        """Yield every name with its secret."""


class InRedis(KeyStore):
    """Keys in a hash of Redis. What Redis loses nobody can open any more: it has to write to disk, and be backed up."""

    def __init__(self, settings: Settings) -> None:
        self._client = connect(settings)

    def get(self, names: Sequence[str]) -> list[bytes | None]:
        """See `KeyStore`."""
        with redis_errors():
            found: Any = self._client.hmget(PERSONAL_KEYS, list(names)) if names else []
        return list(found)

    def add(self, name: str, secret: bytes) -> None:
        """See `KeyStore`."""
        with redis_errors():
            self._client.hsetnx(PERSONAL_KEYS, name, secret)

    def destroy(self, names: Collection[str]) -> int:
        """See `KeyStore`."""
        with redis_errors():
            return int(self._client.hdel(PERSONAL_KEYS, *names)) if names else 0

    def every(self) -> Iterator[tuple[str, bytes]]:
        """See `KeyStore`."""
        with redis_errors():
            for name, secret in self._client.hscan_iter(PERSONAL_KEYS, count=1000):
                if name != _MARKER.encode():
                    yield name.decode(), secret


class InFolder(KeyStore):
    """Keys in a folder that all hosts share, one small file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, names: Sequence[str]) -> list[bytes | None]:
        """See `KeyStore`."""
        with _file_errors():
            return [self._read(self._path(name)) for name in names]

    def add(self, name: str, secret: bytes) -> None:
        """See `KeyStore`."""
        with _file_errors():
            write_once(self._path(name), secret)

    def destroy(self, names: Collection[str]) -> int:
        """See `KeyStore`."""
        gone = 0
        with _file_errors():
            for path in map(self._path, names):
                with suppress(FileNotFoundError), path.open("r+b") as file:
                    # Over the key itself, as far as the disk allows.
                    file.write(bytes(_TIME + _KEY))
                    file.flush()
                    os.fsync(file.fileno())
                    path.unlink()
                    gone += 1
        return gone

    def every(self) -> Iterator[tuple[str, bytes]]:
        """See `KeyStore`."""
        with _file_errors():
            for path in self._folder.glob("??/[!.]*"):
                if path.name != _MARKER and (secret := self._read(path)):
                    yield path.name, secret

    def _path(self, name: str) -> Path:
        # Pseudonyms end in letters that are as good as random: a folder has a four-thousandth of them.
        return self._folder / name[-2:] / name

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


class Names(Protocol):
    """What a row of either kind says of its user."""

    user_id: str | None
    session_id: str | None


class Vault:
    """Seals and opens; remembers keys for some seconds. Thread-safe.

    Args:
        store: of the keys.
        pseudonym: of a user under the current key; only who seals needs it.
    """

    def __init__(self, store: KeyStore, pseudonym: Callable[[str], str] = str) -> None:
        self.store = store
        self._pseudonym = pseudonym
        self._remembered: dict[str, tuple[AESGCM, float]] = {}

    def prepare(self, user_ids: Iterable[str]) -> None:
        """Have the keys of some users at hand, made where there are none, so that sealing has nothing to wait for.

        Raises:
            DependencyError: the store is away.
        """
        self._made({self._pseudonym(user_id) for user_id in user_ids})

    def seal(self, user_id: str, session_id: str | None) -> tuple[str, str | None]:
        """Return both sealed.

        Raises:
            DependencyError: the store is away.
        """
        name = self._pseudonym(user_id)
        cipher = self._made({name})[name]
        head = f"{SEAL}{name}{SEAL}"
        own = head + _encrypt(cipher, user_id, "user_id")
        visit = None if session_id is None else SEAL + _encrypt(cipher, session_id, "session_id")
        return own if len(own) <= MAX_ID else head, visit if visit and len(visit) <= MAX_ID else None

    def open_rows(self, rows: Iterable[Names]) -> None:
        """Put names back into rows. Where the key is gone the pseudonym stays, and what was sealed of the session.

        Raises:
            DependencyError: the store is away.
            SettingsError: it never held a key.
        """
        sealed = [(row, name) for row in rows if row.user_id and (name := sealed_name(row.user_id))]
        keys = self._keys({name for _, name in sealed})
        left = [(row, name) for row, name in sealed if not _open(row, keys.get(name))]
        # Somebody who was erased and came back has another key than the one that is remembered.
        for _, name in left:
            self._remembered.pop(name, None)
        if left and self.store.get([_MARKER]) == [None]:
            raise SettingsError(
                "there are sealed names, but no keys of users at all",
                why="they were sealed with keys that are kept elsewhere, or these are lost",
                fix="give all processes the same CLICKWELL_REDIS__URL, or the same CLICKWELL_PRIVACY__SHRED_KEYS",
            )
        keys = self._keys({name for _, name in left})
        for row, name in left:
            if not _open(row, keys.get(name)):
                row.user_id = name

    def _made(self, names: set[str]) -> "Mapping[str, AESGCM]":
        keys = self._keys(names)
        if missing := names - keys.keys():
            made = (time.time_ns() // 1_000_000).to_bytes(_TIME, "big")
            self.store.add(_MARKER, b"1")
            for name in missing:
                self.store.add(name, made + os.urandom(_KEY))
            keys |= self._keys(missing)
        return keys

    def _keys(self, names: Collection[str]) -> "dict[str, AESGCM]":
        """Return the keys that there are."""
        now = time.monotonic()
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.clear()
        known = {name: found for name in names if (found := self._remembered.get(name)) and found[1] > now}
        missing = [name for name in names if name not in known]
        for name, secret in zip(missing, self.store.get(missing), strict=True):
            if secret is not None:
                known[name] = self._remembered[name] = _cipher(secret[_TIME:]), now + REMEMBERED_SECONDS
        return {name: cipher for name, (cipher, _) in known.items()}


def store_of(settings: Settings) -> KeyStore:
    """Return the store of users' keys."""
    folder = settings.privacy.shred_keys
    return InRedis(settings) if folder is None else InFolder(folder)


def vault_of(settings: Settings) -> Vault:
    """Return what seals.

    Raises:
        SettingsError: the secret keys cannot be used.
        UsageError: what ciphers is not installed.
    """
    _require_cryptography()
    return Vault(store_of(settings), load_keys(settings, create=True).pseudonym)


def opener_of(settings: Settings) -> Callable[[Iterable[Names]], None] | None:
    """Return what puts sealed names back into rows; None when names are not sealed.

    Raises:
        UsageError: what deciphers is not installed.
    """
    if not settings.privacy.shred:
        return None
    _require_cryptography()
    return Vault(store_of(settings)).open_rows


def made_ms(secret: bytes) -> int:
    """Return when a key was made, epoch ms."""
    return int.from_bytes(secret[:_TIME], "big")


def _require_cryptography() -> None:
    if find_spec("cryptography") is None:
        raise UsageError("cryptography is not installed", fix="pip install 'clickwell[privacy]'")


def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # only those who seal have it

    return AESGCM(key)


def _encrypt(cipher: "AESGCM", text: str, field: str) -> str:
    nonce = os.urandom(_NONCE)
    return base64.urlsafe_b64encode(nonce + cipher.encrypt(nonce, text.encode(), field.encode())).decode().rstrip("=")


def _decrypt(cipher: "AESGCM", text: str, field: str) -> str:
    """Return what was sealed.

    Raises:
        InvalidTag: with another key, or not at all.
        ValueError: this was never sealed.
    """
    content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return cipher.decrypt(content[:_NONCE], content[_NONCE:], field.encode()).decode()


def _open(row: Names, cipher: "AESGCM | None") -> bool:
    """Open a row, unless the key is not the right one."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # as above

    if cipher is None:
        return False
    with suppress(InvalidTag, ValueError):
        if row.session_id is not None and row.session_id.startswith(SEAL):
            row.session_id = _decrypt(cipher, row.session_id[1:], "session_id")
        row.user_id = _decrypt(cipher, str(row.user_id).rpartition(SEAL)[2], "user_id")
        return True
    return False


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DependencyError(f"the users' keys cannot be used: {error}") from None
