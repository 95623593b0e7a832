"""Dead letters that are mended and put back on a real broker: each once, whoever is killed."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from clickwell.cli import app
from clickwell.dead_letters import DeadLetters, Source
from clickwell.errors import ClickwellError, DecodeError, KafkaError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog
from clickwell.producers.erasures import request_erasure
from clickwell.producers.topics import ensure_topics
from clickwell.schemas.erasure import Erasure
from clickwell.schemas.topics import DEAD_LETTERS, INTERACTIONS
from clickwell.schemas.wire import new_id
from clickwell.serving.letters.book import Filter
from clickwell.serving.letters.read import read_book, read_values
from clickwell.serving.letters.replay import REPLAY_OF, Replayer
from clickwell.settings import Settings

pytestmark = pytest.mark.broker

PARTITIONS = itertools.count(1000)


class Bad:
    """A record that no worker takes."""

    def __init__(self, offset, value):
        self.offset, self.value, self.key, self.timestamp = offset, value, b"k", int(time.time() * 1000) - 60_000


@pytest.fixture(scope="module")
def settings(kafka):
    settings = Settings(kafka={"bootstrap_servers": kafka})
    ensure_topics(settings)
    return settings


@pytest.fixture(scope="module")
def log(settings):
    return KafkaLog(settings.kafka)


@pytest.fixture
def source():
    """Where the records of one test come from: a topic id and partition that no other test has."""
    return Source(INTERACTIONS.name, new_id().replace("-", "")[-22:], next(PARTITIONS))


@pytest.fixture
def write(settings, log, source):
    """A function that dead-letters values as a worker does it, at offsets from 0, and returns how many were new."""

    def write(*values):
        written = writer(settings).write(source, bad(*values))
        committed(log)
        return written

    return write


def writer(settings):
    """The letters of one worker."""
    return DeadLetters(settings.kafka, KafkaLog(settings.kafka), Failpoints())


def bad(*values):
    """Bad records with these values, at offsets from 0."""
    return [(Bad(n, value), DecodeError("missing_field", "no", field="x")) for n, value in enumerate(values)]


def committed(log, source=None):
    """A source's letters once all transactions are over: some are a little after the commit."""
    ends = log.latest(DEAD_LETTERS.name, range(log.describe(DEAD_LETTERS.name)[1]))
    records = list(log.read(DEAD_LETTERS.name, dict.fromkeys(ends, 0), ends, committed=True, whole=ends))
    return [one for one in records if source and one.headers.get("topic_id") == source.topic_id.encode()]


def click(**fields):
    return json.dumps({"feature_id": "a", "interaction_type": ["click"], **fields}).encode()


def letters_of(book, source):
    return [one for one in book.select(Filter()) if one.origin.topic_id == source.topic_id]


def replay(settings, source, **options):
    """Replay the letters of one source and return the outcomes by offset."""
    with Replayer(settings, **options) as replayer:
        letters = letters_of(replayer.book, source)
        done = {one.id: one.outcome for one in replayer.replay(letters)}
    return {letter.origin.offset: done[letter.id] for letter in letters}


def put_back(log, source):
    """Every record of the topic that came from a source's letters, also those of aborted transactions."""
    ends = log.latest(INTERACTIONS.name, range(log.describe(INTERACTIONS.name)[1]))
    records = log.read(INTERACTIONS.name, dict.fromkeys(ends, 0), ends)
    return [one for one in records if one.headers.get(REPLAY_OF, b"").startswith(source.topic_id.encode())]


def test_a_letter_keeps_its_record_byte_for_byte(settings, log, write, source):
    """The value that is read back is the one that was received, whatever bytes it had."""
    values = [b"\xff\x00{oops", None, b""]
    assert write(*values) == 3
    found = letters_of(read_book(settings), source)
    kept = read_values(log, [one.place for one in found])
    assert [kept[one.place] for one in found] == values
    assert [(one.id, one.state) for one in found] == [
        (f"{INTERACTIONS.name}/{source.partition}/{n}", "open") for n in range(3)
    ]


