"""Which shard a document belongs to, and the names of everything that clickwell keeps in Redis.

| key | type | holds |
|---|---|---|
| `{cw1}:active` | string | JSON of `Generation`: which counters readers use, and their layout |
| `{cw1}:building` | string | the same for counters that are being rebuilt |
| `{cw1}:discard` | set | names of replaced generations whose keys are still being removed |
| `{cw1}:fresh` | hash | `lane/topic id/partition` -> epoch ms up to which its events are applied |
| `{cw1}:workers` | hash | worker id -> JSON of its last report |
| `{cw1}:losses` | list | JSON of each range of offsets that retention took before it was applied |
| `{cw1}:keys` | hash | id of an API key -> JSON of it, with its SHA-256 in place of its text |
| `{cw1}:taken:recent`, `{cw1}:taken:older` | set | 16-byte hashes of events that API servers took last, and before |
| `{cw1}:quota:<key id>` | hash | an API key's bucket: `tokens` that were left, and `at` when, epoch ms |
| `{cw1}:shred` | hash | pseudonym -> when its key was made, epoch ms in 8 bytes, and the key, with `privacy.shred` |
| `{cw1}:ctr:d:<retriever_id>` | hash | feature_id -> `estimate low`: corrected CTR over all queries, as decimals |
| `{cw1}:ctr:q:<retriever_id>`, line break, `<query>` | hash | the same for one query, in its normal form |
| `cw1:{sNNN}:<generation>:o` | hash | the ledger: `lane/topic id/partition` -> `next-offset dedup-bucket` |
| `cw1:{sNNN}:<generation>:c:<feature_id>` | string | one document's ring, see `clickwell.schemas.rings` |
| `cw1:{sNNN}:<generation>:d:<lane>:<bucket>` | set | 8-byte hashes of the interaction_ids seen in a dedup bucket |
| `cw1:{sNNN}:<generation>:d:engagement:<bucket>` | hash | 8-byte hash of a search -> the facts that are known of it |
| `cw1:{sNNN}:<generation>:w` | set | which tables of windows there are: `<by>:h<hour>`, `<by>:d<day>` |
| `cw1:{sNNN}:<generation>:w:<by>:h<hour>`, `...:d<day>` | hash | `retriever NUL key` -> counts of a window |
| `cw1:{sNNN}:<generation>:t:<era>` | zset | trending: feature_id -> forward-decayed weight |
| `cw1:{sNNN}:h:<signal>:<user_id>` | zset | consumed: feature_id -> epoch ms of the last time |
| `cw1:{sNNN}:catalog` | hash | feature_id -> JSON of its attributes, see `clickwell.schemas.catalog` |

`NNN` is `shard_of(feature_id)`, 000 to 063, for ever; of the user_id where a key belongs to a user. The braces make all
keys of a shard live on one node of a Redis Cluster.
"""

import unicodedata
from collections.abc import Collection, Sequence

import numpy as np

SHARDS = 64

ACTIVE = "{cw1}:active"
BUILDING = "{cw1}:building"
DISCARD = "{cw1}:discard"
FRESH = "{cw1}:fresh"
WORKERS = "{cw1}:workers"
LOSSES = "{cw1}:losses"
KEYS = "{cw1}:keys"
TAKEN = "{cw1}:taken"
QUOTA = "{cw1}:quota"
PERSONAL_KEYS = "{cw1}:shred"

CORRECTED = "{cw1}:ctr:"

