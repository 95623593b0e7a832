"""`clickwell insights`: alerts and corrected popularity, on their timers."""

import os
import time

import typer

from clickwell import logs
from clickwell.cli import output
from clickwell.cli.lake import settings_for_lake
from clickwell.cli.output import DataOption, MetricsPortOption

# A stack that has just started has more urgent work, and nothing in its lake.
_START_SECONDS = 20.0
# Below everything that people wait for, on the scale of nice(1).
_NICE = 10


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog=output.examples("clickwell insights", "CLICKWELL_ALERTS__WEBHOOK=https://... clickwell insights")
    )(insights)


def insights(*, metrics_port: MetricsPortOption = None, data: DataOption = None) -> None:
    """Check alerts and publish corrected popularity, again and again; one process is enough."""
    settings = settings_for_lake(data, **output.metrics_on(metrics_port))
    logs.set_up(settings.log)
    if hasattr(os, "nice"):
        os.nice(_NICE)

    from clickwell import exposition
    from clickwell.analytics import alerting, timers

    exposition.serve(settings.metrics, "insights", lambda: alerting.open_now(settings))
    time.sleep(_START_SECONDS)
    timers.run(settings)
