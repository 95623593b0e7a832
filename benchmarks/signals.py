"""How long the signals of a month take: first, when every day has to be counted, and then, when the facts are kept.

Writes searches and clicks of thirty days of a made-up site into a temporary lake; needs no server. Exit code 3:
a bar was missed.
"""

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from report import save

from clickwell.analytics import lake
from clickwell.analytics.signals import get_retriever_signals
from clickwell.settings import Settings
from clickwell.simulation import Plan, Site, midnight

DAYS, RUNS = 30, 10
BAR_S = 3.0
# A search of the made-up site brings about 1.5 clicks, and one in fifteen is tried again.
EVENTS_PER_SEARCH = 2.56


def main() -> int:
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="clickwell-signals-", dir=asked.folder) as temporary:
        settings = Settings.load(Path(temporary))
        start = datetime.now(UTC).date() - timedelta(days=DAYS)
        site = Site(Plan(queries=20_000, bad=200, skipped=200, unfindable=100))
        searches = round(asked.events / EVENTS_PER_SEARCH / RUNS)
        for run in range(RUNS):
            begin = midnight(start + timedelta(days=run * DAYS // RUNS))
            site.write(settings, start_ms=begin, days=DAYS / RUNS, searches=searches, run=run)
        with lake.connect(settings) as connection:
            events = sum(
                connection.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("searches", "interactions")
            )
        print(f"{events:,} events written", file=sys.stderr)
        seconds = []
        for _ in range(3):
            begun = time.monotonic()
            until = start + timedelta(days=DAYS - 1)
            found = get_retriever_signals("site", settings=settings, since=start, until=until, compare=False)
            seconds.append(time.monotonic() - begun)
            assert found.numbers.searches
    first, *again = seconds
    kept = min(again)
    print(f"{events:,} events of {DAYS} days: {first:.1f} s when nothing is counted yet, {kept:.2f} s then")
    met = kept < BAR_S
    print(f"{'met   ' if met else 'MISSED'}  signals of {DAYS} days, facts kept, < {BAR_S:g} s: {kept:.2f}")
    if asked.json:
        bar = {"bar": f"facts kept < {BAR_S:g} s", "reached": kept, "met": met}
        save("signals", events=events, first_s=first, kept_s=kept, bars=[bar])
    return 0 if met else 3


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=10_000_000)
    arguments.add_argument("--folder", type=Path, help="where to put the temporary lake")
    arguments.add_argument("--json", action="store_true", help="also write the result file")
    return arguments.parse_args()


if __name__ == "__main__":
    sys.exit(main())
