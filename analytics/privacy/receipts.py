"""The audit log of erasures: one line of JSON for each receipt, chained by hashes, so that no line can be changed.

The hash of a line covers its content and the hash of the line before. Cutting lines off the end leaves a chain that
holds; therefore the hash of the last receipt also stands in the erasures topic.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clickwell.errors import InputError
from clickwell.settings import Settings

START = "0" * 64

Receipt = dict[str, Any]


class Receipts:
    """The receipts of one deployment; written by its eraser alone.

    Args:
        settings: name the file.
    """

    def __init__(self, settings: Settings) -> None:
        self.path: Path = settings.privacy.receipts or settings.data / "receipts.jsonl"

    def read(self) -> list[Receipt]:
        """Return all receipts, oldest first.

        Raises:
            InputError: the file cannot be read, or a line is no JSON object.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path} cannot be read: {error}") from None
        found = []
        for number, line in enumerate(lines, 1):
            try:
                content = json.loads(line)
            except ValueError:
                content = None
            if not isinstance(content, dict):
                raise InputError(f"{self.path}, line {number}: not a receipt", why="somebody changed it")
            found.append(content)
        return found

    def add(self, contents: Iterable[Receipt]) -> str:
        """Append receipts, on disk when this returns; those whose `erasure_id` and `event` are there are left out.

        Returns:
            Hash of the last line.

        Raises:
            InputError: the file cannot be read or written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._mend()
                there = self.read()
                known = {(each["event"], each["erasure_id"]) for each in there}
                last = there[-1]["hash"] if there else START
                for content in contents:
                    if (content["event"], content["erasure_id"]) in known:
                        continue
                    line = {"number": len(there) + 1, **content, "previous": last}
                    last = line["hash"] = digest(line)
                    there.append(line)
                    file.write(_text(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error}") from None
        return str(last)

    def _mend(self) -> None:
        """Cut off the half of a line that a writer left when it died: it was never said to be there."""
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)


def broken(receipts: Iterable[Receipt], ends: Iterable[str] = ()) -> list[str]:
    """Return a sentence for each line that does not continue the chain, and if lines were cut off its end.

    Args:
        receipts: all lines.
        ends: hashes that the erasures topic has: each was the last line's once.
    """
    problems, last, seen = [], START, set()
    for number, line in enumerate(receipts, 1):
        if line.get("number") != number or line.get("previous") != last:
            problems.append(f"line {number} does not follow the line before: a line was removed, added or moved")
        if line.get("hash") != digest(line):
            problems.append(f"line {number} was changed: its content does not have its hash")
        last = line.get("hash", "")
        seen.add(last)
    if missing := [end for end in ends if end not in seen]:
        problems.append(f"the log knows of {len(missing)} ends of the chain that are not in it: lines were cut off")
    return problems


def digest(line: Receipt) -> str:
    """Return the hash of a line: SHA-256 of its JSON with sorted keys, without `hash` itself."""
    return hashlib.sha256(_text({name: value for name, value in line.items() if name != "hash"})).hexdigest()


def _text(content: Receipt) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