def test_a_letter_goes_back_once(settings, log, write, source):
    """A second replay finds nothing to do; what is no event yet stays, and goes back once it is mended."""
    write(click(interaction_id="i1", timestamp=1_780_000_000_000), b'{"feature_id": "b"}')
    assert replay(settings, source) == {0: "replayed", 1: "invalid"}
    with Replayer(settings) as replayer:
        first, second = letters_of(replayer.book, source)
        (refused,) = replayer.fix([second], lambda _: b"{}")
        assert (refused.outcome, refused.reason) == ("invalid", "missing_field")
        done = list(replayer.fix([first, second], lambda _: click(feature_id="wrong")))
        done += replayer.fix([second], lambda value: value.replace(b"wrong", b"b"))
        assert [one.outcome for one in done] == ["already", "fixed", "fixed"]
        outcomes = [one.outcome for one in replayer.replay([first, second])]
    assert sorted(outcomes) == ["already", "replayed"]
    assert replay(settings, source) == {0: "already", 1: "already"}
    there = {json.loads(one.value)["feature_id"]: one for one in put_back(log, source)}
    assert there["a"].value == click(interaction_id="i1", timestamp=1_780_000_000_000)
    mended = json.loads(there["b"].value)
    assert mended["interaction_id"] == f"letter:{source.topic_id}/{source.partition}/1"
    assert mended["timestamp"] == letters_of(read_book(settings), source)[1].received_ms
    assert len(put_back(log, source)) == 2


# The child does what `clickwell dead-letters replay` does, and is killed at a named place.
CHILD = """
import sys
from clickwell.failpoints import Failpoints
from clickwell.serving.letters.book import Filter
from clickwell.serving.letters.replay import Replayer
from clickwell.settings import Settings
address, topic_id, failpoint = sys.argv[1:]
with Replayer(Settings(kafka={"bootstrap_servers": address}), Failpoints(failpoint)) as replayer:
    list(replayer.replay(one for one in replayer.book.select(Filter()) if one.origin.topic_id == topic_id))
"""


@pytest.mark.parametrize(("failpoint", "sent"), [("after_intent:1", 0), ("after_replay:1", 3)])
def test_a_killed_replay_is_finished_by_the_next(settings, log, write, source, failpoint, sent):
    """Killed before or after the events are in the log, but before that is known: each is there once in the end."""
    write(*(click(feature_id=f"doc{n}") for n in range(3)))
    child = [sys.executable, "-c", CHILD, settings.kafka.bootstrap_servers, source.topic_id, failpoint]
    assert subprocess.run(child, check=False, timeout=60).returncode == -signal.SIGKILL
    assert len(put_back(log, source)) == sent
    after = replay(settings, source)
    assert after == dict.fromkeys(range(3), "already" if sent else "replayed")
    assert len({one.value for one in put_back(log, source)}) == len(put_back(log, source)) == 3
    assert replay(settings, source) == dict.fromkeys(range(3), "already")


def test_a_fix_after_a_killed_replay_knows_what_was_sent(settings, log, write, source):
    """Nobody can mend what counts already, even if the replay did not live to say so."""
    write(click())
    child = [sys.executable, "-c", CHILD, settings.kafka.bootstrap_servers, source.topic_id, "after_replay:1"]
    subprocess.run(child, check=False, timeout=60)
    with Replayer(settings) as replayer:
        (one,) = letters_of(replayer.book, source)
        assert one.state == "unsettled"
        assert [done.outcome for done in replayer.fix([one], lambda _: click(feature_id="b"))] == ["already"]
    assert [one.state for one in letters_of(read_book(settings), source)] == ["replayed"]


def test_the_later_replay_wins(settings, log, write, source):
    """A replay that was held up while another one ran is refused by the broker, and adds nothing."""
    write(click())
    with Replayer(settings) as held_up:
        letters = letters_of(held_up.book, source)
        assert replay(settings, source) == {0: "replayed"}
        with pytest.raises(KafkaError, match="taken over"):
            list(held_up.replay(letters))
    assert len(put_back(log, source)) == 1


def test_marks_do_not_disturb_the_writers_of_letters(settings, log, write, source):
    """After a replay the writers still know every letter, and write new ones at once."""
    write(click())
    replay(settings, source)
    began = time.monotonic()
    assert write(click(), b"{", b"[") == 2
    assert time.monotonic() - began < 5


