"""What a user prefers, from what the user did and what is known about the documents. Free of I/O.

A document weighs `sum over signals of weight * 2 ** (-age / half-life)`. Each attribute of it, such as its brand, takes
that weight, divided among its values; the profile is the sum over all documents. How well a candidate fits is the mean
over the attributes of the cosine between the user's weights and the candidate's values, times `w / (w + prior)`, where
w is the weight of everything the user did: a number from -1 to 1 that is 0 for a user without a history.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from clickwell.clock import MS_PER_DAY
from clickwell.schemas.catalog import Attributes
from clickwell.serving.exclusion import Consumed
from clickwell.serving.snapshot import Reason
from clickwell.settings import ProfileSettings

# Beside the attributes of the catalogue, the document itself: what was liked once is liked again.
DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Match:
    """What one value of a candidate adds to how well it fits: negative if the user turned away from it."""

    attribute: str
    value: str
    fit: float


@dataclass(frozen=True)
class Profile:
    """A user's preferences.

    Attributes:
        user_id: whose.
        documents: weight of each document that the user did something with.
        attributes: attribute -> value -> weight.
        confidence: from 0, no history, towards 1.
        reason: why it may lack something; None when it does not.
        detail: the same as a sentence.
    """

    user_id: str
    documents: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    confidence: float = 0.0
    reason: Reason | None = None
    detail: str = ""

    def fit(self, feature_id: str, attributes: Attributes) -> tuple[float, list[Match]]:
        """Return how well a candidate fits, from -1 to 1, and what each of its values adds, the largest first."""
        if not self.confidence:
            return 0.0, []
        kinds = {DOCUMENT: self.documents, **self.attributes}
        own = {DOCUMENT: (feature_id,), **attributes}
        matches: list[Match] = []
        for kind, weights in kinds.items():
            values = own.get(kind, ())
            length = math.sqrt(math.fsum(weight * weight for weight in weights.values()) * len(values))
            matches += [
                Match(kind, value, self.confidence * weights[value] / length / len(kinds))
                for value in values
                if weights.get(value)
            ]
        matches.sort(key=lambda match: (-abs(match.fit), match.attribute, match.value))
        return math.fsum(match.fit for match in matches), matches


def profile_of(
    user_id: str,
    items: Iterable[Consumed],
    catalog: Mapping[str, Attributes],
    settings: ProfileSettings,
    now_ms: int,
) -> Profile:
    """Return the preferences that follow from a history; values and documents come heaviest first."""
    documents: dict[str, float] = {}
    total = 0.0
    for item in items:
        age_days = max(0, now_ms - item.timestamp) / MS_PER_DAY
        gain = settings.weights.get(item.interaction_type, 0.0) * 2 ** (-age_days / settings.half_life_days)
        documents[item.feature_id] = documents.get(item.feature_id, 0.0) + gain
        total += abs(gain)
    attributes: dict[str, dict[str, float]] = {}
    for feature_id, weight in documents.items():
        for name, values in catalog.get(feature_id, {}).items():
            kind = attributes.setdefault(name, {})
            for value in values:
                kind[value] = kind.get(value, 0.0) + weight / len(values)
    confidence = total / (total + settings.prior) if total else 0.0
    by_kind = {name: _heaviest_first(weights) for name, weights in sorted(attributes.items())}
    return Profile(user_id, _heaviest_first(documents), by_kind, confidence)


def factor_of(fit: float, strength: float) -> float:
    """Return the factor for a candidate's score: `1 + strength * fit`, or its mirror image below 0; always above 0."""
    return 1 + strength * fit if fit >= 0 else 1 / (1 - strength * fit)


def _heaviest_first(weights: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(weights.items(), key=lambda item: (-item[1], item[0])))
