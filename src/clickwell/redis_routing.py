"""Which node of a Redis Cluster takes which command, and what follows from a redirection. Free of I/O.

A client runs `Routes.run`: it yields what each node is to be asked, all nodes at once, and is sent the answers. Both
clients of `clickwell.redis_cluster` run the same generator.

Redirections of plain commands are followed. Those of a function are not: while a slot moves from node to node, key by
key, a function would find some of the keys that it reaches by their prefix and miss the others. It is answered with the
error instead, and whoever called it has to begin again; the ledger's comparison admits its effects once.
"""

import itertools
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

Address = tuple[str, int]
"""Host and port."""

# A key that moves on while it is asked for is redirected twice; more often only by nodes that disagree.
MOST_HOPS = 5
DISCOVERY = ("CLUSTER", "SLOTS")
# Their keys follow the name or the text, and how many they are.
_SCRIPTS = {"FCALL", "EVAL"}
# Every primary has its own library, and is to be told whether it is alive.
_EVERYWHERE = {"PING", "INFO", "FUNCTION LOAD"}


class Request(NamedTuple):
    """One command for one node.

    Attributes:
        args: name and arguments, as redis-py's `execute_command` takes them.
        options: for redis-py's treatment of the reply.
        asking: sent behind ASKING, to the node that is about to own the slot.
        place: which of the commands it is a part of.
        part: for a part of an MGET, the places of its keys.
    """

    args: tuple[Any, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    asking: bool = False
    place: int = 0
    part: tuple[int, ...] | None = None


Asked = dict[Address, list[Request]]
Answers = dict[Address, "list[Any] | Exception"]
"""The replies of each node in order, errors among them; or why there are none."""
T = TypeVar("T")
Steps = Generator[Asked, Answers, T]


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key, 0 to 16383, which its part between the first braces decides."""
    name = key.encode() if isinstance(key, str) else key
    start = name.find(b"{")
    end = name.find(b"}", start + 1)
    return _slot(name[start + 1 : end] if -1 < start < end - 1 else name)


# Shards have 64 tags; hashing one in Python takes ten times the look-up.
@lru_cache(maxsize=1024)
def _slot(name: bytes) -> int:
    return int(key_slot(name))


class Routes:
    """The nodes that own the slots, as far as is known.

    Args:
        seed: any node; it is asked for the others.
    """

    def __init__(self, seed: Address) -> None:
        self.stale = True
        self._nodes = [seed]
        self._owners: dict[int, Address] = {}

    @property
    def primaries(self) -> list[Address]:
        """The nodes that own a slot."""
        return list(dict.fromkeys(self._owners.values()))

    def find_out(self) -> Steps[None]:
        """Ask one node after the other who owns which slot, if that is not known or may have changed.

        Raises:
            redis.RedisError, OSError: no node answers.
        """
        error: Exception = ClusterDownError("CLUSTERDOWN no node is known")
        for address in list(self._nodes):
            if not self.stale:
                return
            answer = (yield {address: [Request(DISCOVERY)]})[address]
            reply = answer if isinstance(answer, Exception) else answer[0]
            if isinstance(reply, Exception):
                self.fell_silent(address)
                error = reply
            else:
                self._learn(address, reply)
        if self.stale:
            raise error

    def fell_silent(self, address: Address) -> None:
        """Note that a node did not answer: another one may own its slots soon, and it is asked last who does."""
        self.stale = True
        if address in self._nodes:
            self._nodes.remove(address)
            self._nodes.append(address)

    def _learn(self, source: Address, slots: Iterable[Sequence[Any]]) -> None:
        """Take a node's word: first slot, last slot, the primary, replicas."""
        owners: dict[int, Address] = {}
        nodes = dict.fromkeys(self._nodes)
        for first, last, *members in slots:
            # A node that was given no name of its own is where it was asked.
            places = [(_text(host) or source[0], int(port)) for host, port, *_ in members]
            owners.update(dict.fromkeys(range(first, last + 1), places[0]))
            nodes.update(dict.fromkeys(places))
        self._owners, self._nodes, self.stale = owners, list(nodes), False

    def owner(self, key: str | bytes) -> Address:
        """Return the node to be asked for a key.

        Raises:
            ClusterDownError: no node owns its slot.
        """
        try:
            return self._owners[slot_of(key)]
        except KeyError:
            self.stale = True
            raise ClusterDownError("CLUSTERDOWN no node is known for the slot") from None

    def heed(self, source: Address, reply: object) -> None:
        """Learn from a node's reply, if it is an error that tells of a change."""
        if isinstance(reply, MovedError):
            self._owners[reply.slot_id] = _named(source, reply)
        elif isinstance(reply, (ClusterDownError, ReadOnlyError)):
            self.stale = True

    def run(self, commands: Sequence[Request]) -> Steps[list[Any]]:
        """Yield what each node is to be asked, be sent the answers, and return a reply or an error for each command.

        Usually that is one round; redirections take further ones.

        Raises:
            redis.RedisError, OSError: it is not known whom to ask.
        """
        yield from self.find_out()
        replies: list[Any] = [[None] * (len(c.args) - 1) if c.args[0] == "MGET" else None for c in commands]
        asked: Asked = {}
        for place, command in enumerate(commands):
            for request in _parts(command._replace(place=place), slot_of):
                for address in self._targets(request):
                    asked.setdefault(address, []).append(request)
        for _ in range(MOST_HOPS):
            if asked:
                asked = self._take(asked, (yield asked), replies)
        for requests in asked.values():
            for request in requests:
                _put(replies, request, ClusterDownError("CLUSTERDOWN the nodes do not agree who owns a slot"))
        return replies

    def _take(self, asked: Asked, answers: Answers, replies: list[Any]) -> Asked:
        """Put answers where they belong and return what has to be asked elsewhere."""
        again: Asked = {}
        for address, requests in asked.items():
            answer = answers[address]
            if isinstance(answer, Exception):
                self.fell_silent(address)
                answer = [answer] * len(requests)
            for request, reply in zip(requests, answer, strict=True):
                self.heed(address, reply)
                elsewhere = self._redirected(address, request, reply)
                for target, repeated in elsewhere:
                    again.setdefault(target, []).append(repeated)
                if not elsewhere:
                    _put(replies, request, reply)
        return again

    def _targets(self, request: Request) -> list[Address]:
        if request.args[0] in _EVERYWHERE:
            if not self._owners:
                raise ClusterDownError("CLUSTERDOWN no node owns a slot")
            return self.primaries
        return [self.owner(key_of(request.args))]

    def _redirected(self, source: Address, request: Request, reply: object) -> list[tuple[Address, Request]]:
        """Return whom to ask instead; nobody when the reply stands."""
        if isinstance(reply, MovedError):
            return [(_named(source, reply), request._replace(asking=False))]
        if request.args[0] in _SCRIPTS:
            return []
        if isinstance(reply, AskError):
            return [(_named(source, reply), request._replace(asking=True))]
        if isinstance(reply, TryAgainError) and request.part and len(request.part) > 1:
            # Some of the keys have moved already: each is where it is.
            return [(self.owner(key_of(each.args)), each) for each in _parts(request, lambda key: key)]
        return []


def key_of(args: Sequence[Any]) -> str | bytes:
    """Return the key that decides which node takes a command; every command here has one, apart from `_EVERYWHERE`."""
    key: str | bytes = args[3] if args[0] in _SCRIPTS else args[1]
    return key


def raise_first(replies: Iterable[Any]) -> None:
    """Raise the first error among replies."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _parts(request: Request, by: Callable[[Any], Hashable]) -> Iterable[Request]:
    """Divide an MGET, which a node takes for keys of one slot only; other commands stay whole."""
    if request.args[0] != "MGET":
        return [request]
    groups: dict[Hashable, tuple[list[Any], list[int]]] = {}
    for place, key in zip(request.part or itertools.count(), request.args[1:], strict=False):
        group = groups.get(by(key))
        if group is None:
            group = groups[by(key)] = ["MGET"], []
        group[0].append(key)
        group[1].append(place)
    return [request._replace(args=tuple(args), part=tuple(places)) for args, places in groups.values()]


def _put(replies: list[Any], request: Request, reply: Any) -> None:
    """Put a reply where it belongs; an error takes the place of everything else."""
    whole = replies[request.place]
    if isinstance(whole, Exception):
        return
    if request.part is None or isinstance(reply, Exception):
        replies[request.place] = reply
        return
    for place, value in zip(request.part, reply, strict=True):
        whole[place] = value


def _named(source: Address, reply: AskError) -> Address:
    """Return the node that a redirection names; without a host it is on the one that sent it."""
    return reply.host or source[0], reply.port


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""
