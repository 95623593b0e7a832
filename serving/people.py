"""What readers of users ask Redis and make of the answers, without the asking."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clickwell.clock import MS_PER_DAY, Clock
from clickwell.errors import UsageError
from clickwell.schemas import catalog
from clickwell.schemas.catalog import Attributes
from clickwell.schemas.keys import FRESH, catalog_key, history_key, shard_of
from clickwell.serving.clients import Steps
from clickwell.serving.exclusion import Consumption
from clickwell.serving.memory import applied_ms
from clickwell.serving.profile import Profile, profile_of
from clickwell.serving.reports import ReaderStats, Reports
from clickwell.serving.snapshot import Reason
from clickwell.settings import Settings

LANE = b"history/"
NEGATIVE_FEEDBACK = "negative_feedback"


class People:
    """A reader's memory and judgement. Threads may share it; nothing in it survives or breaks a fork.

    Args:
        settings: of the history and of profiles.
        clock: tells how old things are.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._reports = Reports("nothing is known of users")
        self._settings = settings
        self._clock = clock
        self._names_of = _names_of(settings)

    @property
    def stats(self) -> ReaderStats:
        """Counters since the reader was made."""
        return self._reports.stats

    def excluded(
        self, user_id: str, signals: Sequence[str] | None, days: float | None, *, negative_feedback: bool
    ) -> Steps[Consumption]:
        """Read what excludes a document from a user's results."""
        chosen = self._settings.history.consumed if signals is None else tuple(signals)
        also = (NEGATIVE_FEEDBACK,) if negative_feedback else ()
        return self.consumption(user_id, (*chosen, *also), days)

    def consumption(self, user_id: str, signals: Sequence[str] | None, days: float | None) -> Steps[Consumption]:
        """Read what a user did, in one round trip."""
        self._reports.count("reads")
        kept = self._settings.history
        asked = tuple(dict.fromkeys(kept.signals if signals is None else signals))
        now_ms = self._clock.now_ms()
        since_ms = now_ms - round(min(kept.days, kept.days if days is None else days) * MS_PER_DAY)
        # A lone surrogate cannot stand in an event, so such a user has no history, whatever its key is.
        user = user_id.encode(errors="backslashreplace").decode()
        window = ("+inf", since_ms, "WITHSCORES", "LIMIT", 0, kept.max_items)
        wanted = [(signal, name) for signal in asked for name in self._names_of(user)]
        lists = [("ZREVRANGEBYSCORE", history_key(name, signal), *window) for signal, name in wanted]
        replies = yield [("HGETALL", FRESH), *lists]
        if isinstance(replies, Exception):
            detail = f"Redis: {replies}"
            self._reports.problem(Reason.UNAVAILABLE, detail)
            return Consumption(user_id, (), (), (), since_ms, None, Reason.UNAVAILABLE, detail)
        fresh, *found = replies
        documents: list[str] = []
        done: list[str] = []
        times: list[float] = []
        for (signal, _), reply in zip(wanted, found, strict=True):
            members, scores = _columns(reply)
            documents += members
            done += [signal] * len(members)
            times += scores
        if len(wanted) > 1:
            order = sorted(range(len(times)), key=times.__getitem__, reverse=True)
            # Of what was done under several names the newest counts.
            first: dict[tuple[str, str], int] = {}
            for n in order:
                first.setdefault((documents[n], done[n]), n)
            documents = [documents[n] for n in first.values()]
            done = [done[n] for n in first.values()]
            times = [times[n] for n in first.values()]
        fresh_ms = applied_ms(fresh, LANE)
        reason, detail = self._judge(fresh_ms, now_ms)
        return Consumption(user_id, documents, done, times, since_ms, fresh_ms, reason, detail)

    def profile(self, user_id: str, candidates: Sequence[str] = ()) -> Steps[tuple[Profile, Mapping[str, Attributes]]]:
        """Read a user's preferences, and what is known about the candidates: one round trip without a history."""
        weighed = [name for name in self._settings.history.signals if self._settings.profile.weights.get(name)]
        consumption = yield from self.consumption(user_id, weighed, None)
        if not consumption:
            return Profile(user_id, reason=consumption.reason, detail=consumption.detail), {}
        attributes = yield from self._attributes({*consumption.document_ids, *candidates})
        found = profile_of(user_id, consumption, attributes, self._settings.profile, self._clock.now_ms())
        return found, attributes

    def _attributes(self, feature_ids: set[str]) -> Steps[Mapping[str, Attributes]]:
        by_shard: dict[int, list[str]] = {}
        for feature_id in sorted(feature_ids):
            text = feature_id.encode(errors="backslashreplace").decode()
            by_shard.setdefault(shard_of(text), []).append(text)
        replies = yield [("HMGET", catalog_key(shard), *names) for shard, names in by_shard.items()]
        if isinstance(replies, Exception):
            self._reports.problem(Reason.UNAVAILABLE, f"Redis: {replies}")
            return {}
        found: dict[str, Attributes] = {}
        for names, values in zip(by_shard.values(), replies, strict=True):
            for name, value in zip(names, values, strict=True):
                if value is not None:
                    try:
                        found[name] = catalog.decode(value)
                    except ValueError as error:
                        self._reports.problem(Reason.UNREADABLE, f"catalogue entry of {name}: {error}")
        return found

    def _judge(self, fresh_ms: int | None, now_ms: int) -> tuple[Reason | None, str]:
        """Say why what was read may lack something."""
        if fresh_ms is None:
            reason, detail = Reason.ABSENT, "no worker has reported that it remembers what users do"
        elif now_ms - fresh_ms > self._settings.boosts.max_age_seconds * 1000:
            age = (now_ms - fresh_ms) / 1000
            reason, detail = Reason.STALE, f"the history is {age:,.0f} s behind; is a worker running?"
        else:
            return None, ""
        self._reports.problem(reason, detail)
        return reason, detail


def _names_of(settings: Settings) -> Callable[[str], Sequence[str]]:
    """Return what gives the names under which a user's events may stand.

    Raises:
        SettingsError: the secret keys cannot be used.
        UsageError: what they need is not installed.
    """
    if not settings.privacy.pseudonyms:
        return lambda user_id: (user_id,)
    try:
        from clickwell.privacy import load_keys  # noqa: PLC0415  # a base install lacks what it needs
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[privacy]'") from None
    return load_keys(settings, create=True).names


def _columns(reply: Sequence[Any]) -> tuple[list[str], list[float]]:
    """Return members and scores; the older protocol sends them in one flat list."""
    if not reply:
        return [], []
    if isinstance(reply[0], (list, tuple)):
        members, scores = [pair[0] for pair in reply], [pair[1] for pair in reply]
    else:
        members, scores = list(reply[::2]), list(map(float, reply[1::2]))
    # No document's id holds a NUL, and decoding all at once costs a tenth.
    return b"\0".join(members).decode(errors="replace").split("\0"), scores
