"""The folders that events were exported to, so that a receipt can say which of them hold somebody who was erased."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from clickwell.errors import InputError
from clickwell.settings import Settings

FILE = "exports.jsonl"


@dataclass(frozen=True)
class Export:
    """One folder that events were written to.

    Attributes:
        folder: its path on the host that wrote it.
        kind: `lake` for rows as they are, `pairs` for training data made of them.
        first_day: of the events, ISO 8601, UTC.
        last_day: of the events, included.
        manifest_sha256: of `manifest.json`, which names every file with its hash.
        at_ms: when, epoch ms.
    """

    folder: str
    kind: Literal["lake", "pairs"]
    first_day: str
    last_day: str
    manifest_sha256: str
    at_ms: int


def note_export(
    settings: Settings, folder: Path, kind: Literal["lake", "pairs"], days: tuple[date, date], manifest: bytes
) -> None:
    """Remember an export; on disk when this returns, which is to be before its manifest is.

    Raises:
        InputError: the data folder cannot be written.
    """
    first, last = (day.isoformat() for day in days)
    digest = hashlib.sha256(manifest).hexdigest()
    line = Export(str(folder.resolve()), kind, first, last, digest, time.time_ns() // 1_000_000)
    path = settings.data / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
            # One write, so that lines of two processes do not mix.
            file.write(json.dumps(asdict(line)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}",
            why="an erasure has to tell which exports hold erased events",
        ) from None


def exports_of(settings: Settings, first_ms: int, last_ms: int) -> Iterator[Export]:
    """Yield the exports whose days overlap a span of event times, oldest first.

    Raises:
        InputError: the list cannot be read.
    """
    first, last = (datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat() for at_ms in (first_ms, last_ms))
    path = settings.data / FILE
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            export = Export(**json.loads(line))
            if export.first_day <= last and first <= export.last_day:
                yield export
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error}", why="somebody changed it") from None
