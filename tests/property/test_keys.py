"""Shards and key names: Kafka's own hash vectors, and the fast paths against the plain one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickwell.schemas import keys

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key, signed):
    """The hash is the one of Kafka's Java client, without the sign bit as its partitioner takes it."""
    assert keys.murmur2(key) == signed & 0x7FFFFFFF


@given(st.lists(st.binary(max_size=70), max_size=50))
def test_hashing_many_is_hashing_each(many):
    """All keys at once give what one at a time gives, whatever their lengths."""
    hashes = keys.murmur2_many(many)
    assert hashes.dtype == np.uint32
    assert hashes.tolist() == [keys.murmur2(key) for key in many]


@given(st.lists(st.lists(texts, max_size=8), max_size=8), st.integers(1, 12))
def test_a_hash_map_never_forgets_what_it_is_asked_for(batches, capacity):
    """Each call knows the hashes of its own documents; memory holds the capacity, or one batch if that is more."""
    hashes = keys.HashMap(capacity)
    largest = max((len({*documents}) for documents in batches), default=0)
    for documents in batches:
        known = hashes.of(documents)
        assert {doc: known[doc] for doc in documents} == {doc: keys.murmur2(doc.encode()) for doc in documents}
        assert len(known) <= max(capacity, largest)


@given(st.lists(texts, max_size=20))
def test_keys_of_a_document_lie_in_its_shard(documents):
    """Every key carries the hash tag of its document's shard, so that one node of a cluster holds them all."""
    assert keys.ring_keys(documents, "g1") == [keys.ring_key(doc, "g1") for doc in documents]
    for doc in documents:
        shard = keys.shard_of(doc)
        tag = f"cw1:{{s{shard:03d}}}:g1:"
        assert 0 <= shard < 64
        assert keys.ring_key(doc, "g1") == f"{tag}c:{doc}"
        assert keys.shard_prefix(shard, "g1") == tag
        assert keys.ledger_key(shard, "g1") == f"{tag}o"
        assert keys.trending_key(shard, "g1", 7) == f"{tag}t:7"


def test_shards_are_even():
    """A hundred thousand ordinary ids fill the 64 shards to within a tenth of one another."""
    shards = keys.murmur2_many([b"doc-%06d" % i for i in range(100_000)]) % keys.SHARDS
    filled = np.bincount(shards, minlength=keys.SHARDS)
    assert filled.min() > 0.9 * filled.mean()
    assert filled.max() < 1.1 * filled.mean()


def test_a_ledger_field_names_lane_topic_and_partition():
    """The field is the same in the ledger and in the freshness hash."""
    assert keys.ledger_field("popularity", "Zk3vT0q1TqWz", 5) == "popularity/Zk3vT0q1TqWz/5"
