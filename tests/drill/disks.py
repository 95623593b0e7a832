"""Disks that can be slow or full: a small file system for the lake, and a library that holds up a process' writes."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

# Far more than a lake of half an hour needs, in memory only as far as it is used.
_LAKE_BYTES = 512 << 20


class SmallDisk:
    """A file system of its own under a folder; where none may be mounted it is a folder, and never full.

    Args:
        folder: where; it is made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_LAKE_BYTES}", "tmpfs", str(folder)]
        self.mounted = (
            bool(shutil.which("mount")) and not subprocess.run(mount, check=False, capture_output=True).returncode
        )
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room, not even for a byte."""
        if not self.mounted:
            return
        with self._ballast.open("wb", buffering=0) as file:
            for block in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        file.write(bytes(block))

    def empty(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Give it back, with everything on it."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class SlowDisks:
    """What makes the writes of single processes slow; without a C compiler there is nothing.

    Args:
        folder: for the library, and a file for each process that is slow now.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.absolute()
        self._library = self._folder / "slow_disk.so"
        source = Path(__file__).with_name("slow_disk.c")
        self.available = _done(["cc", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"])

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of a process whose disk can be slow."""
        if not self.available:
            return {}
        return {"LD_PRELOAD": str(self._library), "DRILL_SLOW_DISK": str(self._flag(name))}

    def slow(self, name: str) -> None:
        """Let a write to a file take 10 ms more, and fsync half a second."""
        self._flag(name).touch()

    def heal(self, name: str) -> None:
        """Let them be as quick as they are."""
        self._flag(name).unlink(missing_ok=True)

    def _flag(self, name: str) -> Path:
        return self._folder / f"{name}.slow"


def _done(command: list[str]) -> bool:
    """Run a command and tell whether there is one and it went well."""
    found = shutil.which(command[0])
    return bool(found) and subprocess.run(command, check=False, capture_output=True).returncode == 0
