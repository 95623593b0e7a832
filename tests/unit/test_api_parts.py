"""The parts of the HTTP API that need no server: events made fit for the log, verdicts, keys, limits."""

import gzip
import json
from uuid import UUID

import msgspec
import pytest
import zstandard

from clickwell.errors import DecodeError, SettingsError
from clickwell.schemas.decode import Decoder
from clickwell.serving.api.app import build_app
from clickwell.serving.api.events import prepare, split
from clickwell.serving.api.keys import Key, KeyRing, Scope
from clickwell.serving.api.limits import MAX_BODY, Bucket, _gunzip, _unzstd
from clickwell.serving.api.problems import Problem, problem_of
from clickwell.serving.api.verdicts import Uses
from clickwell.settings import PopularitySettings, PrivacySettings, Settings

NOW = 1_790_000_000_000
CLICK = {"feature_id": "d1", "interaction_type": ["click"]}


def written(event: bytes | dict) -> bytes:
    """Return an event as JSON."""
    return event if isinstance(event, bytes) else json.dumps(event).encode()


def one(event: bytes | dict, **options) -> dict:
    """Return what an event becomes, or the refusal."""
    ready, refused = prepare([written(event)], NOW, **({"mint_ids": True} | options))
    return json.loads(ready[0].value) if ready else refused[0][1]


def test_what_is_complete_goes_to_the_log_as_it_came():
    """Bytes with an id and a time are not touched, whatever their spacing."""
    sent = b'{ "feature_id": "d", "interaction_type": ["click"], "interaction_id": "i", "timestamp": 1790000000000 }'
    assert prepare([sent], NOW, mint_ids=True)[0][0].value == sent


@pytest.mark.parametrize(
    "event", [CLICK, CLICK | {"interaction_id": None}, CLICK | {"interaction_id": "", "timestamp": None}]
)
def test_an_id_and_a_time_are_added_where_they_are_missing(event):
    """Absent, null and empty are the same."""
    made = one(json.dumps(event).encode())
    assert UUID(made["interaction_id"]).version == 7
    assert made["timestamp"] == NOW
    assert {name: made[name] for name in CLICK} == CLICK


