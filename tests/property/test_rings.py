"""The rings against a model that has no ring: a plain dictionary of every event."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.errors import LayoutError
from clickwell.schemas.rings import Generation, Layout, Rings, encode, slots_of, totals
from clickwell.settings import PopularitySettings

SIGNALS = ("click", "long_view", "add_to_cart", "purchase")
NOW_SLOT = 80_000

layouts = st.builds(
    Layout,
    slot_ms=st.sampled_from([MS_PER_HOUR, 6 * MS_PER_HOUR, 24 * MS_PER_HOUR]),
    window=st.integers(1, 30),
    signals=st.sampled_from([SIGNALS, SIGNALS[:1], tuple(f"s{i}" for i in range(8))]),
)


@st.composite
def scenes(draw):
    """A layout, and for each of some documents the events of its life, as a writer would be given them."""
    layout = draw(layouts)
    # Writers refuse events more than five minutes ahead and older than the window.
    slot = st.integers(NOW_SLOT - layout.window - 40, NOW_SLOT + 1)
    event = st.tuples(st.sampled_from(layout.signals), slot, st.integers(1, 2**31))
    return layout, draw(st.lists(st.one_of(st.none(), st.lists(event, min_size=1, max_size=12)), max_size=12))


def counted(events):
    """What a ring must hold of a list of events, without the ring."""
    model = Counter()
    for signal, slot, count in events or ():
        model[signal, slot] = min(model[signal, slot] + count, 2**32 - 1)
    return model


def kept(model, layout):
    """The part of the model that the newest slot has not pushed out."""
    last = max((slot for _, slot in model), default=0)
    return {key: count for key, count in model.items() if key[1] > last - layout.cells}


@given(scenes(), st.integers(-3, 40), st.one_of(st.none(), st.floats(0.01, 40)), st.data())
def test_totals_equal_the_model(scene, ahead, days, data):
    """Weighted totals over any window, at any reader's time, equal the sum over the model's events."""
    layout, documents = scene
    weights = data.draw(st.dictionaries(st.sampled_from([*layout.signals, "none_such"]), st.integers(0, 5)))
    models = [kept(counted(events), layout) for events in documents]
    now_slot = NOW_SLOT + ahead
    oldest = now_slot - layout.window_slots(days)
    expected = [
        sum(weights.get(signal, 0) * count for (signal, slot), count in model.items() if slot >= oldest)
        for model in models
    ]
    values = [
        encode(model, layout) if events is not None else None for model, events in zip(models, documents, strict=True)
    ]
    now_ms = now_slot * layout.slot_ms + data.draw(st.integers(0, layout.slot_ms - 1))
    assert totals(values, layout, now_ms, weights, days=days).tolist() == expected


@given(scenes(), st.integers(0, 40))
def test_cells_equal_the_model(scene, ahead):
    """Every count of the window is listed with its signal and slot, in order, and nothing else."""
    layout, documents = scene
    models = [kept(counted(events), layout) for events in documents]
    values = [encode(model, layout) for model in models]
    oldest = NOW_SLOT + ahead - layout.window
    expected = [
        (row, signal, slot, model[signal, slot])
        for row, model in enumerate(models)
        for signal in layout.signals
        for slot in sorted({slot for _, slot in model})
        if slot >= oldest and (signal, slot) in model
    ]
    now_ms = (NOW_SLOT + ahead) * layout.slot_ms
    assert Rings.of(values, layout).cells(now_ms) == expected
    for row, value in enumerate(values):
        if value:
            assert slots_of(value, layout, now_ms) == [cell[1:] for cell in expected if cell[0] == row]


@given(scenes())
def test_a_document_reads_zero_once_it_has_left_the_window(scene):
    """At the time at which Redis expires a document nothing of it is visible, and a millisecond earlier it may be."""
    layout, documents = scene
    for events in filter(None, documents):
        model = counted(events)
        last = max(slot for _, slot in model)
        value = encode(model, layout)
        gone = layout.expires_ms(last)
        ones = dict.fromkeys(layout.signals, 1)
        assert totals([value], layout, gone, ones) == 0
        at_last = sum(count for (_, slot), count in model.items() if slot == last)
        assert totals([value], layout, gone - 1, ones) == at_last


@given(st.lists(st.one_of(st.none(), st.binary(max_size=300)), max_size=6), layouts)
@example([b"\x01\x02", b"\x01\x02"], Layout(slot_ms=MS_PER_HOUR, window=1, signals=("click",)))
@example([b"\x00\x00\x00\x01" + bytes(12), b"abc"], Layout(slot_ms=MS_PER_HOUR, window=1, signals=("click",)))
def test_foreign_bytes_are_refused_or_harmless(values, layout):
    """Whatever Redis holds, decoding gives numbers or a LayoutError."""
    try:
        found = totals(values, layout, NOW_SLOT * layout.slot_ms, dict.fromkeys(layout.signals, 1))
    except LayoutError:
        return
    assert found.shape == (len(values),)
    assert (found >= 0).all()


def test_the_layout_of_another_setting_is_refused():
    """Rings of six-hour slots are not read as rings of hourly slots."""
    six, one = (Layout.of(PopularitySettings(slot_hours=hours)) for hours in (6, 1))
    with pytest.raises(LayoutError, match="not a ring"):
        Rings.of([encode({("click", NOW_SLOT): 1}, six)], one)


def test_a_known_ring_byte_by_byte():
    """The bytes that the contract's document shows are the bytes that are written."""
    layout = Layout(slot_ms=6 * MS_PER_HOUR, window=2, signals=SIGNALS)
    value = encode({("click", 83_001): 3, ("click", 83_002): 1, ("purchase", 83_001): 2}, layout)
    assert value.hex(" ", 4) == ("3a440109 00000000 03000000 01000000 00000000 00000000 02000000 00000000 00000000")


