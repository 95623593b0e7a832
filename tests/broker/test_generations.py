"""Generations and their lanes: who begins a new one, and whose settings fit."""

import asyncio
import json

import pytest
from redis.asyncio import Redis

from clickwell.clock import MS_PER_HOUR
from clickwell.errors import LayoutError
from clickwell.failpoints import Failpoints
from clickwell.schemas.keys import ACTIVE, BUILDING, DISCARD
from clickwell.settings import EngagementSettings, PopularitySettings
from clickwell.stream_processors.engagement import EngagementLane
from clickwell.stream_processors.generations import Generations
from clickwell.stream_processors.ledger import Ledger
from clickwell.stream_processors.popularity import PopularityLane

pytestmark = pytest.mark.broker

POPULARITY = PopularityLane(PopularitySettings())


def engagement(**given):
    return EngagementLane(EngagementSettings(**given), MS_PER_HOUR)


@pytest.fixture
def of_lanes(fresh_redis):
    """A function that runs a test's steps; what it hands them makes the generations of a worker with some lanes."""

    def run(steps):
        async def main():
            async with Redis.from_url(fresh_redis.url) as client:
                await Ledger(client, Failpoints()).install()
                await steps(client, lambda *lanes: Generations(client, PopularitySettings(), lanes, Failpoints()))

        asyncio.run(main())

    return run


def test_a_worker_with_a_new_lane_begins_a_generation_that_keeps_the_others(of_lanes):
    """An upgrade needs no manual step; an older worker goes on in the new generation, so that neither replaces it."""

    async def steps(client, generations):
        old, new = generations(POPULARITY), generations(POPULARITY, engagement())
        await old.finish(await old.begin({}))
        assert (await old.target())[0] is not None
        assert await new.target() == (None, False)
        begun = await new.begin({})
        assert {*begun.lanes} == {"popularity", "engagement"}
        assert (await old.target())[0].name == (await new.target())[0].name == begun.name
        await new.finish(begun)
        assert {*(await old.begin({})).lanes} == {"popularity", "engagement"}

    of_lanes(steps)


def test_what_is_being_built_without_a_lane_is_given_up(of_lanes):
    """It could never become complete for a worker that needs the lane; its keys are removed later."""

    async def steps(client, generations):
        old = await generations(POPULARITY).begin({})
        pointer = json.loads(await client.get(BUILDING))
        # As a version without lanes writes it, some seconds ago.
        pointer.pop("lanes")
        await client.set(BUILDING, json.dumps({**pointer, "name": "before"}))
        begun = await generations(engagement()).begin({})
        assert "engagement" in begun.lanes
        assert await client.smembers(DISCARD) == {b"before"}
        # Whoever comes second joins.
        assert (await generations(POPULARITY, engagement()).begin({})).name == begun.name
        assert old.name <= begun.name
        assert await client.get(ACTIVE) is None

    of_lanes(steps)


def test_a_lane_with_other_settings_is_refused(of_lanes):
    """Two definitions of one count must not mix; the message says what there is and what to do."""

    async def steps(_client, generations):
        await generations(POPULARITY, engagement()).begin({})
        with pytest.raises(LayoutError, match="other engagement settings") as caught:
            await generations(POPULARITY, engagement(exposure="explicit")).target()
        assert "clickwell rebuild" in caught.value.fix

    of_lanes(steps)