def test_a_repeated_request_gets_the_same_ids_and_no_others():
    """Ids come from the request's name, the event and its place, so a changed event is another one."""
    first, again = (one(CLICK, salt=b"k:1")["interaction_id"] for _ in range(2))
    assert first == again
    assert UUID(first).version == 8
    assert (
        len(
            {
                first,
                one(CLICK, salt=b"k:2")["interaction_id"],
                one(CLICK | {"position": 1}, salt=b"k:1")["interaction_id"],
            }
        )
        == 3
    )
    ready, _ = prepare([written(CLICK)] * 2, NOW, mint_ids=True, salt=b"k:1")
    assert len({json.loads(each.value)["interaction_id"] for each in ready}) == 2


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (b'{"feature_id":"a","feature_id":"b"}', "duplicate_key"),
        (b'{"metadata":{"x":[{"y":1,"y":2}]}}', "duplicate_key"),
        (b'{"a" : 1, "\\u0061" : 2}', "duplicate_key"),
        (b"[]", "not_an_object"),
        (b"{", "bad_json"),
        (b'{"a":1e999}', "bad_json"),
        (b'{"a":"\xff"}', "bad_json"),
        (b'{"a":' * 100_000, "bad_json"),
        (b'{"a":NaN}', "bad_json"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(event, code):
    """Strict JSON only."""
    assert one(event).reason == code


def test_colons_in_text_are_no_members():
    """Addresses and times have colons of their own."""
    assert one(CLICK | {"metadata": {"url": "https://a:80/:", "at": "12:00:00"}})["metadata"]["at"] == "12:00:00"


@pytest.mark.parametrize("kind", [True, False])
def test_nobody_can_send_a_record_of_clickwells_own(kind):
    """Those begin with a name that a sender's events never begin with, and are kept as metadata."""
    forged = b'{"clickwell":"fence.v1","feature_id":"d","interaction_type":["click"],"interaction_id":"i"}'
    made = prepare([forged], NOW, mint_ids=kind)[0][0]
    assert not made.value.startswith(b'{"clickwell"')
    assert not Decoder().decode([made]).bad


def test_bodies_are_told_apart_into_events():
    """An object, an array, or lines; blank lines are nothing."""
    assert split(b' {"a":1} ', lines=False) == ([b'{"a":1}'], True)
    assert split(b'[{"a":1}, 2,\n{"b": [3]}]', lines=False) == ([b'{"a":1}', b"2", b'{"b": [3]}'], False)
    assert split(b'{"a":1}\r\n\n{"b":2}\n', lines=True) == ([b'{"a":1}', b'{"b":2}'], False)
    assert split(b"  ", lines=False) == ([], True)
    with pytest.raises(DecodeError):
        split(b'[{"a":1},', lines=False)


@pytest.mark.parametrize(
    ("event", "uses", "lacking"),
    [
        (
            CLICK | {"position": 0, "user_id": "u", "execution_id": "e"},
            ("boost", "ctr", "training", "personalization"),
            {},
        ),
        (CLICK, ("boost",), {"ctr": "execution_id", "training": "position", "personalization": "user_id"}),
        (
            CLICK | {"position": 3, "metadata": {"query": "q"}},
            ("boost", "training"),
            {"ctr": "execution_id", "personalization": "user_id"},
        ),
        (
            CLICK | {"interaction_type": ["wishlist"], "position": 0, "user_id": "u", "metadata": {"query": "q"}},
            ("training", "personalization"),
            {"boost": "interaction_type", "ctr": "interaction_type"},
        ),
    ],
)
def test_a_verdict_names_what_an_event_can_be_used_for_and_what_it_lacks(event, uses, lacking):
    """A missing field is named for each use that needs it."""
    row = Decoder().decode(prepare([written(event)], NOW, mint_ids=True)[0]).rows[0]
    found, lacks = Uses(PopularitySettings()).of_interaction(row)
    assert found == uses
    assert {lack.use: lack.field for lack in lacks} == lacking
    if "position" in lacking.values():
        assert "no position: not usable for bias correction" in [lack.reason for lack in lacks]


def ring_of(*keys: Key) -> KeyRing:
    ring = KeyRing()
    ring.load({key.id.encode(): key.model_dump_json().encode() for key in keys})
    return ring


def test_a_key_is_found_by_its_whole_text_only():
    """Neither its id with another secret, nor a revoked one, nor anything of another form."""
    from hashlib import sha256

    text = f"cw_{'ab' * 6}_{'x' * 43}"
    key = Key(id="ab" * 6, sha256=sha256(text.encode()).hexdigest(), scopes=frozenset({Scope.WRITE}), created_ms=1)
    ring = ring_of(key)
    assert ring.find(text) == key
    for wrong in ("", text[:-1] + "y", text + "x", "cw_" + "cd" * 6 + text[15:], "\udcff"):
        assert ring.find(wrong) is None
    assert ring_of(key.model_copy(update={"revoked_ms": 2})).find(text) is None


def test_scopes_are_separate_except_for_admin():
    """A write key cannot read or erase; admin may do everything."""
    key = Key(id="a", sha256="", scopes=frozenset({Scope.WRITE}), created_ms=1)
    assert [key.allows(scope) for scope in Scope] == [True, False, False, False]
    assert all(key.model_copy(update={"scopes": frozenset({Scope.ADMIN})}).allows(scope) for scope in Scope)


def test_a_bucket_gives_its_rate_on_average_and_one_full_batch_at_once():
    """What is refused says when it is there."""
    now = [0.0]
    bucket = Bucket(10, lambda: now[0])
    assert bucket.take(1000) == 0
    assert bucket.take(5) == pytest.approx(0.5)
    now[0] = 0.5
    assert bucket.take(5) == 0
    assert bucket.take(1) > 0


@pytest.mark.parametrize(("pack", "unpack"), [(gzip.compress, _gunzip), (zstandard.compress, _unzstd)])
def test_compressed_bodies_never_grow_beyond_the_limit(pack, unpack):
    """A bomb is refused after the limit; several members are one body; what is broken is said so."""
    assert unpack(pack(b"abc") + pack(b"def")) == b"abcdef"
    with pytest.raises(Problem) as bomb:
        unpack(pack(bytes(MAX_BODY * 20)))
    assert bomb.value.status_code == 413
    for broken in (pack(b"abc" * 1000)[:-5], b"nothing of the kind", pack(b"") * 1001):
        with pytest.raises(Problem) as error:
            unpack(broken)
        assert error.value.code == "bad_encoding"


def test_a_problem_says_what_is_wrong_and_nothing_of_the_inside():
    """What a library said about a dependency stays in the log."""
    from clickwell.errors import KafkaError

    problem = problem_of(KafkaError("Kafka at broker-7.internal:9092 does not answer", why="refused"))
    assert problem.headers["Retry-After"]
    assert b"broker-7" not in problem.body()
    assert msgspec.json.decode(problem.body())["status"] == 503


@pytest.mark.parametrize("how", ["pseudonyms", "shred"])
def test_keys_that_cannot_be_used_are_said_before_the_server_starts(tmp_path, how):
    """Once it has started, uvicorn would print a traceback and end with an exit code of its own."""
    (tmp_path / "privacy-keys.json").write_text("{")
    with pytest.raises(SettingsError):
        build_app(Settings.load(tmp_path, privacy=PrivacySettings(**{how: True})))
