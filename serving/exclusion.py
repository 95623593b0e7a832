"""What a user did, as a list, and as the filters that keep it out of a search. Free of I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from clickwell.serving.snapshot import Reason

FIELD = "document_id"


class Consumed(NamedTuple):
    """One document that a user did something with: what, and when last, in epoch ms."""

    feature_id: str
    interaction_type: str
    timestamp: int


@dataclass(frozen=True)
class Consumption(Sequence[Consumed]):
    """What a user did, newest first: one entry for each document and signal.

    Attributes:
        user_id: whose.
        documents: the document of each entry.
        signals: what was done with it.
        times: when last, epoch ms.
        since_ms: what was done before is left out, epoch ms.
        fresh_ms: every event up to this time is in, in epoch ms; None when that is unknown.
        reason: why it may lack something; None when it does not. Unless it is `STALE`, there are no entries then.
        detail: the same as a sentence.
    """

    user_id: str
    documents: Sequence[str]
    signals: Sequence[str]
    times: Sequence[float]
    since_ms: int
    fresh_ms: int | None = None
    reason: Reason | None = None
    detail: str = ""

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self.documents)

    def __getitem__(self, index: Any) -> Any:
        """Return the entry at a place."""
        return self.items[index]

    def __iter__(self) -> Iterator[Consumed]:
        """Go through the entries, newest first."""
        return iter(self.items)

    @cached_property
    def items(self) -> tuple[Consumed, ...]:
        """The entries; made when they are asked for: most who leave out what was consumed want its documents only."""
        return tuple(map(Consumed, self.documents, self.signals, map(int, self.times)))

    @property
    def document_ids(self) -> list[str]:
        """The documents, each once, the one used last first."""
        return list(dict.fromkeys(self.documents))


@dataclass(frozen=True)
class Exclusion:
    """The documents to leave out of a user's results, in the languages of search engines.

    Every form lets everything through when there is nothing to exclude.

    Attributes:
        consumption: why each of them is excluded.
        field: the engine's field that holds the document's id.
    """

    consumption: Consumption
    field: str = FIELD

    @property
    def document_ids(self) -> list[str]:
        """The documents, each once, the one used last first."""
        return self.consumption.document_ids

    @property
    def filter(self) -> dict[str, dict[str, list[str]]]:
        """The filter `{"document_id": {"$nin": [...]}}`, as MongoDB, Pinecone, Chroma and others take it."""
        return {self.field: {"$nin": self.document_ids}}

    def opensearch(self) -> dict[str, Any]:
        """Return a query for OpenSearch and Elasticsearch; put it beside others into a `bool`'s `filter`.

        The field has to be a keyword. `terms` takes 65,536 values unless the index says otherwise.
        """
        return {"bool": {"must_not": [{"terms": {self.field: self.document_ids}}]}}

    def qdrant(self) -> dict[str, Any]:
        """Return a filter for Qdrant, over a field of the payload."""
        return {"must_not": [{"key": self.field, "match": {"any": self.document_ids}}]}

    def sql(self) -> tuple[str, list[str]]:
        """Return a condition with a placeholder for each document, and the documents; the field's name stands as it is.

        Rows without an id pass, as they do in the other forms.
        """
        ids = self.document_ids
        if not ids:
            return "1 = 1", []
        return f"({self.field} IS NULL OR {self.field} NOT IN ({', '.join('?' * len(ids))}))", ids

    def as_dict(self) -> dict[str, Any]:
        """Return every form and how far it can be relied on, for JSON."""
        condition, parameters = self.sql()
        return {
            "user_id": self.consumption.user_id,
            "count": len(self.document_ids),
            "filter": self.filter,
            "opensearch": self.opensearch(),
            "qdrant": self.qdrant(),
            "sql": {"condition": condition, "parameters": parameters},
            "fresh_ms": self.consumption.fresh_ms,
            "reason": self.consumption.reason,
        }
