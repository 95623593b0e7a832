"""The spool against a list, with crashes at any moment and cut files."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clickwell.errors import SettingsError
from clickwell.producers.spool import Spool, SpoolInUseError

SEGMENT_BYTES = 64  # a few frames, so that every run crosses files


class SpoolMachine(RuleBasedStateMachine):
    """Runs the spool beside a list; a crash copies the folder as it lies there and goes on with the copy."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.crashes = 0
        self.count = 0
        self.model: list[bytes] = []
        self.taken = 0
        self.torn: dict[str, int] = {}  # bytes that were torn at the end of each file

    @initialize()
    def start(self):
        self.spool = self.open(self.root / "0")

    def open(self, folder):
        return Spool(folder, max_bytes=4096, segment_bytes=SEGMENT_BYTES)

    def payload(self, size):
        self.count += 1
        return b"%d:" % self.count + b"x" * size

    @rule(size=st.integers(0, 100))
    def append(self, size):
        payload = self.payload(size)
        used = self.spool.size_bytes
        if self.spool.append(payload):
            self.model.append(payload)
        else:
            assert used + len(payload) + 8 > 4096

    @precondition(lambda self: self.taken == 0)
    @rule(sizes=st.lists(st.integers(0, 100), max_size=3))
    def prepend(self, sizes):
        payloads = [self.payload(size) for size in sizes]
        self.spool.prepend(payloads)
        self.model[:0] = payloads

    @rule(limit=st.integers(1, 5))
    def take(self, limit):
        expected = self.model[self.taken : self.taken + limit]
        assert self.spool.take(limit) == expected
        self.taken += len(expected)

    @rule(data=st.data())
    def done(self, data):
        number = data.draw(st.integers(0, self.taken))
        self.spool.done(number)
        del self.model[:number]
        self.taken -= number

    @rule()
    def rewind(self):
        self.spool.rewind()
        self.taken = 0

    @rule()
    def sync(self):
        self.spool.sync()

    @rule(torn=st.one_of(st.just(b""), st.binary(min_size=1, max_size=30), st.just(bytes(40))))
    def crash(self, torn):
        """Kill -9, perhaps in the middle of a write: the next process finds what was appended, less what was done."""
        self.crashes += 1
        copy = self.root / str(self.crashes)
        shutil.copytree(self.root / str(self.crashes - 1), copy)
        self.spool.close()
        segments = sorted(copy.glob("*.segment"))
        if segments:
            segments[-1].write_bytes(segments[-1].read_bytes() + torn)
            self.torn[segments[-1].name] = self.torn.get(segments[-1].name, 0) + len(torn)
        (copy / "1.draft").write_bytes(b"half")
        self.spool = self.open(copy)
        assert self.spool.torn_bytes == sum(self.torn.get(segment.name, 0) for segment in segments)
        # Deliveries may repeat, as a segment begun before a `prepend` forgets its place; nothing else may come back.
        found = self.spool.take(1000)
        assert found[-len(self.model) :] == self.model if self.model else not found
        repeats = found[: len(found) - len(self.model)]
        assert all(int(payload.split(b":")[0]) <= self.count for payload in repeats)
        self.spool.rewind()
        self.model, self.taken = found, 0

    @invariant()
    def same_length(self):
        if hasattr(self, "spool"):
            assert len(self.spool) == len(self.model)

    def teardown(self):
        if hasattr(self, "spool"):
            self.spool.close()
        shutil.rmtree(self.root)


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=12), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_yields_the_whole_frames_before_the_cut(payloads, data):
    """Whatever a power cut leaves of the last file, every whole frame is read and the rest is reported."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = Spool(folder, max_bytes=1 << 20)
        ends = [0]
        for payload in payloads:
            assert spool.append(payload)
            ends.append(spool.size_bytes)
        spool.close()
        (segment,) = folder.glob("*.segment")
        cut = data.draw(st.integers(0, ends[-1]))
        segment.write_bytes(segment.read_bytes()[:cut])
        whole = sum(end <= cut for end in ends[1:])
        spool = Spool(folder, max_bytes=1 << 20)
        assert spool.take(100) == payloads[:whole]
        assert spool.torn_bytes == cut - ends[whole]
        spool.close()


def test_a_flipped_bit_is_seen(tmp_path):
    """A damaged frame and what follows it in its file are passed over, never delivered."""
    spool = Spool(tmp_path, max_bytes=1 << 20)
    for payload in (b"one", b"two", b"three"):
        spool.append(payload)
    spool.close()
    (segment,) = tmp_path.glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[8 + 3 + 8] ^= 1  # first byte of the second payload
    segment.write_bytes(content)
    spool = Spool(tmp_path, max_bytes=1 << 20)
    assert spool.take(10) == [b"one"]
    assert spool.torn_bytes == len(content) - 11
    spool.close()


def test_a_damaged_cursor_means_from_the_start(tmp_path):
    """Without a sound cursor everything in the oldest file is delivered again, as at-least-once allows."""
    spool = Spool(tmp_path, max_bytes=1 << 20)
    for payload in (b"one", b"two"):
        spool.append(payload)
    spool.take(1)
    spool.done(1)
    spool.close()
    cursor = tmp_path / "cursor"
    assert len(Spool.claim(tmp_path.parent / "other", max_bytes=1 << 20)) == 0
    cursor.write_bytes(b"\xff" + cursor.read_bytes()[1:])
    spool = Spool(tmp_path, max_bytes=1 << 20)
    assert spool.take(10) == [b"one", b"two"]
    spool.close()


def test_one_process_at_a_time(tmp_path):
    """Two users of a folder would interleave their files: the second is refused, `claim` gives it one of its own."""
    first = Spool(tmp_path / "00", max_bytes=1 << 20)
    with pytest.raises(SpoolInUseError):
        Spool(tmp_path / "00", max_bytes=1 << 20)
    second = Spool.claim(tmp_path, max_bytes=1 << 20)
    second.append(b"left behind")
    second.close()
    first.close()
    heir = Spool.claim(tmp_path, max_bytes=1 << 20)
    assert heir.take(10) == [b"left behind"]
    heir.close()


def test_an_unusable_folder_is_named(tmp_path):
    """A spool below a file cannot be made, and the error names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="file/spool/00 cannot be written"):
        Spool.claim(tmp_path / "file" / "spool", max_bytes=1 << 20)


def test_a_full_disk_refuses_and_keeps_what_is_there(tmp_path):
    """When the spool is full, append says so and the earlier payloads stay readable; room comes back with delivery."""
    spool = Spool(tmp_path, max_bytes=50, segment_bytes=20)
    kept = [payload for payload in (b"a" * 10, b"b" * 10, b"c" * 10) if spool.append(payload)]
    assert kept == [b"a" * 10, b"b" * 10]
    assert spool.take(2) == kept
    spool.done(2)
    assert spool.size_bytes == 0
    assert not list(tmp_path.glob("*.segment"))
    assert spool.append(b"c" * 10)
    spool.close()
