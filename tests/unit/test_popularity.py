"""The popularity lane against a model that looks at one row after the other and keeps plain dictionaries."""

import struct
from collections import Counter

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.schemas.decode import Batch, Details, Row
from clickwell.schemas.keys import SHARDS, murmur2, shard_of
from clickwell.settings import PopularitySettings
from clickwell.stream_processors.popularity import PopularityLane

NOW = 1_762_000_000_000
DOCUMENTS = [f"doc-{n}" for n in range(6)] + ["日本", "a b", "x" * 512]

settings = st.builds(
    PopularitySettings,
    signals=st.sampled_from([("click", "long_view", "add_to_cart", "purchase"), ("skip",), ("long_view", "click")]),
    slot_hours=st.sampled_from([1, 6, 24]),
    window_days=st.integers(1, 3),
    long_view_ms=st.sampled_from([1, 5000, 30_000]),
    trending_half_life_hours=st.sampled_from([1, 24]),
)
names = st.sampled_from(["click", "long_view", "add_to_cart", "purchase", "skip", "view", "return_to_results", "own"])
rows = st.builds(
    Row,
    feature_id=st.sampled_from(DOCUMENTS),
    interaction_type=st.lists(names, min_size=1, max_size=4).map(tuple),
    interaction_id=st.none() | st.sampled_from(["a", "b", "c"]) | st.uuids().map(str),
    metadata=st.none()
    | st.builds(Details, duration_ms=st.none() | st.sampled_from([0, 4999, 5000, 9999, 10_000, 29_999, 30_000, 2**53])),
)
ages = st.sampled_from([-1, 0, 1, MS_PER_HOUR, 6 * MS_PER_HOUR, MS_PER_DAY, 2 * MS_PER_DAY, 3 * MS_PER_DAY + 1])


@st.composite
def batches(draw):
    """A batch of rows with offsets that grow, now and then leaving some out, all received about now."""
    found = draw(st.lists(rows, max_size=25))
    batch = Batch(rows=found)
    offset = 100
    for _ in found:
        offset += draw(st.integers(1, 3))
        batch.offsets.append(offset)
        batch.received.append(NOW + draw(st.integers(-MS_PER_HOUR, MS_PER_HOUR)))
        batch.times.append(batch.received[-1] - draw(ages) - draw(st.integers(-5, 5)))
    return batch


def meaning(row, settings):
    """The signals of one row that have a counter."""
    found = set(row.interaction_type)
    duration = row.metadata.duration_ms if row.metadata else None
    if "click" in found and duration is not None:
        if duration >= settings.long_view_ms:
            found.add("long_view")
        elif duration < 10_000:
            found.add("return_to_results")
    return found & set(settings.signals)


