"""Marks, pseudonyms, keys and receipts: what names people without their names, and what cannot be changed unseen."""

import json
import stat

import msgspec
import pytest

from clickwell.analytics.privacy.receipts import Receipts, broken
from clickwell.errors import InputError, SettingsError
from clickwell.privacy import KEY_FILE, load_keys
from clickwell.producers.edge import Edge
from clickwell.producers.records import Record, interaction_record, search_record
from clickwell.schemas.controls import Fence, Joined, Retraction, Subject, decode_control
from clickwell.schemas.decode import Decoder
from clickwell.schemas.erased import Erased, Subjects
from clickwell.schemas.marks import Keys, UnknownKeyError
from clickwell.settings import Settings
from clickwell.testing import FakeRecord, event

OLD = {"k1": b"0123456789abcdef"}
KEYS = Keys(OLD | {"k2": b"fedcba9876543210"})
REQUESTED = 1_762_000_000_000


def subject(value="bob", kind="user_id", keys=KEYS, **fields):
    names = keys.names(value) if kind == "user_id" else [value]
    marks = tuple(keys.mark(kind, name) for name in names)
    return Subject("e1", kind, keys.current, marks, REQUESTED, **fields)


def batch(*events, received=REQUESTED - 1):
    return Decoder().decode([FakeRecord(n, received, value) for n, value in enumerate(events)])


def test_a_mark_tells_nothing_without_its_key():
    """The same value has one mark a key and kind, and others under others."""
    marks = {KEYS.mark(kind, "bob", key) for kind in ("user_id", "session_id") for key in KEYS.ids}
    assert len(marks) == 4
    assert KEYS.mark("user_id", "bob") == KEYS.mark("user_id", "bob", "k2")
    assert not any("bob" in mark for mark in marks)
    with pytest.raises(UnknownKeyError):
        KEYS.mark("user_id", "bob", "k3")


def test_a_user_is_found_under_every_key():
    """After a rotation, an erasure takes events under the user_id and under the pseudonyms of old and new keys."""
    subjects = Subjects(lambda: KEYS)
    subjects.add([subject()])
    names = ["bob", Keys(OLD).pseudonym("bob"), KEYS.pseudonym("bob")]
    assert set(subjects.among("user_id", [*names, "alice", None])) == set(names)


def test_an_emitter_can_send_pseudonyms():
    """The user_id of neither interactions nor searches leaves the process."""
    edge = Edge(lambda user, session: (KEYS.pseudonym(user), session))
    told = {"user_id": "bob", "session_id": "s1"}
    record = interaction_record({"feature_id": "d", "interaction_type": ["click"], **told}, 1)
    search = search_record({"execution_id": "x", "results": [], **told}, 1)
    for one in (record, search):
        left = json.loads(edge.apply(one).value)
        assert left == json.loads(one.value) | {"user_id": KEYS.pseudonym("bob")}


@pytest.mark.parametrize(
    "value",
    [
        b'{"user\\u005fid":"bob","n":1e400}',
        b'{"user_id" : "b\\u006fb","x":12345678901234567890123}',
        b'{"user_id":"al","user_id":"bob"}',
    ],
)
def test_no_way_of_writing_a_name_gets_past_the_edge(value):
    """Escapes, repeated fields and numbers of any size change nothing: what leaves has the pseudonym only."""
    edge = Edge(lambda user, session: (KEYS.pseudonym(user), session))
    left = json.loads(edge.apply(Record("interaction", "i", b"k", value)).value)
    assert left["user_id"] == KEYS.pseudonym("bob")
    assert edge.apply(Record("interaction", "i", b"k", b'{"user_id":null}')).value == b'{"user_id":null}'


def test_what_is_behind_the_fence_is_left_out():
    """Events that were received or happened before the request go, later ones and other people's stay."""
    before, after = {"timestamp": REQUESTED - 1}, {"timestamp": REQUESTED + 1}
    events = [
        event("a", user_id="bob", **before),
        event("b", user_id="bob", **after),
        event("c", user_id="al", **before),
    ]
    erased = Erased(lambda: KEYS)
    erased.fence("b1", [subject()], offset=-1)
    left, hidden = erased.apply(batch(*events, received=REQUESTED + 5))
    assert ([row.feature_id for row in left.rows], hidden) == (["b", "c"], 1)
    assert erased.apply(batch(*events))[1] == 2


