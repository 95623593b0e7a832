"""No name reaches Kafka where the settings say so, whichever edge an event comes through; readers see who it was."""

import asyncio
import json

import pytest

from clickwell.kafka import KafkaLog
from clickwell.privacy import load_keys
from clickwell.producers.aio import AsyncEmitter
from clickwell.producers.emitter import Emitter
from clickwell.producers.topics import ensure_topics
from clickwell.schemas.decode import Decoder
from clickwell.schemas.decode_searches import SearchDecoder
from clickwell.schemas.topics import INTERACTIONS, SEARCHES
from clickwell.schemas.wire import new_id
from clickwell.sealing import opener_of
from clickwell.serving.api.services import Services
from clickwell.settings import Settings
from clickwell.testing import FakeRecord

pytestmark = pytest.mark.broker

USER, SESSION = "bob@shop.example", "visit-of-bob"


@pytest.fixture(params=["pseudonyms", "shred"])
def settings(request, kafka, tmp_path):
    """Settings that replace names in one way or the other."""
    privacy = {request.param: True, "shred_keys": tmp_path / "keys"}
    # No Redis: nothing of it is needed here.
    away = {"url": "redis://127.0.0.1:1/0"}
    made = Settings.load(tmp_path, kafka={"bootstrap_servers": kafka}, redis=away, privacy=privacy)
    ensure_topics(made)
    return made


async def through_every_edge(settings, events):
    """Send the first event by the emitter, the second by that for asyncio, the others by the API."""
    with Emitter(settings) as emitter:
        emitter.emit(events[0])
        async with AsyncEmitter(settings) as other:
            await other.emit(events[1], wait=True)
    services = Services(settings)
    async with services.open():
        take = services.capture.take
        taken = await take("interaction", [json.dumps(event).encode() for event in events[2:4]])
        searched = await take("search", [json.dumps(event).encode() for event in events[4:]])
    assert {verdict.verdict for verdict in (*taken.results, *searched.results)} == {"accepted"}


def test_names_stay_at_the_edge(settings):
    """Emitters, sync and not, and the API's capture: what is in the log names nobody, and tells who is the same."""
    run = new_id()
    who = {"user_id": USER, "session_id": SESSION}
    clicks = [{"feature_id": run, "interaction_type": ["click"], "interaction_id": new_id(), **who} for _ in range(4)]
    searches = [{"execution_id": f"{run}-{n}", "results": [run], **who} for n in range(2)]
    asyncio.run(through_every_edge(settings, [*clicks, *searches]))
    log, rows = KafkaLog(settings.kafka), []
    for topic, decoder in ((INTERACTIONS.name, Decoder()), (SEARCHES.name, SearchDecoder())):
        ends = log.latest(topic, range(log.describe(topic)[1]))
        values = [each.value for each in log.read(topic, dict.fromkeys(ends, 0), ends) if run.encode() in each.value]
        assert not any(USER.encode() in value for value in values)
        assert settings.privacy.pseudonyms or not any(SESSION.encode() in value for value in values)
        decoder.open_rows = opener_of(settings)
        rows += decoder.decode([FakeRecord(0, 2**42, value) for value in values]).rows
    assert len(rows) == 6
    name = load_keys(settings).pseudonym(USER) if settings.privacy.pseudonyms else USER
    assert {(row.user_id, row.session_id) for row in rows} == {(name, SESSION)}
