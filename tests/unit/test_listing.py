"""Interactions out of a lake in a folder, page by page. No servers."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clickwell.analytics.listing import Filters, Place, interactions
from clickwell.errors import UsageError
from clickwell.failpoints import Failpoints
from clickwell.settings import Settings
from clickwell.sinks.columns import InteractionColumns, LogRecord
from clickwell.sinks.commit import Pending, TableWriter
from clickwell.sinks.table import INTERACTION_TABLE

NOW = time.time_ns() // 1_000_000
DAY = 86_400_000
BASE = {"feature_id": "d", "interaction_type": ["click"]}


class Lake:
    """Writes events as the sink does."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.load(folder)
        self.writer = TableWriter(self.settings, INTERACTION_TABLE, "topic", Failpoints())
        self.writer.stored([0])
        self.writer.begin({0: 0})
        self.next = 0

    def add(self, *events: dict) -> None:
        columns = InteractionColumns()
        records = [
            LogRecord(0, self.next + i, NOW, json.dumps(BASE | event).encode()) for i, event in enumerate(events)
        ]
        batch = columns.decoder.decode(records)
        assert not batch.bad
        end = self.next + len(events)
        self.writer.write(
            Pending([columns.of(batch, "topic", NOW - 1000)], [columns.ids(batch.rows)], {0: self.next}, {0: end})
        )
        self.next = end


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(tmp_path)


def ids(page) -> list[str]:
    return [row["interaction_id"] for row in page.rows]


def test_a_lake_without_a_table_has_no_interactions(tmp_path):
    """That is an answer, not an error."""
    page = interactions(Settings.load(tmp_path), Filters())
    assert (page.rows, page.cursor, page.version) == ([], None, None)


def test_rows_come_newest_first_as_they_were_sent(lake):
    """By event time, whatever the order of arrival."""
    lake.add(
        {"interaction_id": "b", "timestamp": NOW - 2000, "position": 3, "metadata": {"query": "q", "x": [1]}},
        {"interaction_id": "c", "timestamp": NOW - 1000},
        {"interaction_id": "a", "timestamp": NOW - 3 * DAY},
    )
    page = interactions(lake.settings, Filters())
    assert ids(page) == ["c", "b", "a"]
    assert page.rows[1]["metadata"] == {"query": "q", "x": [1]}
    assert page.rows[1]["position"] == 3
    assert page.rows[1]["timestamp"] == datetime.fromtimestamp((NOW - 2000) / 1000, UTC)
    assert datetime.now(UTC) - page.written < timedelta(minutes=1)


@pytest.mark.parametrize(
    "field", ["interaction_id", "feature_id", "user_id", "session_id", "retriever_id", "execution_id"]
)
def test_a_filter_takes_text_as_it_is(lake, field):
    """Also text that would mean something to a database."""
    nasty = "x' or 1=1; drop view interactions; --"
    lake.add({field: nasty, "timestamp": NOW - 5}, {field: "other", "timestamp": NOW - 4})
    assert [row[field] for row in interactions(lake.settings, Filters(**{field: nasty})).rows] == [nasty]
    assert interactions(lake.settings, Filters(**{field: "x"})).rows == []


def test_types_and_times_filter(lake):
    """One of several types is enough; `since` is included, `until` is not."""
    lake.add(
        {"interaction_id": "1", "interaction_type": ["click", "purchase"], "timestamp": NOW - 3 * DAY},
        {"interaction_id": "2", "timestamp": NOW - 2 * DAY},
        {"interaction_id": "3", "timestamp": NOW - DAY},
    )
    at = [datetime.fromtimestamp((NOW - n * DAY) / 1000, UTC) for n in range(4)]
    assert ids(interactions(lake.settings, Filters(interaction_type="purchase"))) == ["1"]
    assert ids(interactions(lake.settings, Filters(since=at[2], until=at[1]))) == ["2"]


def test_cursors_give_every_row_once_while_events_come_in(lake):
    """Also among equal times; later commits with later receipt do not move what follows."""
    lake.add(*({"interaction_id": f"{n:02d}", "timestamp": NOW - (n // 4) * 1000} for n in range(23)))
    seen, cursor = [], None
    while True:
        page = interactions(lake.settings, Filters(), size=5, after=cursor)
        seen += ids(page)
        lake.add({"interaction_id": f"new-{len(seen)}", "timestamp": NOW + 1000})
        if (cursor := page.cursor) is None:
            break
    assert sorted(seen) == [f"{n:02d}" for n in range(23)]
    assert ids(interactions(lake.settings, Filters(), size=5, skip=5))[0].startswith(("new", "0"))


@pytest.mark.parametrize(
    "cursor", ["", "x", "W10", "é", Place(*[datetime(2026, 1, 1, tzinfo=UTC)] * 2, 1, 2, "a", "b").cursor()[:-6]]
)
def test_a_cursor_of_ones_own_making_is_refused(lake, cursor):
    """With one line, not with a query that fails."""
    lake.add({})
    with pytest.raises(UsageError, match="cursor"):
        interactions(lake.settings, Filters(), after=cursor)
    with pytest.raises(UsageError, match="at most 100,000 rows"):
        interactions(lake.settings, Filters(), skip=1_000_000)
