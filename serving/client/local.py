"""Analytics and training: they work on the lake itself, so they run here, with the lake that the settings name."""

from importlib import import_module
from typing import Any

from clickwell.errors import UsageError
from clickwell.settings import Settings


class Analytics:
    """What the lake says about searches and their results.

    Args:
        settings: where the lake is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def get_retriever_signals(self, retriever_id: str, **options: Any) -> Any:
        """Return problem queries, skipped documents and rates; see `clickwell.analytics.signals`.

        Raises:
            UsageError: an extra is missing, or an option makes no sense.
            LakeError: the lake is away or empty.
        """
        find = _public("clickwell.analytics.signals", "get_retriever_signals", "analytics")
        return find(retriever_id, settings=self._settings, **options)

    def get_query_document_pairs(self, **options: Any) -> Any:
        """Return queries with good and bad documents; see `clickwell.analytics.pairs`.

        Raises:
            UsageError: an extra is missing, or an option makes no sense.
            LakeError: the lake is away or empty.
        """
        find = _public("clickwell.analytics.pairs", "get_query_document_pairs", "analytics")
        return find(self._settings, **options)


class Training:
    """From pairs to models; see `clickwell.training`.

    Args:
        settings: where an endpoint for embeddings is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def fine_tune(self, base_model: Any, training_data: Any, **options: Any) -> Any:
        """Return a model that has learned from pairs, or its base where nothing was gained.

        Raises:
            UsageError: an extra is missing, or the base is not known.
            InputError: the pairs cannot be read.
        """
        tune = _public("clickwell.training", "fine_tune", "learn")
        return tune(base_model, training_data, settings=self._settings, **options)

    def evaluate(self, model: Any, **options: Any) -> Any:
        """Return how a model compares with its base on labels.

        Raises:
            UsageError: an extra is missing.
            InputError: a file cannot be read.
        """
        return _public("clickwell.training", "evaluate", "learn")(model, **options)


def _public(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix=f"pip install 'clickwell[{extra}]'") from None
