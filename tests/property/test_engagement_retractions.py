"""Erased events are taken back out of the windows: what is left is what the other events say, whatever came when."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickwell.analytics.privacy.retractions import event_of, retractions
from clickwell.clock import MS_PER_HOUR
from clickwell.erasures import Batch
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.settings import Settings

from .test_engagement_function import DECODERS, NOW, Counters, click, events, maker, model, search, visible

pytestmark = pytest.mark.broker

BATCH = Batch("b1", 0, topic_ids={topic: topic for topic in DECODERS})


def topic_of(event):
    return SEARCHES.name if "results" in event else INTERACTIONS.name


class Retracting(Counters):
    """Counters that remember what they were fed, and are fed retractions of it."""

    def __init__(self, *args, **given):
        super().__init__(*args, **given)
        self.fed = []
        self.settings = Settings(engagement=given)

    def feed(self, topic, values, *, received_ms=NOW, taken_back=()):
        """Apply some events, and retractions after them, as one chunk."""
        self.fed += [(topic, self.ends[topic] + n, value, received_ms) for n, value in enumerate(values)]
        super().feed(topic, values, received_ms=received_ms, taken_back=taken_back)

    def retractions(self, erased, also=()):
        """Return what takes events back, by topic, when the lake has all that was fed and `also`."""
        rows = []
        ends = dict(self.ends)
        for topic, offset, event, received_ms in [*self.fed, *((topic, None, event, NOW) for topic, event in also)]:
            if offset is None:
                offset, ends[topic] = ends[topic], ends[topic] + 1  # noqa: PLW2901  # they are fed next
            row = dict.fromkeys(
                ("execution_id", "retriever_id", "position", "interaction_id", "duration_ms", "user_id")
            )
            at, received = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (event["timestamp"], received_ms))
            row |= event | {"timestamp": at, "received_at": received, "kafka_topic_id": topic, "kafka_partition": 0}
            row["query"] = event.get("query", event.get("metadata", {}).get("query"))
            rows.append(event_of(topic, row | {"kafka_offset": offset}, "e1" if event in erased else ""))
        found = {topic: [] for topic in DECODERS}
        for place, retraction in retractions(self.settings, BATCH, rows):
            found[place.topic].append(retraction)
        return found


@pytest.fixture(scope="module")
def counters(redis_server):
    """A function that makes empty counters."""
    with maker(Retracting, redis_server) as make:
        yield make


@settings(max_examples=150, deadline=None)
@given(events, st.sampled_from(["auto", "shown", "explicit", "implied"]), st.data())
def test_what_is_taken_back_was_never_counted(counters, found, source, data):
    """Whatever is erased, whichever partition is behind, and however retractions share chunks with their events."""
    erased = data.draw(st.lists(st.sampled_from(found), max_size=8)) if found else []
    order = data.draw(st.permutations(found)) if found else []
    here = counters(exposure=source)
    topics = data.draw(st.permutations(sorted(DECODERS)))
    first, second = ([event for event in order if topic_of(event) == topic] for topic in topics)
    together, cut = data.draw(st.booleans()), data.draw(st.integers(0, 14))
    if not together:
        here.feed(topics[0], first)
    else:
        here.feed(topics[0], first[:cut])
    # One partition has read its retractions before the other has read its events, which the lake has already.
    also = [(topics[0], event) for event in first[cut:]] if together else []
    found_back = here.retractions(erased, [*also, *((topics[1], event) for event in second)])
    here.feed(topics[0], first[cut:] if together else [], taken_back=found_back[topics[0]])
    if together:
        here.feed(topics[1], second, taken_back=found_back[topics[1]])
    else:
        here.feed(topics[1], second)
        here.feed(topics[1], [], taken_back=found_back[topics[1]])
    windows, top = model([event for event in order if event not in erased], source)
    assert here.windows() == visible(windows)
    assert here.windows(bys=["document"], at_top=True) == visible(top)


@settings(max_examples=60, deadline=None)
@given(events, st.data())
def test_searches_that_nobody_remembers_are_taken_back_too(counters, found, data):
    """When Redis has forgotten what was known of the searches, retractions say what was counted."""
    erased = data.draw(st.lists(st.sampled_from(found), max_size=8)) if found else []
    here = counters()
    here.feed_all(found)
    for key in here.run(_keys(here, "d:engagement:*")):
        here.run(here.client.delete(key))
    found_back = here.retractions(erased)
    for topic in data.draw(st.permutations(sorted(DECODERS))):
        here.feed(topic, [], taken_back=found_back[topic])
    windows, top = model([event for event in found if event not in erased])
    assert here.windows() == visible(windows)
    assert here.windows(bys=["document"], at_top=True) == visible(top)


async def _keys(here, pattern):
    return [key async for key in here.client.scan_iter(match=f"cw1:*:{here.generation.name}:{pattern}", count=10_000)]


def test_a_search_goes_on_without_what_was_erased(counters):
    """A click that comes after the retraction of another one counts in the window of its search, and that one not."""
    here = counters()
    here.feed(SEARCHES.name, [search("e", ["a", "b", "c"])])
    gone = click("e", "b", 1)
    here.feed(INTERACTIONS.name, [gone])
    here.feed(INTERACTIONS.name, [], taken_back=here.retractions([gone])[INTERACTIONS.name])
    here.feed(INTERACTIONS.name, [click("e", "c", 2)])
    rows = here.windows(widths=["day"], bys=["position"])
    assert {key: counts for (*_, key), counts in rows.items()} == {0: [1, 0, 1, 0], 1: [1, 0, 1, 0], 2: [1, 1, 0, 0]}


def test_an_old_retraction_finds_what_is_remembered(counters):
    """What was known of a search in a bucket of receipts that is long past, but not forgotten, is found and reduced."""
    here = counters()
    then = NOW - 40 * MS_PER_HOUR
    here.feed(SEARCHES.name, [search("e", ["a"], 41 * MS_PER_HOUR)], received_ms=then)
    gone = click("e", "a", 0, 40 * MS_PER_HOUR)
    here.feed(INTERACTIONS.name, [gone], received_ms=then)
    (retraction,) = here.retractions([gone])[INTERACTIONS.name]
    for _ in range(2):
        rows = here.windows(widths=["day"], bys=["position"])
        here.feed(INTERACTIONS.name, [], taken_back=[retraction])
    assert [*rows.values()] == [[1, 0, 0, 0]]
    assert here.windows(widths=["day"], bys=["position"]) == rows
