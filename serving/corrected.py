"""Boosts by corrected popularity: how likely a document is clicked by one who looks at it, its place taken out.

```python
stage = {"signal": "corrected_ctr", "retriever_id": "shop", "query": "trail shoe", "boost_multiplier": 1.3}
rerank(results, reader, stage)
```
The numbers are published by `clickwell corrected --publish` and fade from Redis when nobody renews them; documents
without one get no boost. The lower bound counts unless the stage says otherwise: a document has to earn its boost by
evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clickwell.schemas.keys import corrected_key, normal_query
from clickwell.serving.clients import Command, Steps
from clickwell.serving.formula import BoostByCorrectedCtr
from clickwell.serving.reports import Reports
from clickwell.serving.snapshot import Reason


@dataclass(frozen=True, slots=True)
class CorrectedBoost:
    """One document's boost.

    Attributes:
        feature_id: the document.
        boost: factor for its score, 1.0 is neutral.
        estimate, low: corrected CTR and its lower bound; None when none was published.
    """

    feature_id: str
    boost: float
    estimate: float | None
    low: float | None


@dataclass(frozen=True)
class CorrectedBoosts:
    """Boosts of a list of documents, in its order.

    Attributes:
        feature_ids: the documents.
        estimates, lows: float64 of shape (documents,), NaN where nothing was published.
        values: boosts, of the same shape.
        reason: why every boost is 1.0; None otherwise.
        detail: the same as a sentence.
    """

    feature_ids: Sequence[str]
    estimates: NDArray[np.float64]
    lows: NDArray[np.float64]
    values: NDArray[np.float64]
    reason: Reason | None = None
    detail: str = ""

    def __getitem__(self, row: int) -> CorrectedBoost:
        """Return the boost of the document at a place of the list."""
        known = not np.isnan(self.estimates[row])
        estimate, low = (float(self.estimates[row]), float(self.lows[row])) if known else (None, None)
        return CorrectedBoost(self.feature_ids[row], float(self.values[row]), estimate, low)

    def why(self, row: int) -> str:
        """Return one document's number as people say it."""
        one = self[row]
        if one.estimate is None:
            return self.detail or "no corrected CTR is known"
        return f"corrected CTR {one.estimate:.1%}, at least {one.low:.1%}"


def read(feature_ids: Sequence[str], stage: BoostByCorrectedCtr, reports: Reports) -> Steps[CorrectedBoosts]:
    """Yield the command of one round trip, take its reply or the error, and return the boosts."""
    reports.count("reads")
    nothing = np.full(len(feature_ids), np.nan)
    neutral = np.ones(len(feature_ids))
    if not feature_ids:
        return CorrectedBoosts(feature_ids, nothing, nothing, neutral)
    query = None if stage.query is None else normal_query(stage.query)
    # A lone surrogate cannot stand in an event, so nothing is known of such a document.
    fields = [document.encode(errors="backslashreplace") for document in feature_ids]
    command: Command = ("HMGET", corrected_key(stage.retriever_id, query), *fields)
    replies = yield [command]
    if isinstance(replies, Exception):
        reason, detail = Reason.UNAVAILABLE, f"Redis: {replies}"
    else:
        try:
            pairs = [(b"nan", b"nan") if value is None else value.split() for value in replies[0]]
            numbers = np.array([(float(estimate), float(low)) for estimate, low in pairs])
        except (ValueError, TypeError, AttributeError) as error:
            reason, detail = Reason.UNREADABLE, f"the corrected CTR is not of this version: {error}"
        else:
            used = np.nan_to_num(numbers[:, 1 if stage.bound == "low" else 0])
            cap = float(used.max()) if stage.cap is None else stage.cap
            share = np.minimum(used / cap, 1.0) if cap > 0 else np.zeros(len(used))
            boosts = 1 + (stage.boost_multiplier - 1) * share
            return CorrectedBoosts(feature_ids, numbers[:, 0], numbers[:, 1], boosts)
    reports.problem(reason, detail)
    return CorrectedBoosts(feature_ids, nothing, nothing, neutral, reason, detail)
