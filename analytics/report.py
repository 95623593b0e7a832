"""The report of a week on one page, as Markdown or as an HTML file without scripts; the same lake, the same bytes."""

from dataclasses import dataclass
from datetime import date, timedelta
from html import escape

from clickwell.analytics import kept, plots, words
from clickwell.analytics.alerts import WEEKS, WINDOWS, Episode, episodes
from clickwell.analytics.hourly import hours
from clickwell.analytics.intervals import Rate, rate
from clickwell.analytics.period import Period
from clickwell.analytics.signals import Signals, get_retriever_signals
from clickwell.clock import MS_PER_DAY, MS_PER_HOUR
from clickwell.settings import Settings

LISTED = 5


@dataclass(frozen=True)
class Day:
    """CTR and skip rate of one day."""

    day: date
    ctr: Rate
    skip_rate: Rate


@dataclass(frozen=True)
class Report:
    """What a report says.

    Attributes:
        signals: of the period and the one before.
        days: of both, in order; days without searches are missing.
        before: CTR by position in the period before.
        alerts: episodes that opened or were open, replayed from the lake.
        new_rankers: first hour (epoch ms) of each ranker that did not search in the period before.
    """

    signals: Signals
    days: list[Day]
    before: list[Rate | None]
    alerts: list[Episode]
    new_rankers: dict[str, int]

    @property
    def verdict(self) -> str:
        """What happened, in two sentences at most."""
        comparison = self.signals.comparison
        if comparison is None:
            return "There is no period before to compare with."
        one = comparison.ctr_at_equal_positions
        if not one.clear or one.difference is None or one.low is None or one.high is None:
            return "CTR at equal positions shows no clear change."
        near, far = sorted(100 * abs(bound) for bound in (one.low, one.high))
        moved = "fell" if one.difference < 0 else "rose"
        said = f"CTR {moved} {100 * abs(one.difference):.1f} pp ({near:.1f}–{far:.1f}) at equal positions."  # noqa: RUF001
        fall = next((each for each in self.alerts if each.worst.rule == "ctr_drop"), None)
        if fall is None or one.difference > 0:
            return said
        blamed = [name for name, since in self.new_rankers.items() if 0 <= fall.since_ms - since <= MS_PER_DAY]
        ranker = f", within a day of the first searches by ranker {blamed[0]}" if blamed else ""
        return f"{said} It was noticed {words.moment(fall.since_ms)}{ranker}."


def make(settings: Settings, retriever_id: str, since: date, until: date) -> Report:
    """Gather what a report says about a retriever over the days `since` to `until`, both included.

    Raises:
        UsageError: the first day is after the last.
        LakeError: there is no table of searches, or its storage does not answer.
    """
    signals = get_retriever_signals(retriever_id, settings=settings, since=since, until=until, limit=LISTED)
    begin = since - (until - since + timedelta(days=1))
    with kept.connect(settings, begin, until) as connection:
        period, both = Period(connection, retriever_id, since, until), Period(connection, retriever_id, begin, until)
        earlier = Period(connection, retriever_id, begin, since - timedelta(days=1))
        before = {each.position: each.ctr for each in earlier.positions()}
        sums = both.columns(
            "sum(shown)::bigint as shown, sum(clicks)::bigint as clicks, sum(examined)::bigint as examined",
            "hours",
            "day",
        )
        columns = (sums[name].tolist() for name in ("shown", "clicks", "examined"))
        firsts, known = (
            each.columns("min(hour)::bigint as first", "hours", by="ranker_id", having="having ranker_id is not null")
            for each in (period, earlier)
        )
    days = [
        Day(day, rate(clicks, shown), rate(examined - clicks, examined))
        for day, shown, clicks, examined in zip(_dates(sums["day"]), *columns, strict=True)
    ]
    return Report(
        signals=signals,
        days=days,
        before=[before.get(each.position) for each in signals.ctr_by_position],
        alerts=_episodes(settings, retriever_id, since, until),
        new_rankers={
            name: first
            for name, first in zip(firsts["ranker_id"].tolist(), firsts["first"].tolist(), strict=True)
            if name not in set(known["ranker_id"].tolist())
        },
    )