def recount(batch, settings, done=None, seen=()):
    """Counts per (document, signal, hour); how many rows are late, repeated, counted; and the ids that count."""
    counts, ids, tally = Counter(), set(seen), Counter(late=0, duplicates=0, counted=0)
    for offset, received, at, row in zip(batch.offsets, batch.received, batch.times, batch.rows, strict=True):
        signals = meaning(row, settings)
        if not signals or (done and offset < done[shard_of(row.feature_id)]):
            continue
        oldest = received // settings.slot_ms - settings.window_days * 24 // settings.slot_hours
        if at // settings.slot_ms < oldest:
            tally["late"] += 1
            continue
        key = row.interaction_id, row.feature_id
        if row.interaction_id is not None and key in ids:
            tally["duplicates"] += 1
            continue
        ids.add(key)
        tally["counted"] += 1
        counts.update((row.feature_id, signal, at // MS_PER_HOUR) for signal in signals)
    return counts, tally


def unpacked(work, settings):
    """The same from the lane's work."""
    counts = Counter()
    for shard, share in work.shards.items():
        for hour, documents in share.counts.items():
            assert documents, "an hour without documents"
            for document, packed in documents.items():
                assert shard_of(document) == shard
                assert packed, "a document that gains nothing"
                for bit, signal in enumerate(settings.signals):
                    counts[document, signal, hour] += packed >> 16 * bit & 0xFFFF
    return +counts


def work_of(lane, batches, done=None):
    """The lane's work for batches, one after the other as the engine hands them over."""
    work = lane.begin("interactions.v1", 0)
    for batch in batches:
        if batch.rows:
            lane.add(work, batch, done)
    lane.finish(work)
    return work


def split(batch):
    """Return the same rows in two batches: where one ends must not matter."""
    half = len(batch.rows) // 2
    names = ("offsets", "received", "times", "rows")
    return [Batch(**{name: getattr(batch, name)[part] for name in names}) for part in (slice(half), slice(half, None))]


def tally_of(work):
    return {"late": work.late, "duplicates": work.duplicates, "counted": work.counted}


@given(settings, batches(), st.none() | st.lists(st.integers(100, 160), min_size=SHARDS, max_size=SHARDS))
def test_work_equals_the_model(settings, batch, done):
    """Every row counts for its signals, document and hour, unless applied before, late, or seen in the batch."""
    work = work_of(PopularityLane(settings), split(batch), done)
    counts, tally = recount(batch, settings, done)
    assert unpacked(work, settings) == counts
    assert tally_of(work) == tally


@given(settings, batches(), st.data())
def test_dropped_rows_are_as_if_they_had_not_come(settings, batch, data):
    """Taking out the ids that Redis has seen leaves what a batch without those rows would have given."""
    lane = PopularityLane(settings)
    work = work_of(lane, split(batch))
    pairs = [(row.interaction_id, row.feature_id) for row in batch.rows if row.interaction_id is not None]
    names = {
        xxhash.xxh3_64_digest(name.encode(), murmur2(document.encode())): (name, document) for name, document in pairs
    }
    seen = set()
    for shard, share in work.shards.items():
        repeated = data.draw(st.lists(st.integers(0, len(share.ids) - 1), unique=True) if share.ids else st.just([]))
        seen |= {names[share.ids[index]] for index in repeated}
        left = [id_ for index, id_ in enumerate(share.ids) if index not in repeated]
        lane.amend(work, shard, repeated)
        assert share.ids == left
        assert len(share.origins) == len(left)
    counts, tally = recount(batch, settings, seen=seen)
    assert unpacked(work, settings) == counts
    assert tally_of(work) == tally


@given(settings, batches())
def test_arguments_carry_the_work(settings, batch):
    """What is sent to Redis reads back as the work: shape, ids, and for each hour its slot, era, factor and counts."""
    lane = PopularityLane(settings)
    for share in work_of(lane, split(batch)).shards.values():
        signals = len(settings.signals)
        ids, *arguments = lane.arguments(share)
        shape, groups = arguments[: 4 + signals], arguments[4 + signals :]
        assert shape[:4] == [lane.layout.cells, lane.layout.slot_ms, lane.layout.window + 1, signals]
        assert ids == b"".join(share.ids)
        assert all(len(id_) == 8 for id_ in share.ids)
        for hour, counts in share.counts.items():
            slot, era, factor, documents, packed, *rest = groups
            groups = rest[documents:]
            assert rest[:documents] == list(counts)
            assert slot == hour // settings.slot_hours
            half_lives = hour / settings.trending_half_life_hours
            assert float(factor) == pytest.approx(2.0 ** (half_lives - era * 256), rel=1e-12)
            assert 0 <= half_lives - era * 256 < 256
            gains = list(struct.iter_unpack(f"<{signals}H", packed))
            assert [sum(gain << 16 * bit for bit, gain in enumerate(each)) for each in gains] == list(counts.values())
        assert groups == []


def test_no_work_moves_offsets_only():
    """A shard without a share is called with the shape, no ids and no groups."""
    lane = PopularityLane(PopularitySettings())
    assert lane.arguments(None) == [b"", 30, 6 * MS_PER_HOUR, 29, 4, "1.0", "1.0", "3.0", "5.0"]


def test_an_id_names_an_event_of_one_document():
    """A service that reuses one id for several documents loses none of them; a real repeat counts once."""
    batch = Batch()
    for n, document in enumerate(["a", "b", "a"]):
        batch.rows.append(Row(document, ("click",), interaction_id="same"))
        batch.offsets.append(n)
        batch.received.append(NOW)
        batch.times.append(NOW)
    work = work_of(PopularityLane(PopularitySettings()), [batch])
    assert (work.counted, work.duplicates) == (2, 1)


def test_a_full_chunk_of_one_document_fits_into_its_counters():
    """The largest chunk that settings allow, all of it one document in one hour: no carry into the next signal."""
    lane = PopularityLane(PopularitySettings())
    n = 20_000
    batch = Batch(
        offsets=list(range(n)), received=[NOW] * n, times=[NOW] * n, rows=[Row("d", ("click", "purchase"))] * n
    )
    (share,) = work_of(lane, split(batch)).shards.values()
    ids, *arguments = lane.arguments(share)
    _slot, _era, _factor, documents, packed, document = arguments[8:]
    assert (ids, documents, document) == (b"", 1, "d")
    assert struct.unpack("<4H", packed) == (n, 0, 0, n)


def test_ever_new_combinations_of_signals_do_not_fill_memory():
    """What is remembered of combinations is forgotten when there are too many, and the counts stay right."""
    lane = PopularityLane(PopularitySettings())
    for first in range(0, 25_000, 5000):
        found = [Row("d", ("click", f"own_{first + n}")) for n in range(5000)]
        work = work_of(lane, [Batch(offsets=list(range(5000)), received=[NOW] * 5000, times=[NOW] * 5000, rows=found)])
        assert work.counted == 5000
    assert len(lane._gains.known) <= 10_001
