"""Brokers that crash and logs that change under the workers, each time followed by the recount."""

import json
import time
from collections import Counter

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from . import oracle
from .harness import PARTITIONS, Stack, ended
from .load import Traffic

pytestmark = [pytest.mark.fault, pytest.mark.broker]


def test_broker_is_killed(stack: Stack) -> None:
    """A broker that is killed and started again, twice, costs time and nothing else."""
    with stack.load(seed=21, poison=0.01):
        workers = stack.work(2)
        stack.wait_applied()
        for _ in range(2):
            time.sleep(2)
            stack.kafka.kill()
            time.sleep(1)
            stack.kafka.start()
            stack.wait_applied(timeout=90)
    stack.assert_exact(timeout=90)
    assert all(code != 4 or worker.said("does not answer") for worker in workers for code in worker.exits)


@pytest.mark.parametrize("worker_is", ["stopped", "frozen"])
def test_topic_is_recreated(stack: Stack, worker_is: str) -> None:
    """A worker refuses a topic that was deleted and created again, also while it runs, until a rebuild."""
    stack.publish(seed=22, count=6000)
    (worker,) = stack.work()
    stack.assert_exact()
    letters = oracle.read_topic(stack.kafka.address, oracle.DEAD_LETTERS)
    worker.wanted = False
    if worker_is == "stopped":
        worker.kill()
    elif worker_is == "frozen":
        worker.pause()
    # So quickly that no client sees it missing.
    stack.admin.delete_topics([oracle.INTERACTIONS])[oracle.INTERACTIONS].result()
    topic = NewTopic(oracle.INTERACTIONS, PARTITIONS, config={"message.timestamp.type": "LogAppendTime"})
    stack.admin.create_topics([topic])[oracle.INTERACTIONS].result()
    stack.publish(seed=23, count=3000)
    if worker_is == "stopped":
        (worker,) = stack.work()
    worker.resume()
    assert ended(worker, 30) == 4
    assert worker.said("was deleted and created again: now interactions.v1 is")
    assert worker.said("run `clickwell rebuild`")
    assert "Traceback" not in worker.output()

    stack.rebuild()
    stack.work()
    stack.settle()
    log = oracle.read_topic(stack.kafka.address, oracle.INTERACTIONS)
    now_ms = stack.now_ms()
    assert oracle.read_rings(stack.client, stack.active(), now_ms) == oracle.recount(log, now_ms)
    # The offsets of the new topic are those of the old one again; its poison must not pass for theirs.
    found = Counter(letter.value for letter in oracle.read_topic(stack.kafka.address, oracle.DEAD_LETTERS))
    assert found == Counter(letter.value for letter in letters) + Counter(r.value for r in log if r.poison)


def test_partitions_are_added(stack: Stack) -> None:
    """Partitions that are added while everything runs are counted from their first record on."""
    with stack.load(seed=24):
        stack.work(2)
        stack.wait_applied()
        for partitions in (6, 9):
            request = [NewPartitions(oracle.INTERACTIONS, partitions)]
            stack.admin.create_partitions(request)[oracle.INTERACTIONS].result()
            # Producers learn of them first; nobody reads them for a while.
            time.sleep(3)
            stack.wait_applied()
    assert len(stack.ends()) == 9
    stack.assert_exact()


def test_retention_overtakes_a_worker(stack: Stack) -> None:
    """Records that retention removes before they are counted are declared as lost; the rest is exact."""
    stack.publish(seed=25, count=4000)
    stack.work()
    stack.assert_exact()
    stack.kill_workers()
    counted = oracle.read_topic(stack.kafka.address, oracle.INTERACTIONS)
    ends = stack.ends()
    stack.publish(seed=26, count=6000)
    starts = {partition: end + 500 for partition, end in ends.items() if partition != 1}
    places = [TopicPartition(oracle.INTERACTIONS, partition, start) for partition, start in starts.items()]
    for future in stack.admin.delete_records(places).values():
        future.result()

    # It dies right after it has stepped over the first gap, when nothing but the declaration tells of it.
    (worker,) = stack.work(failpoints=["after_apply:1"])
    stack.settle()
    assert worker.exits == [-9]
    left = [r for r in oracle.read_topic(stack.kafka.address, oracle.INTERACTIONS) if r not in counted]
    now_ms = stack.now_ms()
    assert oracle.read_rings(stack.client, stack.active(), now_ms) == oracle.recount(counted + left, now_ms)
    losses = {json.loads(raw)["partition"]: json.loads(raw) for raw in stack.client.lrange("{cw1}:losses", 0, -1)}
    assert {p: (loss["from"], loss["to"]) for p, loss in losses.items()} == {p: (ends[p], s) for p, s in starts.items()}


def test_transactions_in_the_log(stack: Stack) -> None:
    """Markers of transactions are no gaps, also as the last thing in the log; aborted records count like all others."""
    (worker,) = stack.work()
    producer = Producer(
        {"bootstrap.servers": stack.kafka.address, "transactional.id": "shop", "linger.ms": 5, "log_level": 0}
    )
    producer.init_transactions(30)
    traffic = Traffic(stack.kafka.address, seed=27)
    for turn in range(4):
        producer.begin_transaction()
        for number in range(200):
            value = json.dumps(traffic.event()).encode()
            producer.produce(oracle.INTERACTIONS, value, partition=number % 4)
        producer.flush(30)
        producer.abort_transaction(30) if turn == 1 else producer.commit_transaction(30)
        if turn == 2:
            stack.assert_exact()
    stack.assert_exact()
    # More markers at the end, and a rebuild that must reach them.
    stack.rebuild()
    stack.assert_exact()
    assert worker.exits == []