def _episodes(settings: Settings, retriever_id: str, since: date, until: date) -> list[Episode]:
    start = round((since - date(1970, 1, 1)).total_seconds()) * 1000
    end = round((until - date(1970, 1, 1)).total_seconds()) * 1000 + MS_PER_DAY
    begin = start - (WEEKS * 7 * 24 + max(WINDOWS)) * MS_PER_HOUR
    mine = [each for each in hours(settings, begin, end, start) if each.retriever_id == retriever_id]
    return episodes(mine[0], start, end) if mine else []


def _dates(column: object) -> list[date]:
    return [each.astype("datetime64[D]").item() for each in column]  # type: ignore[attr-defined]  # numpy's days


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    parts = [f"# {_title(report)}", _period(report), report.verdict]
    parts.append(_markdown_table(["", "value", "change"], words.numbers(report.signals)))
    parts += ["## Day by day", _markdown_table(["day", "CTR", "skip rate"], _daily(report))]
    for title, headers, rows, said in _sections(report):
        parts += [f"## {title}", *([said] if said else []), *([_markdown_table(headers, rows)] if rows else [])]
    parts += ["## Alerts", *_list(_alerts(report)), "## Blind spots", *_list(words.blind_spots(report.signals))]
    parts += ["## Method", *_list(_method(report))]
    return "\n\n".join(parts) + "\n"


def html(report: Report) -> str:
    """Return the report as one HTML file, without scripts and without anything from elsewhere."""
    sections = [f"<h1>{escape(_title(report))}</h1><p>{escape(_period(report))}</p>"]
    sections.append(f"<p class=verdict>{escape(report.verdict)}</p>")
    sections.append(_html_table(["", "value", "change"], words.numbers(report.signals)))
    days = [each for each in report.days if each.day >= report.signals.numbers.since]
    offset = report.signals.numbers.until - report.signals.numbers.since + timedelta(days=1)
    earlier = {each.day + offset: each for each in report.days if each.day < report.signals.numbers.since}
    for name, pick in (("CTR", "ctr"), ("Skip rate", "skip_rate")):
        then = [getattr(earlier[each.day], pick) if each.day in earlier else None for each in days]
        labels = [each.day.strftime("%a %d").replace(" 0", " ") for each in days]
        drawn = plots.lines(f"{name} by day", labels, [getattr(each, pick) for each in days], then)
        sections.append(_figure(f"{name} by day", drawn, "Band: 95% interval. Dashed: the period before."))
    places = report.signals.ctr_by_position[:20]
    names = [words.position_name(each.position, 100) for each in places]
    drawn = plots.dots("CTR by position", names, [each.ctr for each in places], report.before[:20])
    sections.append(_figure("CTR by position", drawn, "Line: 95% interval. Tick: the period before."))
    for title, headers, rows, said in _sections(report):
        body = f"<p>{escape(said)}</p>" if said else ""
        if title == "CTR by position":
            body = f"<details><summary>as a table</summary>{_html_table(headers, rows)}</details>"
            sections[-1] += body
            continue
        sections.append(f"<h2>{escape(title)}</h2>{body}{_html_table(headers, rows) if rows else ''}")
    for title, lines in (
        ("Alerts", _alerts(report)),
        ("Blind spots", words.blind_spots(report.signals)),
        ("Method", _method(report)),
    ):
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        sections.append(f"<h2>{title}</h2><ul>{items}</ul>")
    body = "\n".join(f"<section>{section}</section>" for section in sections)
    return _PAGE.format(title=escape(_title(report)), style=_STYLE, body=body)


def _title(report: Report) -> str:
    return f"Relevance of {report.signals.retriever_id or '(no retriever)'}"


def _period(report: Report) -> str:
    n = report.signals.numbers
    return f"{n.since} to {n.until}, whole days, UTC; {n.ctr.of:,} results shown in {n.searches:,} searches."


def _daily(report: Report) -> list[list[str]]:
    return [
        [each.day.isoformat(), words.with_interval(each.ctr), words.with_interval(each.skip_rate)]
        for each in report.days
    ]


