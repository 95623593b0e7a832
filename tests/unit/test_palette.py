"""The dashboard's colours can be told from what they stand on, in both themes."""

import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

CSS = (Path(__file__).parents[2] / "serving" / "dashboard" / "dashboard.css").read_text()
TOKENS = {
    name: pair.split(", ")
    for name, pair in re.findall(r"--(\w+): light-dark\((#\w{6}, #\w{6})\)", CSS.split("}", 1)[0])
}
THEMES = ("light", "dark")
BACKGROUNDS = ("page", "surface", "raised")
# What stands in one chart: the data, the other series, the period before.
SERIES = ("c1", "c2", "muted")
# Colours as they are seen without one kind of cone: Machado et al., IEEE TVCG 15 (2009), severity 1, linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour):
    """Linear RGB of #RRGGBB."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return np.array([part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts])


def luminance(colour):
    """WCAG 2.2's relative luminance of #RRGGBB."""
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def lab(colour, vision="normal"):
    """CIELAB (D65) of #RRGGBB as somebody sees it."""
    seen = np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = np.array(to_xyz) @ seen / [0.95047, 1.0, 1.08883]
    fx, fy, fz = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def ciede2000(one, other):
    """CIEDE2000 of two CIELAB colours (Sharma, Wu, Dalal, Color Research & Application 30, 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    c7 = ((math.hypot(a1, b1) + math.hypot(a2, b2)) / 2) ** 7
    g = 1 + (1 - math.sqrt(c7 / (c7 + 25**7))) / 2
    c1, c2 = math.hypot(g * a1, b1), math.hypot(g * a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, g * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    hue = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    dl, dc, dh = l2 - l1, c2 - c1, 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2))
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 + sum(
        weight * math.cos(math.radians(times * hue + shift))
        for weight, times, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    )
    sl = 1 + 0.015 * (lightness - 50) ** 2 / math.sqrt(20 + (lightness - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    rotation = (
        -2
        * math.sqrt(chroma**7 / (chroma**7 + 25**7))
        * math.sin(math.radians(60 * math.exp(-(((hue - 275) / 25) ** 2))))
    )
    return math.sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rotation * (dc / sc) * (dh / sh))


def contrast(one, other):
    """WCAG 2.2's contrast ratio."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    ("token", "least"),
    [
        *((text, 4.5) for text in ("ink", "muted", "accent", "good", "warn", "bad")),
        *((mark, 3) for mark in ("c1", "c2", "line")),
    ],
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


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("vision", VISION)
def test_series_can_be_told_apart(theme, vision):
    """Series are 15 apart in CIEDE2000 for everybody; the period before, which is dashed besides, is 10 from each."""
    side = THEMES.index(theme)
    for one, other in combinations(SERIES, 2):
        distance = ciede2000(*(lab(TOKENS[token][side], vision) for token in (one, other)))
        assert distance >= (10 if "muted" in (one, other) else 15), (one, other, distance)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
    ],
)
def test_the_distance_is_that_of_its_authors(one, other, distance):
    """Pairs of the paper's table."""
    assert ciede2000(one, other) == pytest.approx(distance, abs=1e-4)
