"""What is kept in Redis for each person: out of it goes what is erased."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import redis

from clickwell.erasures import Request
from clickwell.redis_client import redis_errors
from clickwell.schemas.controls import Subject
from clickwell.schemas.keys import history_key
from clickwell.schemas.marks import Keys

# cw1:{sNNN}:h:<signal>:<user_id>, a sorted set of documents by the time of the last event.
HISTORY_KEYS = "cw1:{s???}:h:*"
_SCAN_COUNT = 5000


def history_user(key: bytes) -> str:
    """Return the user whose history a key is."""
    return key.decode(errors="replace").split(":", 4)[4]


def people_of(requests: Iterable[tuple[Request, Subject]], keys: Keys) -> dict[str, list[Subject]]:
    """Return every name of the users of some requests, each with what is to go of it."""
    people: dict[str, list[Subject]] = {}
    for request, subject in requests:
        if subject.kind == "user_id":
            for name in keys.names(request.erasure.subject[1]):
                people.setdefault(name, []).append(subject)
    return people


def history_until(subject: Subject) -> int:
    """Return the event time before which an erasure takes a person's entries."""
    return subject.requested_ms if subject.until is None else min(subject.until, subject.requested_ms)


def hide(client: redis.Redis, people: Mapping[str, Sequence[Subject]], signals: Collection[str]) -> Counter[str]:
    """Remove the same as `forget` at once and cheaply; return how much by erasure id.

    Only what is kept of these signals goes, and those who write the histories may still add some of it: `forget` is
    needed afterwards.

    Args:
        client: of the server.
        people: every name that a user has had, with the erasures.
        signals: that are kept.

    Raises:
        RedisError: the server is away.
    """
    pipe = client.pipeline(transaction=False)
    asked = [(name, each, signal) for name, subjects in people.items() for each in subjects for signal in signals]
    for name, subject, signal in asked:
        pipe.zremrangebyscore(history_key(name, signal), *_span(subject))
    gone: Counter[str] = Counter()
    with redis_errors():
        for (_, subject, _), count in zip(asked, pipe.execute() if asked else (), strict=True):
            gone[subject.erasure_id] += count
    return gone


def forget(client: redis.Redis, people: Mapping[str, Sequence[Subject]]) -> Counter[str]:
    """Remove what happened before the requests from the histories of these users; return how much by erasure id.

    Safe when those who write the histories have passed the fences: nothing that is erased can be added again.

    Args:
        client: of the server.
        people: every name that a user has had, with the erasures.

    Raises:
        RedisError: the server is away.
    """
    gone: Counter[str] = Counter()
    with redis_errors():
        for key in client.scan_iter(match=HISTORY_KEYS, count=_SCAN_COUNT) if people else ():
            for subject in people.get(history_user(key), ()):
                gone[subject.erasure_id] += client.zremrangebyscore(key, *_span(subject))
    return gone


def _span(subject: Subject) -> tuple[int | str, str]:
    """Return the times of a person's entries that an erasure takes, as Redis wants them."""
    return "-inf" if subject.since is None else subject.since, f"({history_until(subject)}"
