"""An API for the tests that look at it from outside."""

from collections.abc import Iterator

import pytest

from .api_server import Server


@pytest.fixture(scope="module")
def server(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API without any key: this machine may do everything."""
    started = Server(kafka, tmp_path_factory.mktemp("api"))
    yield started
    started.stop()
