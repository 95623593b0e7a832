"""What is known of dead letters, and how a bad record becomes an event again, without Kafka."""

import json

import pytest

from clickwell.errors import DecodeError
from clickwell.kafka import LogRecord
from clickwell.schemas.wire import dead_letter_key
from clickwell.serving.letters.book import Book, Filter, Origin
from clickwell.serving.letters.mend import changed, ready

NOW = 1_790_000_000_000
TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"


def letter(offset, *, place=0, reason="bad_json", topic="interactions.v1", topic_id=TOPIC_ID, received=NOW, **more):
    """A record as a worker writes it."""
    said = {"reason": reason, "field": "", "detail": "why", "topic": topic, "topic_id": topic_id, "partition": 0}
    said |= {"offset": offset, "received_ms": received, "key": "k", **more}
    headers = {name: str(value).encode() for name, value in said.items()}
    return LogRecord(1, place, received, dead_letter_key(topic, 0, offset), b"{oops", headers)


def mark(kind, offset, *, place=0, topic_id=TOPIC_ID, **more):
    said = {"mark": kind, "letter": f"{topic_id}/0/{offset}", **more}
    return LogRecord(1, place, NOW, b"", None, {name: value.encode() for name, value in said.items()})


def book(*records):
    made = Book()
    for record in records:
        made.take(record)
    return made


def click(**fields):
    return json.dumps({"feature_id": "a", "interaction_type": ["click"], **fields}).encode()


def test_a_letter_tells_what_its_headers_say():
    """Name, reason, size and place of a letter come from its record; a cut one has the size that it had."""
    one = book(letter(7, place=3, cut_from=5_000_000, field="position")).find("interactions.v1/0/7")
    assert (one.reason, one.field, one.detail, one.received_ms) == ("bad_json", "position", "why", NOW)
    assert (one.size, one.whole, one.place, one.origin) == (5_000_000, False, (1, 3), (TOPIC_ID, 0, 7))
    whole = book(letter(7)).find("interactions.v1/0/7")
    assert (whole.size, whole.whole) == (5, True)


def test_states_follow_the_marks():
    """Open, then fixed, then about to be put back, then put back; a fix after a broken replay settles nothing new."""
    records = [letter(7), mark("fix", 7, place=1), mark("intent", 7, target="T/2/99"), mark("replayed", 7)]
    states = [book(*records[:count]).find("interactions.v1/0/7").state for count in range(1, 5)]
    assert states == ["open", "fixed", "unsettled", "replayed"]
    one = book(*records[:3]).find("interactions.v1/0/7")
    assert (one.fix, one.target) == ((1, 1), Origin("T", 2, 99))


def test_what_is_no_letter_is_left_out():
    """Foreign records, half ones and marks without their letter do not disturb the others."""
    foreign = LogRecord(0, 0, NOW, None, b"x", {})
    half = LogRecord(0, 1, NOW, None, b"x", {"topic_id": b"T", "partition": b"x"})
    strange = LogRecord(0, 2, NOW, None, None, {"mark": b"fix", "letter": b"nothing"})
    made = book(foreign, half, strange, mark("replayed", 8), letter(7), letter(7, place=9))
    (one,) = made.select(Filter())
    assert (one.id, one.place, one.state) == ("interactions.v1/0/7", (1, 0), "open")


def test_filters_combine():
    """Reasons, topics, times, names and states each leave out what does not meet them; the order is that of receipt."""
    made = book(
        letter(3, received=NOW + 2),
        letter(1, reason="missing_field", received=NOW),
        letter(2, topic="searches.v1", received=NOW + 1),
        mark("replayed", 2),
    )

    def names(**conditions):
        return [one.id for one in made.select(Filter(**conditions))]

    assert names() == ["interactions.v1/0/1", "searches.v1/0/2", "interactions.v1/0/3"]
    assert names(reasons=["missing_field"]) == ["interactions.v1/0/1"]
    assert names(topics=["searches.v1"]) == names(states=["replayed"]) == ["searches.v1/0/2"]
    assert names(since_ms=NOW + 1, until_ms=NOW + 2) == ["searches.v1/0/2"]
    assert names(ids=["interactions.v1/0/3", "x"], states=["open"]) == ["interactions.v1/0/3"]
    assert names(ids=[]) == []
    assert made.reasons(Filter(topics=["interactions.v1"])) == {"bad_json": 1, "missing_field": 1}


