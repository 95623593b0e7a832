"""Turns what people do with search results into better search.

The public names are loaded on first use, so that a service which only emits events never imports the readers:

- `Emitter`, `AsyncEmitter` send interactions and searches to Kafka;
- `BoostReader`, `AsyncBoostReader` read popularity boosts from Redis in one round trip;
- `rerank` orders a result list by them;
- `InteractionReader`, `AsyncInteractionReader` read what a user did: exclusions, preferences, a personal order;
- `Client`, `AsyncClient` talk to the HTTP API, and run analytics and training on the lake;
- `Interaction`, `Search` are the events.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickwell.producers.aio import AsyncEmitter
    from clickwell.producers.emitter import Emitter
    from clickwell.schemas.interactions import Interaction
    from clickwell.schemas.searches import Search
    from clickwell.serving.boosts import AsyncBoostReader, BoostReader
    from clickwell.serving.client.aio import AsyncClient
    from clickwell.serving.client.blocking import Client
    from clickwell.serving.interactions import AsyncInteractionReader, InteractionReader
    from clickwell.serving.rerank import rerank

__version__ = version("clickwell")

_HOMES = {
    "AsyncBoostReader": "clickwell.serving.boosts",
    "AsyncClient": "clickwell.serving.client.aio",
    "AsyncEmitter": "clickwell.producers.aio",
    "AsyncInteractionReader": "clickwell.serving.interactions",
    "BoostReader": "clickwell.serving.boosts",
    "Client": "clickwell.serving.client.blocking",
    "Emitter": "clickwell.producers.emitter",
    "Interaction": "clickwell.schemas.interactions",
    "InteractionReader": "clickwell.serving.interactions",
    "Search": "clickwell.schemas.searches",
    "rerank": "clickwell.serving.rerank",
}

__all__ = [
    "AsyncBoostReader",
    "AsyncClient",
    "AsyncEmitter",
    "AsyncInteractionReader",
    "BoostReader",
    "Client",
    "Emitter",
    "Interaction",
    "InteractionReader",
    "Search",
    "__version__",
    "rerank",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clickwell' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
