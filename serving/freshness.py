"""Whether numbers are of now: how far the counters and the lake are behind, who is to blame, and what to do. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

DELAYED_MS = 10_000
"""Workers say every two seconds that they have everything; a few missed turns are a busy machine."""
STALE_MS = 60_000
"""As long as a watchdog lets a worker stand still before it ends it."""

State = Literal["live", "delayed", "stale", "absent"]


@dataclass(frozen=True, slots=True)
class LakeStanding:
    """How the lake stands.

    Attributes:
        lag: records of the log that it does not hold yet; None when that cannot be told.
        written_ms: when it was last written, epoch ms.
        behind_ms: since when it has been seen to lack some of them without being written; None when it lacks none.
    """

    lag: int | None
    written_ms: int
    behind_ms: int | None = None

    def after(self, before: "LakeStanding | None", now_ms: int) -> "LakeStanding":
        """Return the same with `behind_ms`, from what was seen before: a quiet hour leaves no lag behind."""
        if not self.lag:
            return replace(self, behind_ms=None)
        still = before is not None and before.behind_ms is not None and before.written_ms == self.written_ms
        return replace(self, behind_ms=before.behind_ms if before and still else now_ms)


@dataclass(frozen=True, slots=True)
class Freshness:
    """The verdict.

    Attributes:
        state: `live`; `delayed` by seconds; `stale`; `absent` when nobody has ever counted.
        as_of_ms: everything up to this time is in the numbers, epoch ms; None when they are live or absent.
        why: one sentence; empty when they are live.
        fix: a command that helps or says more.
    """

    state: State
    as_of_ms: int | None = None
    why: str = ""
    fix: str = ""


def judge(
    now_ms: int, workers: int, applied_ms: Mapping[str, int], lag: Mapping[str, int], lake: LakeStanding | None
) -> Freshness:
    """Return the verdict about what is furthest behind.

    Args:
        now_ms: the server's clock.
        workers: how many have reported within the last seconds.
        applied_ms: lane -> the time up to which every event is counted.
        lag: lane -> records that are not counted yet.
        lake: None when there is none, or when it does not answer.
    """
    if not applied_ms:
        return Freshness("absent", None, "No worker has ever counted here.", "clickwell worker")
    lane = min(applied_ms, key=lambda name: applied_ms[name])
    counters = _state(now_ms - applied_ms[lane])
    # A sink gathers events for some seconds before it writes them, so the lake is never a little late.
    if lake and lake.behind_ms is not None and now_ms - lake.behind_ms > STALE_MS and counters != "stale":
        why = f"The lake is not being written, {lake.lag:,} events wait for it."
        return Freshness("stale", lake.written_ms, why, "clickwell sink")
    if counters == "live":
        return Freshness("live")
    if not workers:
        return Freshness(counters, applied_ms[lane], "No worker is counting.", "clickwell worker")
    waiting = f", {lag[lane]:,} events are still to be counted" if lag.get(lane) else ""
    return Freshness(counters, applied_ms[lane], f"The lane {lane} is behind{waiting}.", "clickwell status")


def _state(age_ms: int) -> State:
    return "stale" if age_ms > STALE_MS else "delayed" if age_ms > DELAYED_MS else "live"
