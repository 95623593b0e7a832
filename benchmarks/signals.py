"""How long the signals of a month take: first, when every day has to be counted, and then, when the facts are kept.

Writes searches and clicks of thirty days of a made-up site into a lake; needs no server. With `--folder` the lake stays
there, and the next run with the same folder only measures it. Exit code 3: a bar was missed.
"""

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from report import bar, save, verdict

from clickwell.analytics.signals import get_retriever_signals
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight
from clickwell.sinks.compact import live_files
from clickwell.sinks.standing import exists
from clickwell.sinks.table import INTERACTION_TABLE, SEARCH_TABLE, open_table

DAYS, RUNS = 30, 10
BAR_S = 3.0
# A search of the made-up site brings about 1.5 clicks, and one in fifteen is tried again.
EVENTS_PER_SEARCH = 2.56


def main() -> int:
    """Write, ask three times, and print what was measured."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="clickwell-signals-") as temporary:
        folder = Path(temporary)
        # The facts are kept in the data folder: they go with it, so that the first question counts every day.
        settings = Settings.load(folder, lake=str(asked.folder or folder / "lake"))
        if not exists(settings, SEARCH_TABLE):
            _write(settings, asked.events)
        live = {table: live_files(open_table(settings, table)) for table in (SEARCH_TABLE, INTERACTION_TABLE)}
        events = sum(file.rows for files in live.values() for file in files)
        days = sorted(file.day for file in live[SEARCH_TABLE])
        seconds = []
        for _ in range(3):
            begun = time.monotonic()
            found = get_retriever_signals("site", settings=settings, since=days[0], until=days[-1], compare=False)
            seconds.append(time.monotonic() - begun)
            assert found.numbers.searches
    counting, *again = seconds
    print(f"{events:,} events of {DAYS} days: {counting:.1f} s when nothing is counted yet, {min(again):.2f} s then")
    bars = [bar(f"signals of {DAYS} days, facts kept, < {BAR_S:g} s", min(again), most=BAR_S)]
    met = verdict(bars)
    if asked.json:
        save("signals", events=events, first_s=counting, kept_s=min(again), bars=bars)
    return 0 if met else 3


def _write(settings: Settings, events: int) -> None:
    start = datetime.now(UTC).date() - timedelta(days=DAYS)
    site = Site(Plan(queries=20_000, bad=200, skipped=200, unfindable=100))
    for run in range(RUNS):
        begin = midnight(start + timedelta(days=run * DAYS // RUNS))
        searches = round(events / EVENTS_PER_SEARCH / RUNS)
        site.write(settings, start_ms=begin, days=DAYS / RUNS, searches=searches, run=run)
    print("the lake is written", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=10_000_000)
    arguments.add_argument("--folder", type=Path, help="keep the lake there; one that is there is not written again")
    arguments.add_argument("--json", action="store_true", help="also write the result file")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(main())
