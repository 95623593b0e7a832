"""Names sealed under keys of their own: opened by whoever has the key, by nobody once it is destroyed."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clickwell.errors import SettingsError
from clickwell.schemas.controls import Subject
from clickwell.schemas.decode import Decoder
from clickwell.schemas.erased import Subjects, names_in
from clickwell.schemas.interactions import MAX_ID
from clickwell.schemas.marks import Keys
from clickwell.sealing import InFolder, InRedis, Vault, made_ms
from clickwell.settings import Settings
from clickwell.testing import FakeRecord, event

KEYS = Keys({"k1": b"0123456789abcdef"})


@pytest.fixture(params=["folder", pytest.param("redis", marks=pytest.mark.broker)])
def store(request, tmp_path):
    """Each of the two stores, without keys."""
    if request.param == "folder":
        return InFolder(tmp_path / "keys")
    made = InRedis(Settings.load(tmp_path, redis={"url": request.getfixturevalue("redis_server")}))
    made.destroy([name for name, _ in made.every()])
    return made


def opened(store, *values):
    """The rows of some events, as a process sees them that never saw a key before."""
    decoder = Decoder()
    decoder.open_rows = Vault(store).open_rows
    return [(row.user_id, row.session_id) for row in decoder.decode([FakeRecord(0, 1, each) for each in values]).rows]


def sealed(vault, user, session=None):
    """An event with both names sealed."""
    user_id, session_id = vault.seal(user, session)
    return event("d", user_id=user_id, **({} if session_id is None else {"session_id": session_id}))


def test_what_is_sealed_is_opened_with_the_key_only(store):
    """Readers see the names; without the key they see a pseudonym, under which an erasure finds the events."""
    vault = Vault(store, KEYS.pseudonym)
    values = [sealed(vault, "bøb", "visit 1"), sealed(vault, "al"), event("d", user_id="~x~y", session_id="~z")]
    assert not any(b"visit" in value or "bøb".encode() in value for value in values)
    assert opened(store, *values) == [("bøb", "visit 1"), ("al", None), ("x", "~z")]
    assert store.destroy([KEYS.pseudonym("bøb"), KEYS.pseudonym("nobody")]) == 1
    (gone, visit), *others = opened(store, *values)
    assert gone == KEYS.pseudonym("bøb")
    assert visit.startswith("~")
    assert others == [("al", None), ("x", "~z")]
    subjects = Subjects(lambda: KEYS)
    marks = tuple(KEYS.mark("user_id", name) for name in KEYS.names("bøb"))
    subjects.add([Subject("e1", "user_id", "k1", marks, 0)])
    assert [name for kind, name in names_in(values[0]) if subjects.among(kind, [name]).get(name)] == [gone]


def test_who_comes_back_has_a_new_key(store):
    """Old events stay closed, new ones open, also for a process that still remembers the old key."""
    vault, reader = Vault(store, KEYS.pseudonym), Decoder()
    reader.open_rows = Vault(store).open_rows
    before = sealed(vault, "bob")
    assert reader.decode([FakeRecord(0, 1, before)]).rows[0].user_id == "bob"
    store.destroy([KEYS.pseudonym("bob")])
    after = sealed(Vault(store, KEYS.pseudonym), "bob")
    found = [reader.decode([FakeRecord(0, 1, value)]).rows[0].user_id for value in (after, before)]
    assert found == ["bob", KEYS.pseudonym("bob")]


def test_another_store_is_not_taken_for_destroyed_keys(store, tmp_path):
    """Where no key was ever made nothing is opened, and that is said: else names would be lost for good, unseen."""
    value = sealed(Vault(store, KEYS.pseudonym), "bob")
    with pytest.raises(SettingsError):
        opened(InFolder(tmp_path / "elsewhere"), value)


def test_two_at_once_use_one_key(store):
    """Whoever is second takes the key of the first, and each key tells when it was made."""
    for vault in (Vault(store, KEYS.pseudonym), Vault(store, KEYS.pseudonym)):
        vault.prepare(["bob", "al"])
    first = dict(store.every())
    Vault(store, KEYS.pseudonym).prepare(["bob"])
    assert dict(store.every()) == first
    assert set(first) == {KEYS.pseudonym("bob"), KEYS.pseudonym("al")}
    assert all(made_ms(secret) > 1_700_000_000_000 for secret in first.values())


def test_threads_that_make_one_key_agree(tmp_path):
    """Of several that write the same file at the same time the first one wins, and nothing else is left."""
    store, together = InFolder(tmp_path), threading.Barrier(8)

    def add(number):
        found = []
        for name in (f"k1.{each}" for each in range(50)):
            together.wait(20)
            store.add(name, bytes([number]) * 40)
            found += store.get([name])
        return found

    with ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(add, range(8))
    assert others == [first] * 7
    assert {len(set(secret)) for secret in first} == {1}
    assert len(list(store.every())) == 50


def test_long_names_stay_valid_events(store):
    """A name that is too long to be sealed leaves as its pseudonym; such a session stays behind."""
    user_id, session_id = Vault(store, KEYS.pseudonym).seal("u" * MAX_ID, "s" * MAX_ID)
    assert session_id is None
    assert opened(store, event("d", user_id=user_id)) == [(KEYS.pseudonym("u" * MAX_ID), None)]


def test_key_files_belong_to_their_owner(tmp_path):
    """Nobody else can read a key that lies in a folder."""
    Vault(InFolder(tmp_path), KEYS.pseudonym).prepare(["bob"])
    (path,) = tmp_path.glob("*/k1.*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