_TAGS = tuple(f"cw1:{{s{shard:03d}}}:" for shard in range(SHARDS))


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 of `data`, as its Java client computes it, without the sign bit.

    Source: org.apache.kafka.common.utils.Utils.murmur2, seed 0x9747b28c, then `toPositive`.
    """
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def murmur2_many(keys: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """Return `murmur2` of each key, computed for all keys at once; uint32 of shape (len(keys),)."""
    m = np.uint32(0x5BD1E995)
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    if not len(keys):
        return np.empty(0, np.uint32)
    # Each key starts at a multiple of 4 and is padded with zeros, which the tail step of murmur2 treats as absent.
    padded = b"".join(key + b"\0" * (-len(key) % 4) for key in keys)
    words = np.frombuffer(padded, "<u4")
    starts = np.concatenate(([0], np.cumsum((lengths + 3) // 4)[:-1]))
    h = np.uint32(0x9747B28C) ^ lengths.astype(np.uint32)
    for step in range(int(lengths.max()) // 4):
        live = np.flatnonzero(lengths // 4 > step)
        k = words[starts[live] + step] * m
        k = (k ^ (k >> np.uint32(24))) * m
        h[live] = (h[live] * m) ^ k
    tail = np.flatnonzero(lengths % 4)
    h[tail] = (h[tail] ^ words[starts[tail] + lengths[tail] // 4]) * m
    h = (h ^ (h >> np.uint32(13))) * m
    return (h ^ (h >> np.uint32(15))) & np.uint32(0x7FFFFFFF)


def shard_of(name: str) -> int:
    """Return the shard of a document, or of a user, 0 to 63."""
    return murmur2(name.encode()) % SHARDS


class HashMap:
    """A bounded memory of documents' murmur2 hashes: hashing in Python costs far more than one look-up.

    Args:
        capacity: documents remembered; when full, everything is forgotten, which is simpler than an LRU and as good
            when a few documents make most of the traffic.
    """

    def __init__(self, capacity: int = 1 << 17) -> None:
        self._capacity = capacity
        self._known: dict[str, int] = {}

    def of(self, feature_ids: Collection[str]) -> dict[str, int]:
        """Return a mapping that has at least the given documents. Valid until the next call."""
        known = self._known
        new = [doc for doc in feature_ids if doc not in known]
        if new:
            if len(known) + len(new) > self._capacity:
                known.clear()
                new = list(feature_ids)
            known.update(zip(new, murmur2_many([doc.encode() for doc in new]).tolist(), strict=True))
        return known


def normal_query(text: str) -> str:
    """Return the form under which equal queries are counted together: NFKC, case folded, blanks single."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def corrected_key(retriever_id: str, query_key: str | None = None) -> str:
    """Return the key of a retriever's corrected CTR, over all queries or for one, given in its normal form."""
    # A normal form holds no line break, so the two parts cannot run into each other.
    return f"{CORRECTED}d:{retriever_id}" if query_key is None else f"{CORRECTED}q:{retriever_id}\n{query_key}"


def shard_prefix(shard: int, generation: str) -> str:
    """Return what every key of a shard in a generation begins with."""
    return f"{_TAGS[shard]}{generation}:"


def ledger_key(shard: int, generation: str) -> str:
    """Return the key of a shard's ledger."""
    return f"{_TAGS[shard]}{generation}:o"


def ring_key(feature_id: str, generation: str) -> str:
    """Return the key of a document's ring."""
    return f"{_TAGS[shard_of(feature_id)]}{generation}:c:{feature_id}"


def ring_keys(feature_ids: Sequence[str], generation: str) -> list[str]:
    """Return the key of each document's ring, in order."""
    shards = (murmur2_many([doc.encode() for doc in feature_ids]) % SHARDS).tolist()
    return [f"{_TAGS[shard]}{generation}:c:{doc}" for shard, doc in zip(shards, feature_ids, strict=True)]


def trending_key(shard: int, generation: str, era: int) -> str:
    """Return the key of a shard's trending documents in an era."""
    return f"{_TAGS[shard]}{generation}:t:{era}"


def history_key(user_id: str, signal: str) -> str:
    """Return the key of the documents that a user did something with; it belongs to no generation."""
    return f"{_TAGS[shard_of(user_id)]}h:{signal}:{user_id}"


def catalog_key(shard: int) -> str:
    """Return the key of a shard's part of the catalogue; it belongs to no generation."""
    return f"{_TAGS[shard]}catalog"


def tables_key(shard: int, generation: str) -> str:
    """Return the key that holds the names of a shard's tables; a table's own key is this one, a colon, and its name."""
    return f"{_TAGS[shard]}{generation}:w"


def ledger_field(lane: str, topic_id: str, partition: int) -> str:
    """Return the field of a lane's next offset in a shard's ledger, and of its freshness in `{cw1}:fresh`."""
    return f"{lane}/{topic_id}/{partition}"
