"""The page that other languages' readers are written from is right: everything on it that can run is run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from clickwell import BoostReader
from clickwell.clock import MS_PER_HOUR
from clickwell.redis_client import connect
from clickwell.schemas.keys import ACTIVE, FRESH, murmur2, ring_key
from clickwell.schemas.rings import Generation, encode, totals
from clickwell.serving.counts import rows_of
from clickwell.serving.formula import BoostByInteractionCount, boosts_of
from clickwell.serving.trending import top
from clickwell.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "contracts" / "redis.md").read_text()
GENERATION = Generation.model_validate_json(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
LAYOUT = GENERATION.layout
NOW_SLOT = 83_000


def page_decoder():
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
    return names["total"]


def rows(header):
    """Cells of the table that begins with a header line."""
    table = PAGE.split(header + "\n", 1)[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in table]


@pytest.mark.parametrize(("doc", "hashed", "key"), rows("| document | murmur2 | key in generation `tokzcc` |"))
def test_the_hash_vectors(doc, hashed, key):
    """Hashes and keys are the implementation's."""
    assert (murmur2(doc.encode()), ring_key(doc, "tokzcc")) == (int(hashed), key)


@pytest.mark.parametrize("row", rows("| n | cap | multiplier | boost |"))
def test_the_boost_vectors(row):
    """Boosts are the implementation's."""
    n, cap, multiplier, boost = map(float, row)
    stage = BoostByInteractionCount(cap=cap, boost_multiplier=multiplier)
    assert boosts_of(np.array([n]), stage)[0] == pytest.approx(boost, abs=5e-7)


def test_the_example_ring():
    """The bytes are those of the counts in the sentence above them."""
    words = re.search(r"```\n((?:[0-9a-f]{8} ?)+)\n", PAGE)[1]
    layout = LAYOUT.model_copy(update={"window": 2})
    counts = {("click", 83001): 3, ("click", 83002): 1, ("purchase", 83001): 2}
    assert encode(counts, layout) == bytes.fromhex(words)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(LAYOUT.signals), st.integers(NOW_SLOT - 40, NOW_SLOT + 1)),
        st.integers(1, 99),
        min_size=1,
    ),
    st.dictionaries(st.sampled_from(LAYOUT.signals), st.integers(0, 5)),
    st.integers(0, 28),
    st.integers(0, 30),
)
def test_the_decoder_to_copy_sums_as_ours(counts, weights, window, later):
    """The twenty lines of the page and the vectorised reader agree on every ring and window."""
    value, now_ms = encode(counts, LAYOUT), (NOW_SLOT + later) * LAYOUT.slot_ms + 5
    ours = totals([value], LAYOUT, now_ms, weights, days=window / 4)[0]
    assert page_decoder()(value, LAYOUT.model_dump(), now_ms, weights, window) == ours


@pytest.mark.broker
def test_the_access_rules_suffice_and_no_more(fresh_redis):
    """A user with the page's rules reads boosts, trending and counts, and can change nothing."""
    rules = re.search(r"^ACL SETUSER .*$", PAGE, re.MULTILINE)[0].replace("PASSWORD", "pw").split()
    with redis.Redis.from_url(fresh_redis.url) as admin:
        admin.execute_command(*rules)
        admin.set(ACTIVE, GENERATION.model_dump_json())
        admin.hset(FRESH, "popularity/t/0", NOW_SLOT * LAYOUT.slot_ms)
        admin.set(ring_key("a", "tokzcc"), encode({("click", NOW_SLOT): 3}, LAYOUT))
    for protocol in (2, 3):
        url = fresh_redis.url.replace("redis://", "redis://reranker:pw@") + f"?protocol={protocol}"
        settings = Settings(redis={"url": url}, boosts={"max_age_seconds": 1e12})
        with BoostReader(settings) as reader:
            assert reader.boosts(["a"]).reason is None
        assert top(settings) == []
        with connect(settings) as client:
            cells = rows_of(client, GENERATION, at_ms=NOW_SLOT * LAYOUT.slot_ms)
            assert [row.count for row in cells] == [3]
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.set("cw1:x", "1")
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.get("others")


def test_the_pointer_is_what_workers_write():
    """The page's JSON has the fields that the workers' has, those for workers only left out."""
    written = json.loads(GENERATION.model_dump_json())
    shown = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    assert written == shown | {"started_ms": 0, "targets": {}, "erasures": 0}
    assert shown["layout"]["slot_ms"] == 6 * MS_PER_HOUR