def test_before_the_fence_is_left_alone_unless_it_was_known():
    """A fence divides the partition; for who knew of it before anything was counted, all of it is gone."""
    value = event("a", user_id="bob", timestamp=REQUESTED - 1)
    fence = msgspec.json.encode(Fence("b1", (subject(),)))
    for known, left_out in ((set(), 1), ({"b1"}, 2)):
        left, hidden = Erased(lambda: KEYS, known).apply(batch(value, fence, value))
        assert hidden == left_out
        assert len(left.rows) == 2 - left_out


def test_a_range_of_times_is_kept_to():
    """Only events of the range go; its end is excluded."""
    erased = Erased(lambda: KEYS)
    erased.fence("b1", [subject(since=REQUESTED - 10, until=REQUESTED - 5)], -1)
    times = [REQUESTED - n for n in (11, 10, 6, 5)]
    left, _ = erased.apply(batch(*(event("a", user_id="bob", timestamp=at) for at in times)))
    assert left.times == [times[0], times[3]]


def test_no_event_passes_for_a_control_and_no_control_for_an_event():
    """Fences and retractions come out as they went in, beside the events, and a broken one is a bad record."""
    retraction = Retraction(
        "b1", 7, 0, 0, "doc", ("click",), joined=Joined(1 << 63, 0, 0, [0, "doc", 4], [], [1, 0, "", "q"])
    )
    controls = [Fence("b1", (subject(),)), retraction]
    decoded = batch(event("a"), *map(msgspec.json.encode, controls), b'{"clickwell":"other.v9"}')
    assert [control for _, control in decoded.controls] == controls
    assert (len(decoded.rows), [error.reason for _, error in decoded.bad]) == (1, ["bad_control"])
    assert decode_control(msgspec.json.encode(retraction)) == retraction


def test_keys_are_made_once_and_belong_to_their_owner(tmp_path):
    """Without keys in the settings the first who needs one makes it; nobody else can read it."""
    settings = Settings.load(tmp_path)
    with pytest.raises(SettingsError):
        load_keys(settings)
    assert load_keys(settings, create=True).ids == load_keys(settings).ids
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def receipts_of(tmp_path):
    receipts = Receipts(Settings.load(tmp_path))
    for name in ("e1", "e2", "e1", "e3"):
        receipts.add([{"event": "erased", "erasure_id": name, "at_ms": 1}])
    return receipts


def test_an_erasure_has_one_receipt_and_the_chain_holds(tmp_path):
    """A receipt that is there is not written again; half a line of a dead writer is cut off."""
    receipts = receipts_of(tmp_path)
    with receipts.path.open("a") as file:
        file.write('{"event":"era')
    receipts.add([{"event": "erased", "erasure_id": "e4", "at_ms": 1}])
    assert [each["erasure_id"] for each in receipts.read()] == ["e1", "e2", "e3", "e4"]
    assert broken(receipts.read()) == []


@pytest.mark.parametrize("change", ["edit", "remove", "swap", "insert"])
def test_tampering_is_found(tmp_path, change):
    """One line that is changed, removed, moved or added breaks the chain."""
    receipts = receipts_of(tmp_path)
    lines = receipts.path.read_text().splitlines()
    if change == "edit":
        lines[1] = lines[1].replace('"e2"', '"e9"')
    elif change == "remove":
        del lines[1]
    elif change == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        lines.insert(1, lines[1])
    receipts.path.write_text("\n".join(lines) + "\n")
    assert broken(receipts.read())


def test_a_chain_that_was_cut_short_is_found(tmp_path):
    """The log knows hashes of last lines; a file that lacks one of them has lost its end."""
    receipts = receipts_of(tmp_path)
    ends = [each["hash"] for each in receipts.read()][1:]
    assert broken(receipts.read(), ends) == []
    receipts.path.write_text("".join(receipts.path.read_text().splitlines(keepends=True)[:-1]))
    assert broken(receipts.read()) == []
    assert ["cut off" in problem for problem in broken(receipts.read(), ends)] == [True]


def test_a_line_that_is_no_receipt_is_an_error(tmp_path):
    """The file is named, with the line."""
    receipts = receipts_of(tmp_path)
    receipts.path.write_text("nothing\n")
    with pytest.raises(InputError, match="line 1"):
        receipts.read()
