"""The analysts' queries of docs/queries/ on a small lake in a folder, against what signals say. No servers."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clickwell.analytics import lake
from clickwell.analytics.signals import get_retriever_signals
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight

QUERIES = sorted((Path(__file__).parents[2] / "docs" / "queries").glob("*.sql"))
START = datetime(2026, 1, 5, tzinfo=UTC).date()
DAYS = 3


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What each query finds, by its name, and the signals of the same days."""
    settings = Settings.load(tmp_path_factory.mktemp("site"))
    Site(Plan(queries=40, unfindable=3)).write(settings, start_ms=midnight(START), days=DAYS, searches=2_000)
    with lake.connect(settings) as connection:
        found = {path.stem: lake.query(connection, path.read_text()).to_pylist() for path in QUERIES}
    until = START + timedelta(days=DAYS - 1)
    return found, get_retriever_signals("site", settings=settings, since=START, until=until, compare=False)


@pytest.mark.parametrize("name", [path.stem for path in QUERIES])
def test_every_query_finds_something(asked, name):
    """No query fails or comes back empty where there is something to find."""
    assert asked[0][name]


def test_ctr_by_position_is_that_of_the_signals(asked):
    """Results shown and clicked at each position are the same by query and by `get_retriever_signals`."""
    found, signals = asked
    assert [(row["position"], row["shown"], row["clicks"]) for row in found["ctr_by_position"]] == [
        (each.position, each.ctr.of, each.ctr.count) for each in signals.ctr_by_position
    ]


def test_abandoned_and_fruitless_searches_are_those_of_the_signals(asked):
    """The days' sums of abandoned searches, and searches without results, are those of the signals."""
    found, signals = asked
    assert sum(row["abandoned"] for row in found["abandoned_by_day"]) == signals.numbers.abandoned.count
    assert sum(row["without_results"] for row in found["zero_results"]) == signals.numbers.zero_results.count
