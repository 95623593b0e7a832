"""Kafka's program files: fetched once from Maven Central into the user's cache, then used without a network."""

import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clickwell.errors import StackError

KAFKA_VERSION = "4.3.0"
# The broker's own dependencies lack a logger, and a broker that fails without a word helps nobody.
_COORDINATES = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")


def cache_folder() -> Path:
    """Return the folder that holds the jars, whether or not they are there yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "clickwell" / f"kafka-{KAFKA_VERSION}"


def kafka_jars(say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of Kafka's jars; fetch them (44 MB) first if this machine has never done so.

    Processes that ask at the same time wait for one another. A download that was cut short leaves nothing behind.

    Args:
        say: told in one line when a download begins.

    Raises:
        StackError: the jars are not in the cache and cannot be fetched.
    """
    folder = cache_folder()
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                say(f"Fetching Kafka {KAFKA_VERSION} from Maven Central into {folder} (44 MB, once)")
                fetch(folder, _COORDINATES)
    except ImportError as error:
        raise StackError(f"{error.name} is not installed", fix="pip install 'clickwell[devstack]'") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise StackError(
            f"Kafka {KAFKA_VERSION} is not in {folder.parent} and could not be fetched from Maven Central",
            why=" ".join(str(error).split())[:300],
            fix="connect to the network for the first start, copy that folder from another machine, or name a running "
            "broker in CLICKWELL_KAFKA__BOOTSTRAP_SERVERS",
        ) from None
    return folder


def fetch(folder: Path, coordinates: Sequence[str], beginning: tuple[str, ...] = ("",)) -> None:
    """Fetch jars and what they depend on from Maven Central into a new folder.

    Args:
        folder: is there only when all jars are in it.
        coordinates: `group:artifact:version` of each.
        beginning: only files whose names begin so, when something else brings the others.

    Raises:
        OSError, RuntimeError, ValueError: they cannot be fetched.
    """
    from jgo.maven import MavenContext  # noqa: PLC0415  # slow to import, needed once a machine
    from jgo.parse import Coordinate  # noqa: PLC0415

    staging = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    context = MavenContext(repo_cache=staging / "maven", timeout=60)
    wanted = [context.create_dependency(Coordinate.parse(coordinate)) for coordinate in coordinates]
    given, transitive = context.resolver.resolve(wanted)
    artifacts = [each.artifact for each in (*given, *transitive) if each.artifact.filename.startswith(beginning)]
    (staging / "jars").mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        for jar in pool.map(lambda artifact: artifact.resolve(), artifacts):
            jar.rename(staging / "jars" / jar.name)
    (staging / "jars").rename(folder)
    shutil.rmtree(staging)
