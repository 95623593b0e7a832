"""One of two brokers dies under load: nothing that was acknowledged is lost, in the counters or in the lake."""

import os
from collections.abc import Iterator

import pytest

from tests.processes import wait_for

from . import oracle, parts
from .brokers import TwoBrokerStack
from .lake import assert_lake_is_log, publish_searches, wait_written
from .load import Load, Traffic

pytestmark = [
    pytest.mark.fault,
    pytest.mark.broker,
    # Two brokers, a controller and all that works with them starve on two cores that another file's tests share; one
    # such run ended with a window's row off by one, which is not explained yet.
    pytest.mark.skipif(
        not os.environ.get("CLICKWELL_TEST_BROKERS"), reason="set CLICKWELL_TEST_BROKERS=1 on a machine of its own"
    ),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoBrokerStack]:
    """Return two brokers and a Valkey that belong to this module alone."""
    with TwoBrokerStack(tmp_path_factory.mktemp("brokers")) as stack:
        yield stack


def test_each_broker_is_killed_once(stack: TwoBrokerStack) -> None:
    """The broker that leads most is killed, comes back and catches up, then the other: exact counts, a whole lake.

    A worker that has not heard of the first one's return yet knows no broker that is alive; it ends itself.
    """
    traffic = Traffic(stack.kafka.address, seed=81)
    # The workers dead-letter the other topic.
    sink = parts.sink("sink", stack.folder, stack.kafka.address, SINK__DEAD_LETTER_TOPICS='["searches.v1"]')
    sink.spawn()
    try:
        with Load(traffic, 500):
            stack.work(2)
            stack.wait_applied(2000, timeout=120)
            for _ in range(2):
                victim = stack.leader_of_most()
                before = stack.applied()
                victim.kill()
                wait_for(lambda: stack.applied() > before + 1000, 120, "progress with one broker")  # noqa: B023
                victim.start()
                stack.wait_in_sync()
        # Each record is acknowledged once, so the log holds each once.
        assert len(oracle.read_topic(stack.kafka.address, oracle.INTERACTIONS)) == traffic.sent
        # What a dying broker took and had not acknowledged, nobody can see at first: such a letter is written again.
        stack.assert_exact(90, letters_once=False)
        publish_searches(stack.kafka.address, 200)
        wait_written(stack.folder / "lake", stack.kafka.address, [sink], 90)
        assert_lake_is_log(stack.folder / "lake", stack.kafka.address, letters_once=False)
    finally:
        sink.kill()
