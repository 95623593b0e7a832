"""The Kafka topics: names, keys, who writes and who reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One topic.

    Attributes:
        name: dots between words, version last; never mixed with underscores, which Kafka's metrics fold together.
        key: the field whose murmur2 hash picks the partition.
        keeps_events: its retention follows the settings' `retention_days`, and the broker stamps receipt times on it.
    """

    name: str
    key: str
    keeps_events: bool = True


INTERACTIONS = Topic("interactions.v1", "feature_id")
SEARCHES = Topic("searches.v1", "execution_id")
ERASURES = Topic("erasures.v1", "subject")
DEAD_LETTERS = Topic("dead-letters.v1", "topic/partition/offset")

TOPICS = (INTERACTIONS, SEARCHES, ERASURES, DEAD_LETTERS)