def test_sums_do_not_overflow():
    """A window of full cells sums beyond 32 bits."""
    layout = Layout(slot_ms=MS_PER_HOUR, window=30, signals=SIGNALS)
    full = encode({("click", NOW_SLOT - i): 2**32 - 1 for i in range(31)}, layout)
    assert totals([full], layout, NOW_SLOT * MS_PER_HOUR, {"click": 1.0}).tolist() == [31 * (2**32 - 1)]


@pytest.mark.parametrize(
    ("days", "slots"), [(None, 28), (7, 28), (30, 28), (1, 4), (0.25, 1), (0.3, 1), (0.01, 0), (0, 0)]
)
def test_windows_are_rounded_to_slots(days, slots):
    """Days become whole slots, at most the whole window; less than half a slot leaves the running one."""
    assert Layout.of(PopularitySettings()).window_slots(days) == slots


@given(st.integers(1, 720), st.integers(400_000, 600_000), st.integers(0, 400))
def test_trending_growth_halves_with_each_half_life(half_life, hour, age):
    """What an old interaction adds, divided by what one adds now, is a half for each half-life, in doubles' range."""
    generation = Generation(name="g", layout=Layout.of(PopularitySettings()), half_life_hours=half_life)
    era = generation.era(hour)
    share = generation.growth(era, hour - age) / generation.growth(era, hour)
    assert np.isclose(share, 2 ** (-age / half_life))
    assert 1 <= generation.growth(era, hour) < 2**256
    assert np.isclose(generation.growth(era - 1, hour) / generation.growth(era, hour), 2.0**256)


def test_the_window_is_seven_days_and_the_running_slot():
    """An event is counted for seven days at least and for seven days and one slot at most."""
    layout = Layout.of(PopularitySettings())
    event_ms = NOW_SLOT * layout.slot_ms + 12_345
    value = encode({("click", layout.slot(event_ms)): 1}, layout)
    one = {"click": 1.0}
    assert totals([value], layout, event_ms + 7 * MS_PER_DAY, one) == 1
    assert totals([value], layout, event_ms + 7 * MS_PER_DAY + layout.slot_ms, one) == 0
