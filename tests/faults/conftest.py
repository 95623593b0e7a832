"""One broker and one Valkey for each module, emptied for each test."""

from collections.abc import Iterator

import pytest

from .harness import Stack


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return servers that belong to this module alone."""
    with Stack(tmp_path_factory.mktemp("faults")) as stack:
        yield stack


@pytest.fixture
def stack(servers: Stack) -> Iterator[Stack]:
    """Return empty servers without workers; workers that the test starts end with it."""
    servers.fresh()
    yield servers
    servers.kill_workers()