def test_a_batch_has_a_bound(settings, log, write, source, monkeypatch):
    """Letters beyond one transaction go back in the next; each is told of once."""
    monkeypatch.setattr("clickwell.serving.letters.replay.BATCH", 2)
    write(*(click(feature_id=f"doc{n}") for n in range(5)))
    assert replay(settings, source) == dict.fromkeys(range(5), "replayed")
    assert len(put_back(log, source)) == 5


def test_a_frozen_writer_adds_nothing_when_it_wakes_up(settings, log, source, monkeypatch):
    """Frozen between its letter and its commit, while another takes over: it is refused, and the letter there once."""
    frozen, awake = threading.Event(), threading.Event()

    class Freezing(Producer):
        def commit_transaction(self, timeout):
            assert self.flush(20) == 0
            frozen.set()
            assert awake.wait(60)
            super().commit_transaction(timeout)

    first, second = writer(settings), writer(settings)
    with ThreadPoolExecutor() as pool:
        with monkeypatch.context() as patched:
            patched.setattr("clickwell.dead_letters.Producer", Freezing)
            writing = pool.submit(first.write, source, bad(b"{"))
            assert frozen.wait(60)
        assert second.write(source, bad(b"{", b"[")) == 2
        awake.set()
        with pytest.raises(KafkaError, match="cannot be written"):
            writing.result(60)
    assert [one.value for one in committed(log, source)] == [b"{", b"["]
    # It takes over by itself, and the other one is told.
    assert first.write(source, bad(b"{", b"[", b"")) == 1
    with pytest.raises(KafkaError, match="cannot be written"):
        second.write(source, bad(b"{", b"[", b"", b"x"))
    assert second.write(source, bad(b"{", b"[", b"", b"x")) == 1
    assert [one.value for one in committed(log, source)] == [b"{", b"[", b"", b"x"]


def test_the_next_writer_sees_what_the_last_one_committed(settings, log, source):
    """Also in the moment after the commit, when readers do not see it yet."""
    assert [writer(settings).write(source, bad(*[b"{"] * n)) for n in (1, 3, 3, 4)] == [1, 2, 0, 1]
    assert len(committed(log, source)) == 4


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_stranger_s_open_transaction_hides_no_letter(settings, log, source, end):
    """Who takes over waits for a transaction of another source in front of this one's letters, however that ends."""
    last = writer(settings)
    last.write(source, bad(b"{"))
    (letter,) = committed(log, source)
    stranger = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "transactional.id": source.topic_id})
    stranger.init_transactions(20)
    stranger.begin_transaction()
    stranger.produce(DEAD_LETTERS.name, b"not a letter", partition=letter.partition)
    assert stranger.flush(20) == 0
    assert last.write(source, bad(b"{", b"[")) == 1
    ending = threading.Timer(1, stranger.commit_transaction if end == "commit" else stranger.abort_transaction)
    ending.start()
    assert writer(settings).write(source, bad(b"{", b"[", b"")) == 1
    ending.join()
    assert [one.value for one in committed(log, source)] == [b"{", b"[", b""]


def test_a_writer_of_many_sources_takes_over_again(settings, log, source, monkeypatch):
    """With more sources than it keeps producers for, each letter is there once too."""
    monkeypatch.setattr("clickwell.dead_letters.MOST_PRODUCERS", 1)
    other, letters = source._replace(topic_id=new_id().replace("-", "")[-22:]), writer(settings)
    for values in ([b"{"], [b"{", b"["]):
        assert [letters.write(one, bad(*values)) for one in (source, other)] == [1, 1]
    assert len(letters._producers) == 1
    assert len(committed(log, source)) == len(committed(log, other)) == 2