def test_a_topic_that_was_made_anew_has_letters_of_its_own():
    """The same offset in another incarnation is another letter; its name means the later one."""
    made = book(letter(7), letter(7, topic_id="B" * 22, received=NOW + 1), mark("replayed", 7))
    assert made.find("interactions.v1/0/7").origin.topic_id == "B" * 22
    assert [one.state for one in made.select(Filter())] == ["replayed", "open"]


def one_letter(**more):
    return book(letter(7, received=NOW - 5000, **more)).find("interactions.v1/0/7")


def test_a_complete_event_goes_back_byte_for_byte():
    """An event with an id and a time of its own is not written anew, whatever its spacing."""
    value = b'{ "feature_id":"a", "interaction_type":["click"], "interaction_id":"i", "timestamp": 1780000000000 }'
    record = ready(one_letter(), value, NOW)
    assert (record.kind, record.id, record.key, record.value) == ("interaction", "i", b"a", value)


def test_an_event_gets_the_id_and_time_of_its_record():
    """What the sender left out follows from where and when the bad record was received, each time alike."""
    record = ready(one_letter(), click(), NOW)
    assert record == ready(one_letter(), click(), NOW + 10_000)
    content = json.loads(record.value)
    assert content["interaction_id"] == record.id == f"letter:{TOPIC_ID}/0/7"
    assert content["timestamp"] == NOW - 5000


def test_a_search_goes_back_as_a_search():
    """The topic decides what a record is checked as."""
    made = book(letter(7, topic="searches.v1", received=NOW - 5000)).find("searches.v1/0/7")
    record = ready(made, b'{"execution_id": "e", "results": ["a"]}', NOW)
    assert (record.kind, record.key) == ("search", b"e")
    assert json.loads(record.value)["timestamp"] == NOW - 5000


def test_a_time_ahead_is_good_once_it_has_come():
    """An event that was refused for being early can go back as it is when its time has come."""
    value = click(timestamp=NOW)
    with pytest.raises(DecodeError, match="ahead"):
        ready(one_letter(), value, NOW - 3_600_000)
    assert ready(one_letter(), value, NOW).kind == "interaction"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_value"),
        (b"{oops", "bad_json"),
        (b"[]", "not_an_object"),
        (b"{}", "missing_field"),
        (click(position=-1), "invalid_field"),
        (b" " * (4 << 20) + b"{}", "too_large"),
    ],
)
def test_what_is_no_event_does_not_go_back(value, reason):
    """The reason is the one that a worker would give."""
    with pytest.raises(DecodeError) as caught:
        ready(one_letter(), value, NOW)
    assert caught.value.reason == reason


def test_records_of_other_topics_do_not_go_back():
    """Only interactions and searches are checked here; anything else stays where it is."""
    made = book(letter(7, topic="erasures.v1")).find("erasures.v1/0/7")
    with pytest.raises(DecodeError, match="no interactions or searches"):
        ready(made, click(), NOW)


def test_fields_are_set_and_removed():
    """Changes set fields, also within the metadata, and None removes them; the rest stays."""
    value = b'{"feature_id": 7, "shop": {"id": 1}, "position": -1}'
    made = json.loads(changed(value, {"feature_id": "7", "position": None, "metadata.query": "tent", "nothing": None}))
    assert made == {"feature_id": "7", "shop": {"id": 1}, "metadata": {"query": "tent"}}
    inner = json.loads(changed(b'{"metadata": {"a": 1, "b.c": 2}}', {"metadata.a": None, "metadata.b.c": 3}))
    assert inner == {"metadata": {"b.c": 3}}


def test_only_an_object_can_be_changed():
    """Half an object has no fields; it has to be replaced as a whole."""
    with pytest.raises(DecodeError) as caught:
        changed(b'{"feature_id": "a', {"feature_id": "b"})
    assert caught.value.reason == "bad_json"


def test_half_a_character_cannot_be_set():
    """What no JSON can hold is refused, as it would be in any event."""
    with pytest.raises(DecodeError):
        changed(b"{}", {"feature_id": "\ud800"})
