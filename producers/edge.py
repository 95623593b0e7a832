"""What leaves a process in place of a user's name: pseudonyms, or names that are sealed."""

from collections.abc import Callable, Iterable
from functools import partial

import msgspec
from pydantic_core import to_json

from clickwell.privacy import load_keys
from clickwell.producers.records import Record
from clickwell.schemas.wire import decode_object
from clickwell.sealing import vault_of
from clickwell.settings import Settings

Named = Callable[[str, str | None], tuple[str, str | None]]
"""user_id and session_id to what stands for them."""

# All but what is replaced stays as it is, byte for byte.
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str | None).decode
_ABSENT = msgspec.Raw(b"null")


class Edge:
    """Replaces the names in records.

    Args:
        named: what stands for a user and a session.
        prepare: fetches what `named` needs for some users, so that it does not wait.

    Raises:
        DependencyError: by both methods, the users' keys are out of reach.
    """

    def __init__(self, named: Named, prepare: Callable[[Iterable[str]], None] = lambda _: None) -> None:
        self._named = named
        self.prepare = prepare

    def apply(self, record: Record) -> Record:
        """Return a record without names; one that names nobody, and a request to forget, as it is."""
        # A name of a field may be written with escapes.
        if record.kind == "erasure" or not (b"user_id" in record.value or b"\\" in record.value):
            return record
        try:
            fields = _fields(record.value)
        except msgspec.DecodeError:
            # What the models accept, and msgspec does not: written anew as a whole.
            fields = {name: msgspec.Raw(to_json(each)) for name, each in decode_object(record.value).items()}
        user_id, session_id = (_text(fields.get(name, _ABSENT)) for name in ("user_id", "session_id"))
        if user_id is None:
            return record
        names = dict(zip(("user_id", "session_id"), self._named(user_id, session_id), strict=True))
        said = {name: msgspec.Raw(msgspec.json.encode(text)) for name, text in names.items() if name in fields}
        return record._replace(value=msgspec.json.encode(fields | said))


def edge_of(settings: Settings) -> Edge | None:
    """Return what replaces names as the settings say; None when they stay.

    Raises:
        SettingsError: the secret keys cannot be used.
    """
    if settings.privacy.shred:
        vault = vault_of(settings)
        return Edge(vault.seal, vault.prepare)
    if settings.privacy.pseudonyms:
        return Edge(partial(_pseudonyms, load_keys(settings, create=True).pseudonym))
    return None


def _pseudonyms(name_of: Callable[[str], str], user_id: str, session_id: str | None) -> tuple[str, str | None]:
    return name_of(user_id), session_id
