"""The sink process: a lane for each table, a clock for maintenance, and an end that loses nothing."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time

from clickwell import exposition
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.settings import Settings
from clickwell.sinks.lane import Lane
from clickwell.sinks.measures import samples
from clickwell.sinks.table import TABLES, adopt_topic, create_table

log = logging.getLogger(__name__)

STOP_SECONDS = 18.0
# Rows are made of many small objects that live until they are columns; looking for cycles among them finds none.
_GC_THRESHOLD = 200_000


def run_sink(settings: Settings) -> int:
    """Write every topic into its table until told to stop; return the process's exit code.

    Raises:
        ClickwellError: a lane cannot go on.
    """
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    stopping, told = threading.Event(), [0]

    def stop(number: int, _frame: object) -> None:
        if told[0]:
            os._exit(128 + number)
        told[0] = number
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    failpoints = Failpoints(settings.sink.failpoint)
    lanes = [Lane(settings, table, failpoints, stopping) for table in TABLES]
    exposition.serve(settings.metrics, "sink", lambda: samples(lanes))
    for lane in lanes:
        lane.start()
    _maintain_until(stopping, settings)
    deadline = time.monotonic() + STOP_SECONDS
    for lane in lanes:
        lane.join(max(0.0, deadline - time.monotonic()))
    logging.shutdown()
    for lane in lanes:
        if lane.error is not None:
            raise lane.error
    if any(lane.is_alive() for lane in lanes):
        os._exit(128 + told[0])
    return 128 + told[0]


def accept_new_topics(settings: Settings) -> None:
    """Let each table that exists go on with the topic that is there now."""
    kafka = KafkaLog(settings.kafka)
    for table in TABLES:
        adopt_topic(create_table(settings, table), kafka.describe(table.topic.name)[0])


def _maintain_until(stopping: threading.Event, settings: Settings) -> None:
    """Compact and vacuum now and then, in a process of its own: it sorts, which takes memory and time."""
    every = settings.sink.maintain_seconds
    child: subprocess.Popen[bytes] | None = None
    due = time.monotonic() + every
    while not stopping.wait(0.5):
        if child is not None and child.poll() is not None:
            if child.returncode:
                log.warning("maintenance ended with exit code %d", child.returncode)
            child = None
        if every and child is None and time.monotonic() >= due:
            due = time.monotonic() + every
            command = [sys.executable, "-m", "clickwell", "lake", "compact", "--vacuum", "--data", str(settings.data)]
            child = subprocess.Popen(command)  # noqa: S603  # our own command
    if child is not None:
        child.terminate()
        child.wait()
