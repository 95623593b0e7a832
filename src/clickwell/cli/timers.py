"""`clickwell insights`: alerts and corrected popularity, on their timers."""

import logging
import os
import time

import typer

from clickwell.cli import output
from clickwell.cli.lake import settings_for_lake
from clickwell.cli.output import DataOption

# A stack that has just started has more urgent work, and nothing in its lake.
_START_SECONDS = 20.0
# Below everything that people wait for, on the scale of nice(1).
_NICE = 10


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog=output.examples("clickwell insights", "CLICKWELL_ALERTS__WEBHOOK=https://... clickwell insights")
    )(insights)


def insights(*, data: DataOption = None) -> None:
    """Check alerts and publish corrected popularity, again and again; one process is enough."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = settings_for_lake(data)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    time.sleep(_START_SECONDS)

    from clickwell.analytics import timers

    timers.run(settings)
