"""The page on which Prometheus reads what the metrics are now."""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from clickwell.errors import UsageError
from clickwell.metrics import BUILD, Histogram, Part, Samples
from clickwell.settings import MetricsSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class _Collector:
    """Asks for the samples each time the page is read, and gives them to the client library in families."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Any]:
        """Yield a family for each metric that has samples."""
        from prometheus_client.core import (  # noqa: PLC0415  # a base install lacks it
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        families: dict[str, Any] = {}
        for metric, labels, value in self._samples():
            family = families.get(metric.name)
            if family is None:
                family = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
                families[metric.name] = family
            if isinstance(value, Histogram):
                family.add_metric(labels, value.buckets(), value.sum)
            else:
                family.add_metric(labels, value)
        yield from families.values()


def page(samples: Samples) -> str:
    """Return samples in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415  # a base install lacks it

    registry = CollectorRegistry()
    registry.register(_Collector(samples))
    return generate_latest(registry).decode()


def registry_of(part: Part, samples: Samples) -> "CollectorRegistry":
    """Return a registry with one part's samples, its version, and the process's memory, CPU and open files."""
    from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415  # a base install lacks it

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(lambda: (BUILD(1, version("clickwell"), part), *samples())))
    return registry


def serve(settings: MetricsSettings, part: Part, samples: Samples) -> Callable[[], None]:
    """Serve `/metrics` from a thread of its own as long as the process lives; nothing when the port is 0.

    Returns:
        What ends it, for those who outlive it.

    Raises:
        UsageError: the port is taken, or the host not of this machine.
    """
    if not settings.port:
        return lambda: None
    from prometheus_client import start_http_server  # noqa: PLC0415  # a base install lacks it

    try:
        server, thread = start_http_server(settings.port, settings.host, registry_of(part, samples))
    except OSError as error:
        raise UsageError(
            f"metrics cannot be served on {settings.host}:{settings.port}: {error.strerror or error}",
            fix="choose another `--metrics-port` for each process of a machine, or 0 for none",
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
