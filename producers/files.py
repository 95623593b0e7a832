"""Lines of files: plain or gzip, `-` for standard input."""

import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from clickwell.errors import InputError
from clickwell.schemas.wire import MAX_EVENT_BYTES

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line: its file, its number there from 1, its place among all lines from 0, and its bytes."""

    file: str
    number: int
    place: int
    content: bytes


class Lines:
    """The lines of several files in a row.

    Args:
        paths: files; what they hold decides whether they are gzip, `-` is standard input.
        twice: the lines will be read more than once: what cannot be rewound, such as a pipe, is copied to disk first.

    Raises:
        InputError: a file cannot be opened, or is named `.gz` and is not gzip.
    """

    def __init__(self, paths: Sequence[str], *, twice: bool = False) -> None:
        self._open = ExitStack()
        self._twice = twice
        self._files = [(path, self._file(path)) for path in paths]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[Line]:
        """Yield each line that is not blank; of one that is too long for an event, the beginning.

        Raises:
            InputError: a file cannot be read to its end.
        """
        place = -1
        for path, file in self._files:
            if self._twice:
                file.seek(0)
            number = 0
            try:
                for content in _lines(file):
                    number += 1
                    place += 1
                    if number == 1 and content.startswith(_BOM):
                        content = content.removeprefix(_BOM)  # noqa: PLW2901  # editors on Windows write it
                    if content.strip():
                        yield Line(path, number, place, content)
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(
                    f"{path} cannot be read after line {number}: {error}", fix="get a whole copy of the file"
                ) from None

    def _file(self, path: str) -> io.BufferedReader:
        if path == "-":
            assert isinstance(sys.stdin.buffer, io.BufferedReader)
            return self._rewindable(sys.stdin.buffer)
        try:
            file = self._open.enter_context(Path(path).open("rb"))  # noqa: SIM115  # the stack closes it
            start = file.peek(2)[:2]
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror}", fix="name a readable file, or - for standard input"
            ) from None
        if path.endswith(".gz") and start != _GZIP:
            raise InputError(f"{path} is not gzip data, whatever its name says", fix="rename it, or get a whole copy")
        return self._rewindable(file)

    def _rewindable(self, file: io.BufferedReader) -> io.BufferedReader:
        if not self._twice or file.seekable():
            return file
        copy = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack closes it
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        return io.BufferedReader(copy)


def _lines(file: io.BufferedReader) -> Iterator[bytes]:
    content = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
    while line := content.readline(MAX_EVENT_BYTES + 1):
        yield line
        while line and not line.endswith(b"\n"):
            line = content.readline(MAX_EVENT_BYTES)
