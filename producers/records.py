"""Events as Kafka records, and records as the bytes that the spool keeps."""

import struct
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from clickwell.schemas.erasure import Erasure
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.topics import ERASURES, INTERACTIONS, SEARCHES
from clickwell.schemas.wire import new_id, parse_object

Kind = Literal["interaction", "search", "erasure"]

TOPIC_OF: dict[Kind, str] = {"interaction": INTERACTIONS.name, "search": SEARCHES.name, "erasure": ERASURES.name}
ID_OF: dict[Kind, str] = {"interaction": "interaction_id", "search": "execution_id", "erasure": "erasure_id"}
KIND_OF: dict[str, Kind] = {topic: kind for kind, topic in TOPIC_OF.items()}

# Their places stand in spools: new ones at the end.
_KINDS: tuple[Kind, ...] = ("interaction", "search", "erasure")
# kind, bytes of the key, bytes of the id; then key, id and value one after another.
_HEAD = struct.Struct("<BHH")


class Record(NamedTuple):
    """One event, ready for Kafka: its id goes into the headers, the key picks the partition."""

    kind: Kind
    id: str
    key: bytes
    value: bytes

    def pack(self) -> bytes:
        """Return the record as one string of bytes."""
        event_id = self.id.encode()
        head = _HEAD.pack(_KINDS.index(self.kind), len(self.key), len(event_id))
        return b"".join((head, self.key, event_id, self.value))


def unpack(data: bytes) -> Record:
    """Return the record that `Record.pack` turned into `data`."""
    kind, key_size, id_size = _HEAD.unpack_from(data)
    id_at = _HEAD.size + key_size
    value_at = id_at + id_size
    return Record(_KINDS[kind], data[id_at:value_at].decode(), data[_HEAD.size : id_at], data[value_at:])


def interaction_record(interaction: Interaction | Mapping[str, Any], now_ms: int) -> Record:
    """Return the record of an interaction; an absent id is minted, an absent time becomes `now_ms`.

    An `Interaction` was checked when it was made and is not checked again, a mapping is.

    Args:
        interaction: the event.
        now_ms: epoch ms.

    Raises:
        DecodeError: the mapping is not a valid interaction.
    """
    if not isinstance(interaction, Interaction):
        interaction = parse_object(Interaction, dict(interaction), received_ms=now_ms)
    missing: dict[str, Any] = {}
    if interaction.interaction_id is None:
        missing["interaction_id"] = new_id()
    if interaction.timestamp is None:
        missing["timestamp"] = now_ms
    if missing:
        interaction = interaction.model_copy(update=missing)
    assert interaction.interaction_id is not None
    return Record("interaction", interaction.interaction_id, interaction.feature_id.encode(), interaction.to_bytes())


def search_record(search: Search | Mapping[str, Any], now_ms: int) -> Record:
    """Return the record of a search; an absent time becomes `now_ms`.

    Args:
        search: the event.
        now_ms: epoch ms.

    Raises:
        DecodeError: the mapping is not a valid search.
    """
    if not isinstance(search, Search):
        search = parse_object(Search, dict(search), received_ms=now_ms)
    if search.timestamp is None:
        search = search.model_copy(update={"timestamp": now_ms})
    return Record("search", search.execution_id, search.execution_id.encode(), search.to_bytes())


def erasure_record(erasure: Erasure) -> Record:
    """Return the record of a request to forget."""
    return Record("erasure", erasure.erasure_id, erasure.subject[1].encode(), erasure.to_bytes())
