"""What a reader asks Redis and makes of the answers, without the asking: both readers are thin shells around this."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clickwell.clock import Clock
from clickwell.errors import LayoutError
from clickwell.schemas.keys import ACTIVE, FRESH, ring_keys
from clickwell.schemas.rings import Generation, Rings
from clickwell.serving.clients import Command, Steps
from clickwell.serving.reports import ReaderStats, Reports
from clickwell.serving.snapshot import Reason, Snapshot
from clickwell.settings import BoostSettings

# The counts come from this lane; what other lanes have applied says nothing about them.
LANE = b"popularity/"
# Documents whose keys and rings are remembered: about 30 MB of keys at most, far more than any list of candidates.
CAPACITY = 1 << 17
# A pointer that changes during this many reads in a row is not a rebuild but something broken.
FLIPS = 3


@dataclass
class _Known:
    """What is remembered about one generation; a new generation starts with a new one."""

    pointer: bytes
    generation: Generation
    keys: dict[str, bytes] = field(default_factory=dict)
    rings: dict[str, tuple[int, bytes | None]] = field(default_factory=dict)
    fresh_ms: int | None = None

    def keys_of(self, feature_ids: Sequence[str]) -> list[bytes]:
        """Return the documents' keys; making one costs ten times what remembering it does."""
        keys = self.keys
        try:
            return [keys[doc] for doc in feature_ids]
        except KeyError:
            new = [doc for doc in dict.fromkeys(feature_ids) if doc not in keys]
        # A lone surrogate cannot stand in an event, so such a document has no counts, whatever its key is.
        text = [doc.encode(errors="backslashreplace").decode() for doc in new]
        made = dict(zip(new, (key.encode() for key in ring_keys(text, self.generation.name)), strict=True))
        if len(keys) + len(new) > CAPACITY:
            # A new dictionary, because another thread may be reading the old one.
            keys = self.keys = {doc: keys[doc] for doc in feature_ids if doc in keys}
        keys.update(made)
        return [keys[doc] for doc in feature_ids]

    def remember(self, values: Mapping[str, bytes | None], now_ms: int) -> None:
        """Keep rings that were read at `now_ms`."""
        if len(self.rings) + len(values) > CAPACITY:
            self.rings.clear()
        self.rings.update((doc, (now_ms, value)) for doc, value in values.items())

    def remembered(self, feature_ids: Sequence[str], now_ms: int, max_age_ms: float) -> dict[str, bytes | None]:
        """Return the rings that were read less than `max_age_ms` ago."""
        entries = ((doc, self.rings.get(doc)) for doc in dict.fromkeys(feature_ids))
        return {doc: entry[1] for doc, entry in entries if entry and 0 <= now_ms - entry[0] < max_age_ms}


class Memory:
    """A reader's memory and judgement. Threads may share it; nothing in it survives or breaks a fork.

    Args:
        settings: limits of age and cache.
        clock: tells where the window ends.
    """

    def __init__(self, settings: BoostSettings, clock: Clock) -> None:
        self.reports = Reports("boosts are neutral")
        self._settings = settings
        self._clock = clock
        self._known: _Known | None = None

    @property
    def stats(self) -> ReaderStats:
        """Counters since the reader was made."""
        return self.reports.stats

    def read(self, feature_ids: Sequence[str]) -> Steps[Snapshot]:
        """Yield the commands of one round trip, take their replies or the error, and return what they say.

        The rings are asked for under the generation of the call before. Only if the pointer that comes back names
        another one, at the first call and after a rebuild, there is a second round trip.
        """
        self.reports.count("reads")
        now_ms = self._clock.now_ms()
        for _ in range(FLIPS):
            known = self._known
            cached = self._cached(known, feature_ids, now_ms)
            missing = [doc for doc in dict.fromkeys(feature_ids) if doc not in cached] if cached else feature_ids
            if known and cached and not missing:
                return self._judged(feature_ids, [cached[doc] for doc in feature_ids], known, now_ms)
            commands: list[Command] = [("GET", ACTIVE), ("HGETALL", FRESH)]
            if known and missing:
                commands.append(("MGET", *known.keys_of(missing)))
            replies = yield commands
            if isinstance(replies, Exception):
                return self._neutral(feature_ids, now_ms, Reason.UNAVAILABLE, f"Redis: {replies}")
            pointer, fresh, *rings = replies
            if pointer is None:
                self._known = None
                return self._neutral(feature_ids, now_ms, Reason.ABSENT, "no generation of counters is active yet")
            try:
                if known is None or known.pointer != pointer:
                    self._known = _Known(pointer, Generation.model_validate_json(pointer))
                    continue
                known.fresh_ms = applied_ms(fresh)
            except ValueError as error:
                detail = f"{ACTIVE} or {FRESH} is not of this version: {error}"
                return self._neutral(feature_ids, now_ms, Reason.UNREADABLE, detail)
            values = rings[0] if rings else []
            if self._settings.cache_seconds:
                read = dict(zip(missing, values, strict=True))
                known.remember(read, now_ms)
                cached |= read
                values = [cached[doc] for doc in feature_ids]
            return self._judged(feature_ids, values, known, now_ms)
        return self._neutral(feature_ids, now_ms, Reason.UNREADABLE, f"{ACTIVE} changes at every read")

    def _cached(self, known: _Known | None, feature_ids: Sequence[str], now_ms: int) -> dict[str, bytes | None]:
        if not known or not self._settings.cache_seconds:
            return {}
        values = known.remembered(feature_ids, now_ms, self._settings.cache_seconds * 1000)
        self.reports.count("cache_hits", len(values))
        return values

    def _judged(
        self, feature_ids: Sequence[str], values: Sequence[bytes | None], known: _Known, now_ms: int
    ) -> Snapshot:
        try:
            rings = Rings.of(values, known.generation.layout)
        except LayoutError as error:
            return self._neutral(feature_ids, now_ms, Reason.UNREADABLE, error.message)
        snapshot = Snapshot(feature_ids, rings, now_ms, known.fresh_ms)
        if snapshot.age_seconds is None:
            return self._neutral(feature_ids, now_ms, Reason.ABSENT, "no worker has reported that it counts")
        if snapshot.age_seconds > self._settings.max_age_seconds:
            detail = f"the counters are {snapshot.age_seconds:,.0f} s behind; is a worker running?"
            self.reports.problem(Reason.STALE, detail)
            return Snapshot(feature_ids, rings, now_ms, known.fresh_ms, Reason.STALE, detail)
        return snapshot

    def _neutral(self, feature_ids: Sequence[str], now_ms: int, reason: Reason, detail: str) -> Snapshot:
        self.reports.problem(reason, detail)
        return Snapshot.empty(feature_ids, now_ms, reason, detail)


def applied_ms(fields: Mapping[bytes, bytes], lane: bytes = LANE) -> int | None:
    """Return up to when a lane has applied every partition; None when no worker has ever reported."""
    return min((int(value) for name, value in fields.items() if name.startswith(lane)), default=None)
