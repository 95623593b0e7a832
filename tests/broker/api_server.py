"""An API process for the tests, on a real broker."""

import json
import secrets
import socket
from pathlib import Path

import httpx2
import pytest

from clickwell.devstack.process import free_port
from clickwell.devstack.stack import Api
from clickwell.devstack.valkey import ValkeyServer
from clickwell.kafka import KafkaLog
from clickwell.producers.topics import ensure_topics
from clickwell.settings import Settings
from tests.processes import wait_for

READ_SECONDS = 1
INTERACTIONS_URL = "/v1/retrievers/interactions"
SEEDS_OWN = {
    "interaction_type": ["click"],
    "position": 2,
    "metadata": {"duration_ms": 4200, "query": "trail shoes", "device": "mobile"},
    "user_id": "u-seed",
    "session_id": "s-seed",
}


def click(**fields) -> dict:
    """Return the seed page's interaction with an id of its own, and other fields."""
    return SEEDS_OWN | {"feature_id": "api-doc", "interaction_id": secrets.token_hex(8)} | fields


class Server:
    """One API process on the tests' broker and a Valkey of its own."""

    def __init__(self, kafka: str, folder: Path, **environment: str) -> None:
        self.valkey = ValkeyServer(folder)
        self.valkey.start()
        self.environment = {
            "CLICKWELL_KAFKA__BOOTSTRAP_SERVERS": kafka,
            "CLICKWELL_REDIS__URL": self.valkey.url,
            "CLICKWELL_API__READ_SECONDS": str(READ_SECONDS),
            "CLICKWELL_API__CONNECTIONS": "200",
            "CLICKWELL_API__ORIGINS": '["https://shop.example"]',
            **environment,
        }
        self.folder = folder
        self.api = Api(folder, free_port())
        self.client = httpx2.Client(base_url=self.api.address, timeout=20)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.settings = Settings.load(folder)
            ensure_topics(self.settings)
            self.start()

    def start(self) -> None:
        """Start the API, in the environment of the moment, and wait until it takes events."""
        self.api.spawn()
        wait_for(self.ready, 60, "the API to be ready")

    def ready(self) -> bool:
        """Tell whether events can be taken."""
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx2.HTTPError:
            return False

    def raw(self, request: bytes, wait: float = 5.0) -> bytes:
        """Send bytes as they are and return what comes back before the connection is closed or the time is over."""
        with socket.create_connection(("127.0.0.1", self.api.port), wait) as connection:
            answer = b""
            try:
                connection.sendall(request)
                while part := connection.recv(65536):
                    answer += part
                    if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                        break
            except TimeoutError:
                pass
            except ConnectionError:
                pass
            return answer

    def log(self, topic: str) -> list[tuple[str, bytes]]:
        """Return the ids and values of a topic's records."""
        log = KafkaLog(self.settings.kafka)
        ends = log.latest(topic, range(log.describe(topic)[1]))
        return [
            (record.headers["ce_id"].decode(), record.value or b"")
            for record in log.read(topic, dict.fromkeys(ends, 0), ends)
        ]

    def key(self, clickwell, *options: str) -> dict[str, str]:
        """Make a key as a user does and return the header that shows it."""
        made = clickwell("keys", "create", *options, "--json", "--data", self.folder, **self.environment)
        assert made.returncode == 0, made.stderr
        return {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}

    def stop(self) -> None:
        """End both processes."""
        self.client.close()
        self.api.stop()
        self.valkey.stop()
