"""The proof that erased people are gone: the chain of receipts, and a search of every store for their marks.

No name is needed: what the stores hold is marked with the keys and compared with the marks of the receipts.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clickwell.analytics.privacy.histories import HISTORY_KEYS, history_until, history_user
from clickwell.analytics.privacy.receipts import Receipts, broken
from clickwell.erasures import ErasureLog
from clickwell.errors import UsageError
from clickwell.kafka import KafkaLog
from clickwell.privacy import load_keys, missing_key
from clickwell.redis_client import connect, redis_errors
from clickwell.schemas.controls import Subject
from clickwell.schemas.erased import Subjects, names_in
from clickwell.schemas.marks import UnknownKeyError
from clickwell.schemas.topics import DEAD_LETTERS
from clickwell.sealing import made_ms, store_of
from clickwell.settings import Settings
from clickwell.sinks.compact import live_files
from clickwell.sinks.erase import traces
from clickwell.sinks.standing import exists
from clickwell.sinks.table import TABLES, open_table, storage_errors

_SCAN_COUNT = 1000


@dataclass
class Proof:
    """What was searched and found.

    Attributes:
        receipts: how many erasures were looked for.
        searched: store -> files, keys or records.
        found: one sentence for each place where something is that must not be.
        pending: one sentence for each place that goes by itself, with its date in the receipt.
        chain: one sentence for each break of the chain of receipts.
    """

    receipts: int
    searched: dict[str, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)


def prove(settings: Settings, erasure_ids: Iterable[str] = ()) -> Proof:
    """Check the chain of receipts and search the lake, Redis, the dead letters and the spool.

    Args:
        settings: where the stores are.
        erasure_ids: of the receipts to look for; all when empty.

    Raises:
        InputError: the receipts cannot be read.
        UsageError: there is no receipt for an id.
        SettingsError: a key of the receipts is missing.
        DependencyError: a store is away.
    """
    receipts = Receipts(settings).read()
    wanted = set(erasure_ids)
    erased = [each for each in receipts if each.get("event") == "erased"]
    if unknown := wanted - {each["erasure_id"] for each in erased}:
        raise UsageError(f"there is no receipt for {', '.join(sorted(unknown))}", fix="`clickwell receipts list`")
    chosen = [each for each in erased if not wanted or each["erasure_id"] in wanted]
    log = ErasureLog(settings, KafkaLog(settings.kafka))
    log.catch_up()
    proof = Proof(len(chosen), chain=broken(receipts, log.receipts))
    if not chosen:
        return proof
    keys = load_keys(settings)
    subjects = Subjects(lambda: keys)
    subjects.add(map(_subject, chosen))
    try:
        _search_lake(settings, subjects, {each["erasure_id"]: each for each in chosen}, proof)
        _search_redis(settings, subjects, proof)
        _search_keys(settings, subjects, proof)
        _search_dead_letters(settings, subjects, proof)
        _search_spool(settings, subjects, proof)
    except UnknownKeyError as error:
        raise missing_key(str(error)) from None
    return proof


def named_in(value: bytes, subjects: Subjects) -> set[str]:
    """Return the erasures whose subject the bytes of an event name, valid or not; times are not looked at."""
    return {
        subject.erasure_id
        for kind, name in names_in(value)
        for subject, _ in subjects.among(kind, [name]).get(name, ())
    }


def _subject(receipt: dict[str, Any]) -> Subject:
    return Subject(
        erasure_id=receipt["erasure_id"],
        kind=receipt["subject"]["kind"],
        key=receipt["subject"]["key"],
        marks=tuple(receipt["subject"]["marks"]),
        requested_ms=receipt["requested_ms"],
        since=receipt["range"]["from"],
        until=receipt["range"]["to"],
    )


def _search_lake(settings: Settings, subjects: Subjects, receipts: dict[str, Any], proof: Proof) -> None:
    now_ms = time.time_ns() // 1_000_000
    due = max(
        (store["old_files_gone_by_ms"] for each in receipts.values() for store in each["stores"]["lake"].values()),
        default=0,
    )
    for table in TABLES:
        if not exists(settings, table):
            continue
        delta = open_table(settings, table)
        with storage_errors(settings):
            live = {file.path for file in live_files(delta)}
            with_traces = traces(delta, subjects)
        proof.searched[f"lake files of {table.name}"] = len(live)
        for path in with_traces:
            if path in live:
                proof.found.append(f"lake: {table.name}/{path} holds erased rows")
            elif now_ms > due:
                proof.found.append(f"lake: {table.name}/{path} holds erased rows and should be gone")
            else:
                proof.pending.append(
                    f"lake: {table.name}/{path} is no longer part of the table and goes after the grace"
                )


def _search_redis(settings: Settings, subjects: Subjects, proof: Proof) -> None:
    """Look at what is kept for each person; what is counted for documents is compared by the audit."""
    keys = 0
    with connect(settings) as client, redis_errors():
        for key in client.scan_iter(match=HISTORY_KEYS, count=_SCAN_COUNT):
            keys += 1
            user = history_user(key)
            for subject, _ in subjects.among("user_id", [user]).get(user, ()):
                since = "-inf" if subject.since is None else subject.since
                if client.zcount(key, since, f"({history_until(subject)}"):
                    proof.found.append(f"redis: the history of the user of erasure {subject.erasure_id} has entries")
    proof.searched["histories in Redis"] = keys


def _search_keys(settings: Settings, subjects: Subjects, proof: Proof) -> None:
    """Look for keys with which a subject's name in the log could still be read; one who came back has a new key."""
    if not settings.privacy.shred:
        return
    keys = 0
    for name, secret in store_of(settings).every():
        keys += 1
        for subject, _ in subjects.among("user_id", [name]).get(name, ()):
            if subject.whole_user and made_ms(secret) < subject.requested_ms:
                proof.found.append(f"keys: the key of the user of erasure {subject.erasure_id} is still there")
    proof.searched["keys of users"] = keys


def _search_dead_letters(settings: Settings, subjects: Subjects, proof: Proof) -> None:
    log = KafkaLog(settings.kafka)
    _, partitions = log.describe(DEAD_LETTERS.name)
    ends = log.latest(DEAD_LETTERS.name, range(partitions))
    letters, named = 0, 0
    for letter in log.read(DEAD_LETTERS.name, dict.fromkeys(ends, 0), ends):
        letters += 1
        named += bool(named_in(letter.value or b"", subjects))
    proof.searched["dead letters"] = letters
    if named:
        proof.pending.append(f"dead letters: {named} name a subject and go with the topic's retention")


def _search_spool(settings: Settings, subjects: Subjects, proof: Proof) -> None:
    if settings.emitter.spool is None:
        return
    files = list(_files(settings.emitter.spool))
    proof.searched["files of the spool"] = len(files)
    for path in files:
        if named_in(path.read_bytes(), subjects):
            proof.pending.append(f"spool: {path.name} holds events of a subject, which nobody will count or keep")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
