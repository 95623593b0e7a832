"""The deployment's secret keys: from the settings, else from a file of the data folder."""

import hashlib
import json
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from clickwell.errors import SettingsError
from clickwell.schemas.marks import Keys
from clickwell.settings import Settings

KEY_FILE = "privacy-keys.json"


def load_keys(settings: Settings, *, create: bool = False) -> Keys:
    """Return the keys.

    Args:
        settings: where they are.
        create: make the file if there is no key anywhere; for those who are the first to need one.

    Raises:
        SettingsError: there is none, or the file cannot be used.
    """
    if settings.privacy.keys:
        return Keys({name: secret.get_secret_value().encode() for name, secret in settings.privacy.keys.items()})
    path = settings.data / KEY_FILE
    try:
        if create and not path.exists():
            write_once(path, _new_key())
        return Keys({name: secret.encode() for name, secret in json.loads(path.read_text()).items()})
    except FileNotFoundError:
        raise SettingsError(
            f"there is no key in {path}",
            why="events of erased people are known by keyed marks",
            fix="set CLICKWELL_PRIVACY__KEYS to the same keys on every host, or share the eraser's data folder",
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise SettingsError(f"{path} cannot be used: {error}") from None


def missing_key(key: str) -> SettingsError:
    """Return the error for marks whose key is not at hand; to go on would let erased people back in."""
    return SettingsError(
        f"key {key!r} is not among the privacy keys of this process",
        why="an erasure was marked with it, so the events of its subject cannot be told from others",
        fix="set CLICKWELL_PRIVACY__KEYS to the same keys on every host; old keys stay as long as their receipts",
    )


def write_once(path: Path, secret: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all; if there is one already, that one stays.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under a name that no other process or thread uses, and mode 0600.
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        Path(part).unlink()


def _new_key() -> bytes:
    secret = secrets.token_hex(32)
    # Its id tells keys of different folders apart.
    return json.dumps({f"k{hashlib.sha256(secret.encode()).hexdigest()[:6]}": secret}).encode() + b"\n"
