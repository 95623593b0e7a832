"""Sinks that are killed, frozen, joined and starved of space, each time followed by equality with the log."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from clickwell.failpoints import NAMES

from .harness import Stack, wait_for
from .lake import Sink, assert_lake_is_log, publish_searches, wait_written

pytestmark = [pytest.mark.fault, pytest.mark.broker]


@pytest.fixture
def sinks(stack: Stack, tmp_path: Path) -> Iterator["Sinks"]:
    """Return a maker of sinks into an empty lake."""
    made = Sinks(stack, tmp_path)
    yield made
    made.kill()


class Sinks:
    """Makes sinks, and checks what they wrote."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder, self.kafka = stack, folder, stack.kafka.address
        self.made: list[Sink] = []

    def start(self, *failpoints: str, **settings: str) -> Sink:
        """Start one."""
        sink = Sink(f"sink-{len(self.made) + 1}", self.folder, self.kafka, failpoints, **settings)
        sink.spawn()
        self.made.append(sink)
        return sink

    def settle(self, timeout: float = 60) -> int:
        """Wait for the log's end and compare."""
        wait_written(self.folder / "lake", self.kafka, self.made, timeout)
        return assert_lake_is_log(self.folder / "lake", self.kafka)

    def kill(self) -> None:
        """End all."""
        for sink in self.made:
            sink.kill()


@pytest.mark.parametrize(
    "name", ["before_files", "after_files", "after_commit", "before_dead_letter", "after_dead_letter"]
)
def test_killed_at_a_failpoint(stack: Stack, sinks: Sinks, name: str) -> None:
    """A sink that is killed at the 1st, 2nd and 4th visit of a place leaves every event in the lake once."""
    assert name in NAMES
    visits = [f"{name}:{visit}" for visit in (1, 2, 4)]
    stack.publish(seed=3, count=3000)
    publish_searches(sinks.kafka, 300)
    sink = sinks.start(*visits)
    with stack.load(seed=4, rate=1000, poison=0.02):
        wait_for(lambda: sink.tend() or len(sink.exits) == len(visits), 60, "the kills")
    assert sink.exits == [-9] * len(visits)
    assert sinks.settle() > 3000


def test_a_frozen_sink_wakes_up_beside_its_successor(stack: Stack, sinks: Sinks) -> None:
    """Two sinks share a group; one is frozen past its session, the other takes over, the first one wakes up."""
    with stack.load(seed=5, rate=1500, poison=0.01):
        first, second = sinks.start(), sinks.start()
        for _ in range(2):
            stack.publish(seed=6, count=1000)
            wait_for(
                lambda: "wrote" in first.log.read_text() and "wrote" in second.log.read_text(), 30, "both to write"
            )
            assert first.pid
            os.kill(first.pid, signal.SIGSTOP)
            told = second.said("reads 0 from")
            wait_for(lambda told=told: second.said("reads 0 from") > told, 40, "the take-over")
            os.kill(first.pid, signal.SIGCONT)
    sinks.settle()
    assert first.exits == second.exits == []


def test_sinks_of_other_groups_write_nothing_twice(stack: Stack, sinks: Sinks) -> None:
    """Sinks that know nothing of one another, all reading everything, write every event once together."""
    with stack.load(seed=7, rate=1500):
        for number in range(2):
            sinks.start(
                KAFKA__GROUP=f"group-{number}", SINK__DEAD_LETTER_TOPICS="[]" if number else '["interactions.v1"]'
            )
        publish_searches(sinks.kafka, 200)
        wait_for(lambda: all(sink.said("wrote") for sink in sinks.made), 60, "both to write")
    sinks.settle()
