"""Lines over time as one SVG: some panels, one below the other, that need nothing but a browser."""

from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, GAP = 900, 170, 70, 130, 34
# Colours that are told apart with any colour vision (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLE = (
    "text{font:12px sans-serif;fill:#555}.title{font-weight:bold}.grid{stroke:#ccc}polyline{fill:none;stroke-width:1.5}"
)


@dataclass(frozen=True)
class Panel:
    """One panel: a title, and lines by their names."""

    title: str
    lines: dict[str, np.ndarray]


def draw(title: str, minutes: np.ndarray, panels: list[Panel]) -> str:
    """Return the drawing."""
    parts = [f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>']
    for number, panel in enumerate(panels):
        parts.append(_panel(panel, minutes, 30 + number * (HEIGHT + GAP)))
    height = 30 + len(panels) * (HEIGHT + GAP)
    view = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    style = f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view} role="img">{style}{"".join(parts)}</svg>\n'


def _panel(panel: Panel, minutes: np.ndarray, top: float) -> str:
    most = _round_up(max(float(each.max()) for each in panel.lines.values()))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - 30
    below = top + 18 + high
    parts = [f'<text class="title" x="{LEFT}" y="{top + 12}">{escape(panel.title)}</text>']
    for share in (0, 0.5, 1):
        y = below - share * high
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + wide}" y1="{y:.0f}" y2="{y:.0f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{share * most:,.4g}</text>')
    for at in np.linspace(0, minutes[-1], 7):
        x = LEFT + wide * at / minutes[-1]
        parts.append(f'<text x="{x:.0f}" y="{below + 14:.0f}" text-anchor="middle">{at:.0f} min</text>')
    for number, (name, values) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{LEFT + wide * at / minutes[-1]:.1f},{below - high * value / most:.1f}"
            for at, value in zip(minutes, values, strict=True)
        )
        parts.append(f'<polyline stroke="{colour}" points="{points}"/>')
        y = top + 30 + 16 * number
        parts.append(f'<text x="{LEFT + wide + 10}" y="{y:.0f}" style="fill:{colour}">{escape(name)}</text>')
    return "".join(parts)


def _round_up(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-9)))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value))
