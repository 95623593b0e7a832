"""The dashboard's colours can be told from what they stand on, in both themes."""

import re
from pathlib import Path

import pytest

CSS = (Path(__file__).parents[2] / "serving" / "dashboard" / "dashboard.css").read_text()
TOKENS = {
    name: pair.split(", ")
    for name, pair in re.findall(r"--(\w+): light-dark\((#\w{6}, #\w{6})\)", CSS.split("}", 1)[0])
}
THEMES = ("light", "dark")
BACKGROUNDS = ("page", "surface", "raised")


def luminance(colour):
    """WCAG 2.2's relative luminance of #RRGGBB."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    """WCAG 2.2's contrast ratio."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    ("token", "least"),
    [*((text, 4.5) for text in ("ink", "muted", "accent", "good", "warn", "bad")), ("c1", 3), ("line", 3)],
)
def test_colours_stand_out(theme, token, least):
    """Text has a contrast of 4.5 and marks of 3 on every background."""
    side = THEMES.index(theme)
    for background in BACKGROUNDS:
        assert contrast(TOKENS[token][side], TOKENS[background][side]) >= least


def test_the_formula_knows_black_and_white():
    """Black on white is 21:1, and a colour on itself 1:1."""
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#1F7FD0", "#1F7FD0") == 1
