"""What is still to be applied, worked out from ledgers and targets without any server."""

from clickwell.serving.progress import behind_of

DONE = {"popularity/A/0": 10, "popularity/A/1": 7, "engagement/A/0": 3, "engagement/B/0": 5}


def test_every_lane_that_consumes_a_topic_is_asked():
    """Each lane with a field of the topic has its own distance to the target; being ahead is no distance."""
    assert behind_of(DONE, {"A": {0: 9}}) == {"popularity/A/0": 0, "engagement/A/0": 6}


def test_a_partition_that_a_lane_has_never_seen_is_wholly_behind():
    """A lane that consumes the topic but has no field of a partition has applied nothing of it."""
    assert behind_of(DONE, {"A": {1: 8}}) == {"popularity/A/1": 1, "engagement/A/1": 8}


def test_a_topic_that_nobody_consumes_is_not_waited_for():
    """Topics without any lane have nothing behind, nor have topics that were created anew under another id."""
    assert behind_of(DONE, {"C": {0: 100}}) == {}
    assert behind_of({}, {"A": {0: 1}}) == {}