def _sections(report: Report) -> list[words.Table]:
    return [make(report.signals) for make in (words.positions, words.low_ctr, words.skipped, words.zero)]


def _alerts(report: Report) -> list[str]:
    lines = [
        f"{words.moment(each.since_ms)} – {words.moment(each.until_ms) if each.until_ms else 'still open'}: "  # noqa: RUF001
        f"{each.worst.sentence}"
        for each in report.alerts
    ]
    return lines or ["none: every rule was checked at every full hour"]


def _method(report: Report) -> list[str]:
    return [
        "CTR is clicks over results shown; searches with a click is the share of searches with at least one.",
        "Skipped are results without a click above a search's lowest click; the rate is over all down to that click.",
        "Intervals are Wilson's at 95%; a list holds what chance does not explain when all are tested together.",
        "Expected is what the retriever's own rates by position, of the same day, say of the places of a result.",
        "Positions count from 1.",
        (
            f"Alerts are found anew from the lake: the last {' and '.join(map(str, WINDOWS))} hours beside the same of "
            f"the weekday {WEEKS} weeks back, at equal positions and kinds of queries."
        ),
        f"First searches by a new ranker: {_rankers(report)}.",
    ]


def _rankers(report: Report) -> str:
    found = [f"{name} at {words.moment(since)}" for name, since in sorted(report.new_rankers.items())]
    return ", ".join(found) or "none"


def _list(lines: list[str]) -> list[str]:
    return ["\n".join(f"- {_plain(line)}" for line in lines)]


def _markdown_table(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Return text that Markdown takes for text, whatever somebody typed into a search box."""
    text = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def _html_table(headers: list[str], rows: list[list[str]]) -> str:
    # Of a header without text a screen reader would say that there is one.
    head = "".join(f"<th scope=col>{escape(header)}</th>" if header else "<td></td>" for header in headers)
    body = "".join(
        "<tr>"
        + "".join(
            f"<th scope=row><bdi>{escape(cell)}</bdi></th>" if i == 0 else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(title: str, drawing: str, caption: str) -> str:
    return f"<h2>{escape(title)}</h2><figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""

_STYLE = """
:root{color-scheme:light dark;--page:light-dark(#f7f8fa,#0f1318);--ink:light-dark(#16202b,#e8edf3);
--muted:light-dark(#4f5b69,#a7b2c0);--line:light-dark(#7a8696,#74808f);--hair:light-dark(#dde2e9,#2c3541);
--c1:light-dark(#1f7fd0,#5584e6)}
body{margin:0;background:var(--page);color:var(--ink);font:14px/20px system-ui,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:900px;margin:auto;padding:16px}
section{margin-bottom:32px}
h1{font-size:20px;line-height:28px;margin:0 0 4px}
h2{font-size:16px;line-height:24px;margin:0 0 8px}
p{margin:0 0 8px}
.verdict{font-size:16px;line-height:24px;font-weight:600}
table{border-collapse:collapse;width:100%}
th,td{padding:6px 8px;text-align:right;font-weight:400;border-bottom:1px solid var(--hair)}
thead :is(th,td){color:var(--muted);border-bottom:1px solid var(--line)}
th:first-child{text-align:left;overflow-wrap:anywhere;min-width:9em}
figure{margin:0}
figcaption{color:var(--muted)}
svg{display:block;width:100%;height:auto;max-width:860px}
svg text{font:12px system-ui,sans-serif;fill:var(--muted)}
.grid{stroke:var(--hair)}
.data{stroke:var(--c1);stroke-width:2;fill:none}
.band{fill:var(--c1);fill-opacity:.25;stroke:var(--c1);stroke-width:.75}
.dot{fill:var(--c1)}
.then{stroke:var(--muted);stroke-width:1.5;fill:none;stroke-dasharray:6 3}
.tick{stroke:var(--muted);stroke-width:2}
@media (max-width:600px){table{display:block;overflow-x:auto}}
@media print{:root{color-scheme:light}@page{size:A4;margin:15mm}section{break-inside:avoid}details{display:none}}
"""
