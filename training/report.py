"""An evaluation as one page of HTML: the verdict, the figures, and plots drawn in the page itself, without a script."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from clickwell.training.evaluation import Evaluation, Group
from clickwell.training.metrics import Floats

# Most changed queries on each side.
_EXAMPLES = 10
_WIDTH = 720
_BINS = 20
_STYLE = """
:root { color-scheme: light dark; --page: light-dark(#F7F8FA, #0F1318); --ink: light-dark(#16202B, #E8EDF3);
  --muted: light-dark(#4F5B69, #A7B2C0); --hair: light-dark(#DDE2E9, #2C3541); --line: light-dark(#7A8696, #74808F);
  --c1: light-dark(#1F7FD0, #5584E6); --c2: light-dark(#B04A00, #EE7C2D); }
body { background: var(--page); color: var(--ink); font: 14px/20px system-ui, sans-serif; margin: 24px auto;
  max-width: 760px; padding: 0 16px; font-variant-numeric: tabular-nums; }
h1 { font-size: 20px; line-height: 28px; } h2 { font-size: 16px; line-height: 24px; margin-top: 32px; }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; }
th, td { border-bottom: 1px solid var(--hair); padding: 8px; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-color: var(--line); font-weight: 600; }
svg { display: block; max-width: 100%; } svg text { fill: var(--muted); font: 12px/16px system-ui, sans-serif; }
td { white-space: nowrap; } td:first-child { white-space: normal; }
.verdict { border-top: 1px solid var(--line); font-size: 16px; line-height: 24px; padding-top: 8px; }
.muted { color: var(--muted); }
"""


def page(found: Evaluation, title: str, queries: Mapping[str, str]) -> str:
    """Return the page; the same evaluation gives the same text.

    Args:
        found: what was measured.
        title: name of the model.
        queries: query_id -> text, for the examples.
    """
    verdict = "✓ May be shipped" if found.gate.ship else "✗ May not be shipped"
    name = escape(title)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{name}: evaluation</title><style>{_STYLE}</style></head><body>",
        f"<h1>{name} against its base</h1>",
        f'<p class="verdict"><strong>{verdict}.</strong> {escape(found.gate.why)}.</p>',
        _note(
            f"Every one of {found.documents:,} documents is a candidate for every query. Intervals hold "
            f"{found.confidence:.0%}, by a paired bootstrap over queries. {found.unjudged:,} queries without a "
            "relevant document are left out."
        ),
        "<h2>NDCG@10 of base and model</h2>",
        _dumbbells(found.groups),
        "<h2>All figures</h2>",
        _figures(found.groups),
        "<h2>Change of NDCG@10, query by query</h2>",
        _histogram(found.scores[:, 1] - found.scores[:, 0]),
        *_examples(found, queries),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _dumbbells(groups: Mapping[str, Group]) -> str:
    """Draw a line for each group from the base's mean to the model's, with the interval of the change behind it."""
    found = {name: group.metrics["ndcg@10"] for name, group in groups.items()}
    ends = [end for one in found.values() for end in (one.base, one.model, one.base + one.low, one.base + one.high)]
    left, right = 240, _WIDTH - 24
    low, high = max(min(ends) - 0.03, 0.0), min(max(ends) + 0.03, 1.0)

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    height = 44 * len(found) + 44
    drawn = [f'<line x1="{left}" x2="{right}" y1="{height - 32}" y2="{height - 32}" stroke="var(--line)"/>']
    drawn += [
        f'<text x="{x(tick)}" y="{height - 14}" text-anchor="middle">{tick:.2f}</text>'
        for tick in np.arange(np.ceil(low * 20) / 20, high, 0.05 if high - low < 0.4 else 0.2)
    ]
    for row, (name, one) in enumerate(found.items()):
        y, start = 28 + 44 * row, x(one.base + one.low)
        width = x(one.base + one.high) - start
        drawn += [
            f'<text x="0" y="{y + 4}">{_words(name)} ({groups[name].queries:,})</text>',
            f'<rect x="{start}" y="{y - 6}" width="{width:.1f}" height="12" fill="var(--hair)"/>',
            f'<line x1="{x(one.base)}" x2="{x(one.model)}" y1="{y}" y2="{y}" stroke="var(--c1)" stroke-width="2"/>',
            f'<circle cx="{x(one.base)}" cy="{y}" r="5" fill="var(--page)" stroke="var(--c1)" stroke-width="2"/>',
            f'<circle cx="{x(one.model)}" cy="{y}" r="5" fill="var(--c1)"/>',
        ]
    label = "; ".join(f"{_words(name)}: {one.base:.3f} to {one.model:.3f}" for name, one in found.items())
    return _svg(drawn, height, label) + (
        "<p class=\"muted\">○ base, ● model, band: where the model's mean may lie, given the base's.</p>"
    )


def _histogram(changes: Floats) -> str:
    """Draw how many queries changed by how much; the many that did not change are told in words."""
    changed = changes[changes != 0]
    counts, edges = np.histogram(changed, bins=_BINS, range=(-1, 1))
    top = max(int(counts.max(initial=0)), 1)
    step, height = _WIDTH / _BINS, 180
    drawn = [f'<line x1="0" x2="{_WIDTH}" y1="{height - 24}" y2="{height - 24}" stroke="var(--line)"/>']
    for bin_, count in enumerate(counts.tolist()):
        tall = round(count / top * (height - 48), 1)
        x = round(bin_ * step, 1)
        colour = "var(--c2)" if edges[bin_] < -1e-9 else "var(--c1)"
        drawn.append(
            f'<rect x="{x + 1}" y="{height - 24 - tall:.1f}" width="{step - 2:.1f}" height="{tall}" fill="{colour}"/>'
        )
        if count:
            drawn.append(
                f'<text x="{x + step / 2:.1f}" y="{height - 28 - tall:.1f}" text-anchor="middle">{count:,}</text>'
            )
    drawn += [
        f'<text x="{round((tick + 1) / 2 * _WIDTH, 1)}" y="{height - 6}" text-anchor="{anchor}">{tick:+.1f}</text>'
        for tick, anchor in ((-1, "start"), (-0.5, "middle"), (0, "middle"), (0.5, "middle"), (1, "end"))
    ]
    gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
    words = f"{gained:,} queries gain, {lost:,} lose, {len(changes) - gained - lost:,} stay as they are."
    return _svg(drawn, height, words) + _note(words)


def _figures(groups: Mapping[str, Group]) -> str:
    rows = [
        [
            f"{_words(name)} ({group.queries:,})",
            metric,
            f"{one.base:.4f}",
            f"{one.model:.4f}",
            f"{one.difference:+.4f}",
            f"{one.low:+.4f} … {one.high:+.4f}",
            "-" if one.relative is None else f"{one.relative:+.1%}",
        ]
        for name, group in groups.items()
        for metric, one in group.metrics.items()
    ]
    return _table(["queries", "metric", "base", "model", "change", "interval", "relative"], rows)


def _examples(found: Evaluation, queries: Mapping[str, str]) -> list[str]:
    changes = found.scores[:, 1] - found.scores[:, 0]
    order = np.argsort(-changes, kind="stable")
    best = [row for row in order[:_EXAMPLES].tolist() if changes[row] > 0]
    worst = [row for row in order[::-1][:_EXAMPLES].tolist() if changes[row] < 0]
    parts = []
    for title, rows in (("Queries that gain most", best), ("Queries that lose most", worst)):
        cells = [
            [queries[found.queries[row]], f"{found.scores[row, 0]:.3f}", f"{found.scores[row, 1]:.3f}"] for row in rows
        ]
        parts += [f"<h2>{title}</h2>", _table(["query", "base", "model"], cells)]
    return parts


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in headers)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _svg(drawn: Sequence[str], height: int, label: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}">'
        f"{''.join(drawn)}</svg>"
    )


def _note(text: str) -> str:
    return f'<p class="muted">{text}</p>'


def _words(name: str) -> str:
    return name.replace("_", " ")
