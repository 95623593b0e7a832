"""The history lane: what each user did with which document, and when last. Pure, but for taking it back.

Of a document only the newest time of each signal is kept, and the newest documents of each user: both are maxima, so
what Redis holds does not depend on the order of events, nor on how often one is applied. That is why this lane needs no
remembered ids, and why its keys outlive generations: a rebuild adds what the log has and loses nothing that it has not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from clickwell.clock import MS_PER_DAY
from clickwell.redis_client import redis_errors
from clickwell.schemas.controls import Retraction
from clickwell.schemas.decode import Batch, Row
from clickwell.schemas.keys import SHARDS, HashMap, history_key
from clickwell.schemas.topics import INTERACTIONS
from clickwell.settings import HistorySettings
from clickwell.stream_processors.lane import Arg
from clickwell.stream_processors.meanings import Meanings

# `signal:user` -> document -> newest time, epoch ms.
Share = dict[str, dict[str, int]]


@dataclass
class Work:
    """What some records mean for every shard of users, and what of them is not remembered.

    Attributes:
        shards: work of the shards that are touched.
        late: events older than the history when they were received.
        duplicates: always 0: a repeat changes nothing.
        counted: events that are remembered.
    """

    shards: dict[int, Share] = field(default_factory=dict)
    late: int = 0
    duplicates: int = 0
    counted: int = 0


class HistoryLane:
    """Turns batches into arguments of the `clickwell1_history` function; events without a user are passed over.

    Args:
        settings: signals, days and items that are kept.
        long_view_ms: a click with at least this duration is a long_view too.
    """

    name = "history"
    function = "clickwell1_history"
    topics: tuple[str, ...] = (INTERACTIONS.name,)
    # Other settings only keep more or less from now on.
    shape: Mapping[str, Any] = {}

    def __init__(self, settings: HistorySettings, *, long_view_ms: int) -> None:
        self.reach_ms = settings.days * MS_PER_DAY
        self._limits = limits_of(settings)
        self._hashes = HashMap()
        self._kept = Meanings(lambda signals: tuple(s for s in settings.signals if s in signals), long_view_ms)

    def begin(self, topic: str, partition: int) -> Work:  # noqa: ARG002  # it reads one topic only, and knows events by their ids
        """Return work without records."""
        return Work()

    def add(self, work: Work, batch: Batch[Row], done: Sequence[int] | None) -> None:
        """Group rows by their users' shards."""
        hashes = self._hashes.of({row.user_id for row in batch.rows if row.user_id is not None})
        shares, reach_ms = work.shards, self.reach_ms
        for i, signals in enumerate(self._kept.of(batch.rows)):
            row = batch.rows[i]
            user, document, at = row.user_id, row.feature_id, batch.times[i]
            if user is None or not signals:
                continue
            shard = hashes[user] % SHARDS
            if done is not None and batch.offsets[i] < done[shard]:
                continue
            if at < batch.received[i] - reach_ms:
                work.late += 1
                continue
            share = shares.get(shard)
            if share is None:
                share = shares[shard] = {}
            for signal in signals:
                name = f"{signal}:{user}"
                times = share.get(name)
                if times is None:
                    share[name] = {document: at}
                elif times.get(document, 0) < at:
                    times[document] = at
            work.counted += 1

    def take_back(self, work: Work, offset: int, retraction: Retraction, done: Sequence[int] | None) -> None:
        """Nothing: the eraser removes a person's own entries."""

    def finish(self, work: Work) -> None:
        """Nothing is left to do."""

    def amend(self, work: Work, shard: int, known: Sequence[Any]) -> None:
        """Never asked for: no ids are remembered."""

    def arguments(self, share: Share | None) -> list[Arg]:
        """Return the function's arguments after the offsets and the bucket; None changes the offsets only."""
        args: list[Arg] = [b"", *self._limits]
        for name, times in (share or {}).items():
            args += (name, len(times))
            for document, at in times.items():
                args += (at, document)
        return args


def limits_of(settings: HistorySettings) -> list[Arg]:
    """Return what the functions in Redis have to know of the settings."""
    return [settings.days * MS_PER_DAY, settings.max_items]


Entry = tuple[str, str, str]
"""User, signal and document."""


def retract(client: redis.Redis, entries: Mapping[Entry, tuple[int, int | None]]) -> list[bool]:
    """Take events out of histories; return for each entry whether that changed anything. Safe to repeat.

    Args:
        client: of a server with the function library.
        entries: entry -> when the newest erased event happened, and the newest one that remains, epoch ms; None if
            there is none.

    Raises:
        RedisError: Redis is away.
    """
    pipe = client.pipeline(transaction=False)
    for (user_id, signal, feature_id), (erased_ms, left_ms) in entries.items():
        left = "" if left_ms is None else left_ms
        pipe.fcall("clickwell1_history_retract", 1, history_key(user_id, signal), feature_id, erased_ms, left)
    with redis_errors():
        return [bool(changed) for changed in pipe.execute()] if entries else []
