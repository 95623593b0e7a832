"""What is kept in Redis for each person: out of it goes what is erased."""

from collections import Counter
from collections.abc import Mapping, Sequence

import redis

from clickwell.redis_client import redis_errors
from clickwell.schemas.controls import Subject

# cw1:{sNNN}:h:<signal>:<user_id>, a sorted set of documents by the time of the last event.
HISTORY_KEYS = "cw1:{s???}:h:*"
_SCAN_COUNT = 5000


def history_user(key: bytes) -> str:
    """Return the user whose history a key is."""
    return key.decode(errors="replace").split(":", 4)[4]


def history_until(subject: Subject) -> int:
    """Return the event time before which an erasure takes a person's entries."""
    return subject.requested_ms if subject.until is None else min(subject.until, subject.requested_ms)


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
                since = "-inf" if subject.since is None else subject.since
                gone[subject.erasure_id] += client.zremrangebyscore(key, since, f"({history_until(subject)}")
    return gone
