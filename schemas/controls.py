"""Records that clickwell itself writes between the events of a topic, so that an erasure is part of the log.

A *fence* stands in every partition: what lies before it was counted and stored, and is taken back by retractions; what
comes after it and belongs to a subject is left out by everybody. A *retraction* takes one event back, in the partition
of that event. Neither names a person: subjects are marks (see `clickwell.schemas.marks`), and a retraction has what the
counters need and no more.

No event can be mistaken for one: they have no `feature_id`, so nothing that checks events lets them pass.
"""

import msgspec

# What each begins with: msgspec writes the tag first.
PREFIX = b'{"clickwell":'


class Subject(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose events an erasure takes: those with a marked value, received or happened before the request.

    Attributes:
        erasure_id: of the request.
        kind: the field that names the subject: interaction_id, user_id, session_id or feature_id.
        key: id of the key of the marks.
        marks: of the value, and for a user of every pseudonym.
        requested_ms: when the broker received the request, epoch ms.
        since: start of the range of event times, included; None means the beginning.
        until: end of it, excluded; None means no end.
    """

    erasure_id: str
    kind: str
    key: str
    marks: tuple[str, ...]
    requested_ms: int
    since: int | None = None
    until: int | None = None

    @property
    def whole_user(self) -> bool:
        """Whether it takes all of a user's events, of whatever time before the request."""
        return self.kind == "user_id" and self.since is None and self.until is None

    def covers(self, time_ms: int, received_ms: int) -> bool:
        """Tell whether an event of the subject with these times is to go."""
        return (
            (self.since is None or time_ms >= self.since)
            and (self.until is None or time_ms < self.until)
            and (time_ms < self.requested_ms or received_ms < self.requested_ms)
        )


class Fence(msgspec.Struct, tag_field="clickwell", tag="fence.v1"):
    """Divides one partition for a batch of erasures; of several fences of one batch the first counts."""

    batch: str
    subjects: tuple[Subject, ...]


class Joined(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of the search that an erased event is about.

    Facts are as the engagement lane has them: rank (0 of the search's own event, 1 of an interaction), epoch ms,
    retriever, query, then position, document and bits of each result.

    Attributes:
        search: 64-bit id.
        first_ms: when the broker received the first event of the search, to the hour.
        last_ms: the same of the last.
        own: position, document and bits of each result that the erased event told of.
        left: facts without all that is erased; empty when nothing is left.
        told: facts with it, to the hour; in one retraction of each search, for when nobody remembers the search.
    """

    search: int
    first_ms: int
    last_ms: int
    own: list[int | str] = []
    left: list[int | str] = []
    told: list[int | str] = []


class Retraction(
    msgspec.Struct,
    tag_field="clickwell",
    tag="retraction.v1",
    omit_defaults=True,
    # Under its own name it would pass for an event.
    rename={"feature_id": "document"},
):
    """Takes back one event that was counted; a search has no document and no types, only what is joined.

    Attributes:
        batch: of erasures.
        offset: of the event, in this partition.
        received_ms: when the broker received the event, to the hour.
        timestamp: when it happened, to the hour.
        joined: the search that it is about; None when it says nothing of results.
    """

    batch: str
    offset: int
    received_ms: int
    timestamp: int
    feature_id: str = ""
    interaction_type: tuple[str, ...] = ()
    duration_ms: int | None = None
    joined: Joined | None = None


Control = Fence | Retraction
_decoder = msgspec.json.Decoder(Fence | Retraction)


def decode_control(value: bytes) -> Control:
    """Return the record that a value beginning with `PREFIX` is.

    Raises:
        msgspec.DecodeError: it is none.
    """
    control: Control = _decoder.decode(value)
    return control
