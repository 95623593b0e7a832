"""Routing in a cluster, against a cluster in memory whose slots move while it is asked."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from clickwell.redis_routing import Answers, Asked, Request, Routes, slot_of
from clickwell.schemas import keys

NODES = [("10.0.0.1", 7000), ("10.0.0.2", 7000), ("10.0.0.3", 7001)]
NAMES = [f"cw1:{{s{shard:03d}}}:g:c:doc-{doc}" for shard in range(4) for doc in range(3)]
SLOTS = sorted({slot_of(name) for name in NAMES})


@dataclass
class FakeCluster:
    """Keys that answer their own name, on the node that has them; a moving slot has some of its keys on the target."""

    owner: dict[int, int]
    moving: dict[int, tuple[int, frozenset[str]]] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    rounds: int = 0

    def ask(self, asked: Asked) -> Answers:
        """Answer for all nodes."""
        self.rounds += 1
        return {
            address: OSError("refused")
            if NODES.index(address) in self.dead
            else [self._reply(NODES.index(address), request) for request in requests]
            for address, requests in asked.items()
        }

    def _reply(self, node: int, request: Request) -> Any:
        name, *args = request.args
        if name == "CLUSTER":
            return [[slot, slot, [*NODES[owner], b"id"]] for slot, owner in self.owner.items()]
        if name == "PING":
            return node
        wanted = args[2 : 2 + args[1]] if name == "FCALL" else args
        (slot,) = {slot_of(key) for key in wanted}
        owner = self.owner[slot]
        target, gone = self.moving.get(slot, (owner, frozenset()))
        here = {key for key in wanted if (key in gone) == (node == target != owner)}
        if node != owner and not (node == target and request.asking):
            return MovedError(f"{slot} {NODES[owner][0]}:{NODES[owner][1]}")
        if here and here != {*wanted}:
            return TryAgainError("unstable")
        if not here and node == owner:
            return AskError(f"{slot} {NODES[target][0]}:{NODES[target][1]}")
        values = [key if key in here else None for key in wanted]
        return values if name == "MGET" else values[0]


def drive(routes: Routes, cluster: FakeCluster, *commands: tuple[Any, ...]) -> list[Any]:
    """Run commands as a client does."""
    steps = routes.run([Request(command) for command in commands])
    try:
        asked = next(steps)
        while True:
            asked = steps.send(cluster.ask(asked))
    except StopIteration as end:
        return end.value


owners = st.fixed_dictionaries({slot: st.integers(0, 2) for slot in SLOTS})
movings = st.dictionaries(
    st.sampled_from(SLOTS), st.tuples(st.integers(0, 2), st.frozensets(st.sampled_from(NAMES))), max_size=len(SLOTS)
)


@given(st.text(alphabet="{}ab", max_size=8))
def test_slots_are_the_servers(key: str) -> None:
    """Whatever braces a key has, its slot is the one that the protocol says."""
    assert slot_of(key) == slot_of(key.encode()) == key_slot(key.encode())


def test_keys_of_a_shard_share_a_slot() -> None:
    """All that one call of a lane reaches, and all pointers, are on one node."""
    for shard in range(keys.SHARDS):
        tag = keys.shard_prefix(shard, "g")
        assert slot_of(tag) == slot_of(keys.ledger_key(shard, "g")) == slot_of(keys.catalog_key(shard))
    assert slot_of(keys.history_key("u", "click")) == slot_of(keys.shard_prefix(keys.shard_of("u"), "g"))
    assert len({slot_of(key) for key in (keys.ACTIVE, keys.BUILDING, keys.DISCARD, keys.FRESH, keys.KEYS)}) == 1


@given(owners, owners, movings, st.lists(st.sampled_from(NAMES), min_size=1, max_size=20))
def test_reads_find_every_key_wherever_it_moved(before, after, moving, wanted) -> None:
    """Plain commands have the right answers in their order, after any change of owners and in the middle of moves."""
    cluster = FakeCluster(before)
    routes = Routes(NODES[0])
    assert drive(routes, cluster, ("GET", NAMES[0])) == [NAMES[0]]
    assert cluster.rounds == 2
    cluster.owner, cluster.moving = after, {slot: move for slot, move in moving.items() if move[0] != after[slot]}
    singles = [("GET", name) for name in wanted]
    assert drive(routes, cluster, ("MGET", *wanted), *singles) == [wanted, *wanted]


@given(owners, owners, st.sampled_from(NAMES))
def test_functions_follow_an_owner_but_never_a_move(before, after, name) -> None:
    """A function goes to a slot's new owner, but in the middle of a move it fails rather than see half of the keys."""
    cluster = FakeCluster(before)
    routes = Routes(NODES[0])
    drive(routes, cluster, ("GET", name))
    cluster.owner = after
    assert drive(routes, cluster, ("FCALL", "f", 1, name)) == [name]
    slot = slot_of(name)
    cluster.moving = {slot: ((after[slot] + 1) % 3, frozenset({name}))}
    (reply,) = drive(routes, cluster, ("FCALL", "f", 1, name))
    assert isinstance(reply, AskError)


def test_healthy_clusters_take_one_round() -> None:
    """Once the owners are known every list of documents costs one exchange with each node."""
    cluster = FakeCluster({slot: number % 3 for number, slot in enumerate(SLOTS)})
    routes = Routes(NODES[1])
    drive(routes, cluster, ("PING",))
    cluster.rounds = 0
    assert drive(routes, cluster, ("MGET", *NAMES), ("GET", NAMES[3])) == [NAMES, NAMES[3]]
    assert cluster.rounds == 1


def three() -> FakeCluster:
    """Return a cluster whose three nodes all own slots."""
    return FakeCluster({slot: number % 3 for number, slot in enumerate(SLOTS)})


def test_a_dead_node_is_asked_last() -> None:
    """Its keys have the error for an answer, others their values; then the other nodes are asked who owns what."""
    cluster, routes = three(), Routes(NODES[0])
    drive(routes, cluster, ("PING",))
    cluster.dead = {0}
    replies = drive(routes, cluster, *[("GET", name) for name in NAMES])
    lost = {name for name in NAMES if cluster.owner[slot_of(name)] == 0}
    assert {name for name, reply in zip(NAMES, replies, strict=True) if isinstance(reply, OSError)} == lost != set()
    assert routes.stale
    cluster.owner = {slot: owner or 2 for slot, owner in cluster.owner.items()}
    assert drive(routes, cluster, *[("GET", name) for name in NAMES]) == NAMES


def test_nobody_answers() -> None:
    """The error of the last node that was asked is raised."""
    cluster = three()
    cluster.dead = {0}
    with pytest.raises(OSError, match="refused"):
        drive(Routes(NODES[0]), cluster, ("GET", NAMES[0]))


def test_every_primary_is_asked() -> None:
    """What concerns the servers themselves goes to all that own slots; if one is dead, or there is none, it fails."""
    cluster, routes = three(), Routes(NODES[1])
    assert drive(routes, cluster, ("PING",)) == [2]
    cluster.dead = {0}
    assert isinstance(drive(routes, cluster, ("PING",))[0], OSError)
    with pytest.raises(ClusterDownError):
        drive(Routes(NODES[1]), FakeCluster({}), ("PING",))
