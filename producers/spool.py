"""An ordered queue on disk, for events that the broker cannot take now.

A folder holds segment files, named by number and read in that order, and `cursor`, the place in the oldest segment up
to which everything was delivered. A segment is a row of frames: u32 length, u32 CRC-32 (begun with the length) of the
payload, payload; little-endian. A number is the time in ns at which the segment began, so that none is used twice.

What survives: every append that returned survives `kill -9` of the process, as it is in the kernel's hands by then.
`sync`, which the emitter calls once a second off its callers' path, makes it survive a power cut too. A frame that was
cut short is ignored and reported. Delivery is at least once: what was delivered but not yet marked is read again.
"""

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Self

from clickwell.errors import SettingsError

_FRAME = struct.Struct("<II")
_PLACE = struct.Struct("<QQ")
# Small enough that disk space comes back while a long outage is replayed, large enough that files stay few.
SEGMENT_BYTES = 8 << 20

_log = logging.getLogger(__name__)


class SpoolInUseError(SettingsError):
    """Another process has the folder."""


@dataclass
class _Segment:
    """One file: its valid bytes and frames, and the byte up to which all was delivered."""

    path: Path
    number: int
    size: int = 0
    done: int = 0


class Spool:
    """An ordered queue of byte strings in one folder; thread-safe, one process at a time.

    Args:
        folder: made if absent.
        max_bytes: `append` refuses what would make the files larger than this.
        segment_bytes: a segment that reached this size is followed by a new one.

    Attributes:
        torn_bytes: bytes of cut or damaged frames that were found, and passed over, at the start.

    Raises:
        SpoolInUseError: another process has the folder.
        SettingsError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._held = _hold(folder)
        self._segments: deque[_Segment] = deque()
        self._taken: deque[tuple[_Segment, int]] = deque()  # segment and end of each frame that is read, not done
        self._pending = 0
        self._bytes = 0
        self._writer: int | None = None  # descriptor of the last segment, once this process appends to it
        self._unsynced: list[int] = []  # descriptors of full segments that `sync` has still to write through
        self._dirty = False
        self.torn_bytes = 0
        self._open()

    def __len__(self) -> int:
        """Return the payloads that are not done yet."""
        return self._pending

    @property
    def size_bytes(self) -> int:
        """Bytes of the segment files."""
        return self._bytes

    def append(self, payload: bytes) -> bool:
        """Put a payload at the end; False when the spool or the disk is full, and then nothing was written."""
        frame = _frame(payload)
        with self._lock:
            if self._bytes + len(frame) > self._max_bytes:
                return False
            try:
                segment = self._writable()
                assert self._writer is not None
                if os.write(self._writer, frame) != len(frame):
                    os.ftruncate(self._writer, segment.size)
                    return False
            except OSError as error:
                _log.warning("spool %s cannot be written: %s", self._folder, error)
                return False
            segment.size += len(frame)
            self._bytes += len(frame)
            self._pending += 1
            self._dirty = True
            return True

    def prepend(self, payloads: Iterable[bytes]) -> None:
        """Put payloads, in their order, before everything else; all of them or none, whatever `max_bytes` says.

        Raises:
            OSError: the disk does not take them.
        """
        frames = [_frame(payload) for payload in payloads]
        if not frames:
            return
        with self._lock:
            assert not self._taken, "what is being delivered would be overtaken"
            number = self._segments[0].number - 1 if self._segments else time.time_ns()
            segment = _Segment(self._path(number), number, sum(map(len, frames)))
            draft = segment.path.with_suffix(".draft")
            with draft.open("wb") as file:
                file.write(b"".join(frames))
                file.flush()
                os.fsync(file.fileno())
            draft.rename(segment.path)
            self._segments.appendleft(segment)
            self._bytes += segment.size
            self._pending += len(frames)
            self._dirty = True

    def take(self, limit: int) -> list[bytes]:
        """Return up to `limit` of the oldest payloads that were not taken yet, in order."""
        with self._lock:
            payloads: list[bytes] = []
            last = self._taken[-1] if self._taken else None
            for segment in list(self._segments):
                if last and segment.number < last[0].number:
                    continue
                start = last[1] if last and segment is last[0] else segment.done
                for payload, end in _frames(segment.path, start, segment.size):
                    if len(payloads) == limit:
                        return payloads
                    payloads.append(payload)
                    self._taken.append((segment, end))
            return payloads

    def done(self, number: int) -> None:
        """Drop the oldest `number` of the taken payloads: they are delivered."""
        if not number:
            return
        with self._lock:
            for _ in range(number):
                segment, end = self._taken.popleft()
                segment.done = end
            self._pending -= number
            try:
                while self._segments and self._segments[0].done == self._segments[0].size:
                    if len(self._segments) == 1:
                        self._close_writer()
                    gone = self._segments.popleft()
                    self._bytes -= gone.size
                    gone.path.unlink()
                # Only now: a cursor that moved on while the file is still there would make a restart send all of it.
                if self._segments:
                    self._write_cursor(self._segments[0])
            except OSError as error:
                _log.warning(
                    "spool %s: cannot mark what was delivered, a restart sends it again: %s", self._folder, error
                )

    def rewind(self) -> None:
        """Forget what was taken and is not done; `take` returns it again."""
        with self._lock:
            self._taken.clear()

    def sync(self) -> None:
        """Write everything through to the disk. Slow; other calls go on meanwhile."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            full, self._unsynced = self._unsynced, []
            now = [] if self._writer is None else [os.dup(self._writer)]
            folder = os.open(self._folder, os.O_RDONLY)
        for descriptor in (*full, *now, folder):
            os.fsync(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Write through and let another process have the folder."""
        self.sync()
        with self._lock:
            self._close_writer()
            for descriptor in self._unsynced:
                os.close(descriptor)
            self._unsynced.clear()
            os.close(self._held)

    @classmethod
    def claim(cls, folder: Path, *, max_bytes: int) -> Self:
        """Return a spool in a numbered subfolder that no other process has.

        Several processes can so share one setting. One that was left behind with events in it is taken first.
        """
        left = sorted({path.parent for path in folder.glob("*/*.segment")})
        places = chain(left, (folder / f"{number:02d}" for number in count()))
        while True:
            with contextlib.suppress(SpoolInUseError):
                return cls(next(places), max_bytes=max_bytes)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:020d}.segment"

    def _open(self) -> None:
        for draft in self._folder.glob("*.draft"):
            draft.unlink()
        at, done = _read_cursor(self._folder / "cursor")
        for path in sorted(self._folder.glob("*.segment")):
            segment = _Segment(path, int(path.stem))
            if segment.number == at:
                segment.done = segment.size = done
            on_disk = path.stat().st_size
            for _, end in _frames(path, segment.done, on_disk):
                segment.size = end
                self._pending += 1
            torn = on_disk - segment.size
            if torn:
                self.torn_bytes += torn
                _log.warning("spool %s: passed over %d bytes of a frame that was cut short", path, torn)
            if segment.size > segment.done:
                self._segments.append(segment)
                self._bytes += segment.size
            else:
                path.unlink()

    def _writable(self) -> _Segment:
        if self._writer is None or self._segments[-1].size >= self._segment_bytes:
            if self._writer is not None:
                self._unsynced.append(self._writer)
                self._writer = None
            number = max(time.time_ns(), self._segments[-1].number + 1 if self._segments else 0)
            path = self._path(number)
            self._writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            self._segments.append(_Segment(path, number))
        return self._segments[-1]

    def _close_writer(self) -> None:
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    def _write_cursor(self, segment: _Segment) -> None:
        place = _PLACE.pack(segment.number, segment.done)
        descriptor = os.open(self._folder / "cursor", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, place + zlib.crc32(place).to_bytes(4, "little"), 0)
        finally:
            os.close(descriptor)


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    return _FRAME.pack(size, _crc(size, payload)) + payload


def _crc(size: int, payload: bytes) -> int:
    # The length is part of it: a file that a power cut filled up with zeros is not a row of empty payloads.
    return zlib.crc32(payload, size + 1)


def _frames(path: Path, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield each whole payload between two places of a file, and where its frame ends."""
    if start >= end:
        return
    with path.open("rb") as file:
        file.seek(start)
        while start + _FRAME.size <= end:
            size, crc = _FRAME.unpack(file.read(_FRAME.size))
            start += _FRAME.size + size
            if start > end or _crc(size, payload := file.read(size)) != crc:
                return
            yield payload, start


def _read_cursor(path: Path) -> tuple[int, int]:
    """Return a segment's number and its delivered bytes; (0, 0), which no segment has, without a sound cursor."""
    content = path.read_bytes() if path.exists() else b""
    place = content[: _PLACE.size]
    if len(content) != _PLACE.size + 4 or zlib.crc32(place).to_bytes(4, "little") != content[_PLACE.size :]:
        return 0, 0
    number, done = _PLACE.unpack(place)
    return number, done


def _hold(folder: Path) -> int:
    """Lock a folder for this process until it ends; return the lock's descriptor."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(f"the spool {folder} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SpoolInUseError(f"the spool {folder} is in use by another process") from None
    return descriptor
