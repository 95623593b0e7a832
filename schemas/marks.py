"""How a person is named where the name itself must not stand: keyed marks and pseudonyms. Pure.

A mark names the subject of an erasure in fences, receipts and memory that outlives the events. A pseudonym replaces the
user_id of an event at the edge. Both are HMAC-SHA256 under a secret key, in domains of their own, so that neither tells
anything without the key, and nobody can match one with the other.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import xxhash

# 128 bits: two of a billion subjects share a mark with a chance of 1e-21.
_MARK_BYTES = 16
# Before the mark stands a hash that costs a tenth of it, seeded by the key: 1 in 4 billion values passes it by chance.
HINT_DIGITS = 8
_HINTS = 16**HINT_DIGITS


# Begins a sealed user_id, and stands between the pseudonym and what is sealed: see `clickwell.sealing`.
SEAL = "~"


def sealed_name(user_id: str) -> str | None:
    """Return the pseudonym in a sealed user_id; None when it is not sealed."""
    before, _, rest = user_id.partition(SEAL)
    name, seal, _ = rest.partition(SEAL)
    return name if not before and seal else None


class UnknownKeyError(Exception):
    """A mark was made with a key that is not among those at hand."""


class Keys:
    """The secret keys of a deployment, by id. The last one is used, the others are still understood.

    Args:
        secrets: key id -> secret of 16 bytes or more. Ids are shown; they hold letters, digits, `-` and `_`.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._secrets = dict(secrets)
        self._seeds = {
            name: int.from_bytes(hashlib.sha256(b"clickwell hint\0" + secret).digest()[:8], "little")
            for name, secret in secrets.items()
        }

    @property
    def current(self) -> str:
        """Id of the key that new marks and pseudonyms are made with."""
        return next(reversed(self._secrets))

    @property
    def ids(self) -> list[str]:
        """Ids of all keys."""
        return list(self._secrets)

    def hint(self, kind: str, value: str, key: str) -> str:
        """Return the beginning of a mark, which is cheap: most values differ from a mark's here already."""
        digest = xxhash.xxh3_64_intdigest(f"{kind}\0{value}".encode(), self._seed(key))
        return f"{digest % _HINTS:0{HINT_DIGITS}x}"

    def mark(self, kind: str, value: str, key: str | None = None) -> str:
        """Return the mark of a value: 40 hexadecimal digits.

        Args:
            kind: which field the value stands in, such as `user_id`.
            value: the value.
            key: id of the key; the current one when None.

        Raises:
            UnknownKeyError: there is no such key.
        """
        key = key or self.current
        return self.hint(kind, value, key) + self._hmac(key, f"mark\0{kind}\0{value}").hex()

    def pseudonym(self, user_id: str, key: str | None = None) -> str:
        """Return what stands for a user: `key id.` and 22 characters; the same for the same user and key."""
        key = key or self.current
        digest = self._hmac(key, f"pseudonym\0{user_id}")
        return f"{key}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    def names(self, user_id: str) -> list[str]:
        """Return every name under which a user's events may have come: the user_id and its pseudonym under each key."""
        return [user_id, *(self.pseudonym(user_id, key) for key in self._secrets)]

    def _seed(self, key: str) -> int:
        try:
            return self._seeds[key]
        except KeyError:
            raise UnknownKeyError(key) from None

    def _hmac(self, key: str, text: str) -> bytes:
        if key not in self._secrets:
            raise UnknownKeyError(key)
        return hmac.digest(self._secrets[key], text.encode(), "sha256")[:_MARK_BYTES]
