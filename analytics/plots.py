"""Small drawings as SVG text, with classes for a page's style: a line with its band, and dots with whiskers."""

from collections.abc import Sequence
from html import escape

import numpy as np

from clickwell.analytics.intervals import Rate

WIDTH, HEIGHT = 860, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 26


def lines(title: str, labels: Sequence[str], now: Sequence[Rate], then: Sequence[Rate | None]) -> str:
    """Draw rates over time with their intervals as a band, and dashed those of another time; gaps stay gaps."""
    most = _most([*now, *then])
    x = [_across(i, len(labels)) for i in range(len(labels))]
    parts = [_frame(labels, x, most)]
    for run in _runs([each.value is not None for each in now]):
        upper = [_point(x[i], now[i].high, most) for i in run]
        lower = [_point(x[i], now[i].low, most) for i in reversed(run)]
        parts.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
        parts.append(f'<polyline class="data" points="{" ".join(_point(x[i], now[i].value, most) for i in run)}"/>')
    for run in _runs([each is not None and each.value is not None for each in then]):
        points = (_point(x[i], then[i].value, most) for i in run)  # type: ignore[union-attr]  # a run has values
        parts.append(f'<polyline class="then" points="{" ".join(points)}"/>')
    return _drawing(title, labels, now, parts)


def dots(title: str, labels: Sequence[str], now: Sequence[Rate], then: Sequence[Rate | None]) -> str:
    """Draw rates as dots with their intervals as whiskers, and those of another time as ticks."""
    most = _most([*now, *then])
    x = [_across(i, len(labels), inset=0.5) for i in range(len(labels))]
    parts = [_frame(labels, x, most)]
    for at, each, before in zip(x, now, then, strict=True):
        if before is not None and before.value is not None:
            y = _down(before.value, most)
            parts.append(f'<line class="tick" x1="{at - 10:.1f}" x2="{at + 10:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if each.value is None or each.low is None or each.high is None:
            continue
        low, high = _down(each.low, most), _down(each.high, most)
        parts.append(f'<line class="data" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{_down(each.value, most):.1f}" r="4"/>')
    return _drawing(title, labels, now, parts)


def _drawing(title: str, labels: Sequence[str], now: Sequence[Rate], parts: Sequence[str]) -> str:
    said = ", ".join(
        f"{label} {'no data' if each.value is None else f'{each.value:.1%}'}"
        for label, each in zip(labels, now, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(said)}</desc>{''.join(parts)}</svg>"
    )


def _frame(labels: Sequence[str], x: Sequence[float], most: float) -> str:
    """Draw the axes: zero is on the upright one, and not more labels below than can be read."""
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _down(share * most, most)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share * most:g}%</text>')
    step = max(-(-len(labels) // 14), 1)
    parts += [
        f'<text x="{x[i]:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(labels[i])}</text>'
        for i in range(0, len(labels), step)
    ]
    return "".join(parts)


def _most(rates: Sequence[Rate | None]) -> float:
    """Return where the axis ends: a round share above every interval, of which the quarters are round too."""
    top = max((each.high for each in rates if each is not None and each.high is not None), default=0.0)
    return next((share for share in (0.02, 0.04, 0.08, 0.12, 0.2, 0.4, 0.6, 0.8) if share >= top), 1.0)


def _runs(present: Sequence[bool]) -> list[list[int]]:
    where = np.flatnonzero(present)
    return [run.tolist() for run in np.split(where, np.flatnonzero(np.diff(where) > 1) + 1) if len(run)]


def _across(i: int, n: int, inset: float = 0.25) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (i + inset) / max(n - 1 + 2 * inset, 1)


def _down(value: float, most: float) -> float:
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - value / most)


def _point(x: float, value: float | None, most: float) -> str:
    return f"{x:.1f},{_down(value or 0.0, most):.1f}"