@pytest.fixture
def run(kafka, tmp_path, monkeypatch):
    """Runs a command about dead letters against the test's broker, and returns its exit code and its JSON."""
    monkeypatch.setenv("CLICKWELL_KAFKA__BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("CLICKWELL_DATA", str(tmp_path))

    def run(*arguments):
        result = CliRunner().invoke(app, ["dead-letters", *map(str, arguments), "--json"])
        if isinstance(result.exception, ClickwellError):
            return result.exception.exit_code, result.exception.message
        return result.exit_code, json.loads(result.stdout)

    return run


def test_the_commands_mend_and_replay(run, write, source, log):
    """An operator finds a letter, looks at it, sees a mistake refused, mends it, and replays it as often as wanted."""
    write(b'{"feature_id": "b\\u00e9", "interaction_type": "click"}', b"\xff{")
    name, broken = (f"{INTERACTIONS.name}/{source.partition}/{n}" for n in range(2))
    code, listed = run("list", "--reason", "missing_field", "--state", "open", "--limit", 100_000)
    assert code == 0
    (there,) = [one for one in listed["letters"] if one["id"] == name]
    assert (there["reason"], there["topic_id"], there["state"]) == ("missing_field", source.topic_id, "open")
    assert listed["total"] == len(listed["letters"]) == listed["reasons"]["missing_field"]

    raw = subprocess.run(
        [sys.executable, "-m", "clickwell", "dead-letters", "show", broken, "--raw"], capture_output=True, check=True
    )
    assert raw.stdout == b"\xff{"
    assert run("replay", name, "--dry-run")[0] == 5
    code, refused = run("fix", name, "--set", "position=-1")
    assert (code, refused["fixed"], refused["letters"][0]["field"]) == (5, 0, "interaction_type")
    assert run("fix", name, "--set", 'interaction_type=["click"]', "--dry-run")[1]["fixed"] == 1
    assert run("show", name)[1]["fix"] is None
    assert run("fix", name, "--set", 'interaction_type=["click"]', "--set", "metadata.device=phone")[1]["fixed"] == 1
    _, shown = run("show", name)
    assert (shown["state"], shown["value"]) == ("fixed", '{"feature_id": "b\\u00e9", "interaction_type": "click"}')
    assert json.loads(shown["fix"])["metadata"] == {"device": "phone"}
    code, done = run("replay", name)
    assert (code, done["replayed"], done["already"], done["dry_run"]) == (0, 1, 0, False)
    assert run("replay", name)[1]["already"] == 1
    (record,) = put_back(log, source)
    assert (record.key.decode(), json.loads(record.value)["metadata"]) == ("bé", {"device": "phone"})


def test_a_letter_can_be_replaced_from_a_file(run, write, source, tmp_path):
    """What is not even JSON is mended as a whole; a file that holds no event changes nothing."""
    write(b"{oops")
    name = f"{INTERACTIONS.name}/{source.partition}/0"
    event = tmp_path / "event.json"
    event.write_bytes(b"[]")
    assert run("fix", name, "--file", event)[1]["invalid"] == 1
    event.write_bytes(click())
    assert run("fix", name, "--file", event)[1]["fixed"] == 1
    assert run("show", name)[1]["fix"] == click().decode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay"], "nothing says which"),
        (["replay", "interactions.v1/0/1", "--all"], "either by name or by condition"),
        (["replay", "nonsense"], "no letter nonsense"),
        (["show", "interactions.v1/9/9"], "no letter"),
        (["fix", "interactions.v1/9/9"], "either by --set or by --file"),
        (["fix", "interactions.v1/9/9", "--set", "position"], "names no field"),
        (["fix", "--all", "--file", "x"], "one letter"),
        (["list", "--since", "yesterday"], "not a time"),
        (["list", "--state", "lost"], "not a state"),
    ],
)
def test_a_wrong_call_is_one_clear_error(run, settings, arguments, words):
    """The message says what is wrong, and the exit code that the call is."""
    code, message = run(*arguments)
    assert code == 2
    assert words in message


def test_letters_of_the_forgotten_are_not_there_any_more(settings, write, source):
    """From the request on, no reader and no replay sees a letter that names somebody who asked to be forgotten."""
    gone, other = new_id(), new_id()
    bad = {"interaction_type": "click", "timestamp": int(time.time() * 1000) - 60_000}
    write(*(json.dumps({"user_id": user, **bad}).encode() for user in (gone, other)))
    assert len(letters_of(read_book(settings), source)) == 2
    request_erasure(settings, Erasure(erasure_id=new_id(), user_id=gone))
    assert [one.origin.offset for one in letters_of(read_book(settings), source)] == [1]
    with Replayer(settings) as replayer:
        assert [one.origin.offset for one in letters_of(replayer.book, source)] == [1]
