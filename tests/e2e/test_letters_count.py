"""From a bad event to its count, by the command line alone."""

import json

import pytest
from confluent_kafka import Producer

from tests.processes import commands_on, wait_for

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A whole stack as `clickwell up` starts it, and a function that runs the command line against it."""
    data = tmp_path_factory.mktemp("stack")
    run = commands_on(data)
    run("up", "--detach", "--workers", "1")
    yield run, data
    run("down")


def counted(run, document):
    rows = [json.loads(line) for line in run("counts", "--jsonl").splitlines()]
    return {row["signal"]: row["count"] for row in rows if row["feature_id"] == document}


def test_a_mended_event_counts_once(stack, tmp_path):
    """A record that no worker took is dead-lettered, mended, replayed twice, and counts once."""
    run, data = stack
    kafka = json.loads((data / "stack.json").read_text())["kafka"]["bootstrap_servers"]
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce("interactions.v1", b'{"feature_id": "tent", "interaction_type": "purchase"}', b"tent")
    producer.flush(30)
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps({"feature_id": "stove", "interaction_type": ["click"]}) + "\n")
    (letter,) = wait_for(lambda: json.loads(run("dead-letters", "list", "--json"))["letters"], 60, "the dead letter")
    assert (letter["reason"], letter["field"]) == ("invalid_field", "interaction_type")
    run("dead-letters", "fix", letter["id"], "--set", 'interaction_type=["purchase"]')
    run("dead-letters", "replay", letter["id"])
    run("dead-letters", "replay", "--all")
    run("publish", good, "--wait")
    assert counted(run, "tent") == {"purchase": 1}
    assert json.loads(run("audit", "--json"))["differences"] == []
