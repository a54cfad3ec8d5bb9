"""The style sheet of all pages: legible in both colour schemes, small, and free of addresses."""

from __future__ import annotations

import re

import pytest

from indexer.design.page import style, whole_page

TEXT = [  # text on its ground, by the names of the sheet's variables
    *((ink, ground) for ink in ("ink", "soft", "accent", "good", "bad") for ground in ("paper", "tint")),
    ("ink", "accent-tint"), ("accent", "accent-tint"), ("on-accent", "accent"),
    ("warn", "warn-tint"), ("good", "good-tint"), ("bad", "bad-tint"),
]  # fmt: skip
DRAWN = [("edge", "paper"), ("warn-edge", "paper"), *((f"series-{i}", "paper") for i in range(1, 9))]
SHADE = 0.45  # the strongest shade of a confusion matrix's cell


def colours(scheme):
    """Name → (red, green, blue) of a colour scheme; the dark one overrides the light one."""
    light, dark = style().split("@media screen and (prefers-color-scheme: dark)")
    blocks = [light, dark.split("}")[0]][: 1 if scheme == "light" else 2]
    found = [pair for block in blocks for pair in re.findall(r"--([\w-]+): #([0-9a-f]{6})\b", block)]
    return {name: tuple(int(value[i : i + 2], 16) for i in (0, 2, 4)) for name, value in found}


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_their_ground(scheme):
    named = colours(scheme)
    assert len(named) >= 22
    illegible = {pair for pair in TEXT if contrast(named[pair[0]], named[pair[1]]) < 4.5}
    assert not illegible
    faint = {pair for pair in DRAWN if contrast(named[pair[0]], named[pair[1]]) < 3}
    assert not faint
    shaded = [SHADE * a + (1 - SHADE) * p for a, p in zip(named["accent"], named["paper"], strict=True)]
    assert contrast(named["ink"], shaded) >= 4.5


def test_contrast_is_that_of_the_standard():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x77, 0x77, 0x77), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)


def test_every_colour_is_a_variable_and_every_variable_is_defined():
    rules = style().split("*, *::before")[1]
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b", rules)
    defined = set(re.findall(r"--([\w-]+):", style())) | {"share"}  # share: set by a cell of a confusion matrix
    assert set(re.findall(r"var\(--([\w-]+)", style())) <= defined


def test_the_sheet_is_small_and_loads_nothing():
    assert len(style().encode()) < 25_000
    assert not re.search(r"url\(|@import|@font-face|://|</", style())


@pytest.mark.case("U10")
def test_a_page_escapes_its_title_and_names_its_viewport():
    page = whole_page("<b>odd", ["<p>text</p>"])
    assert "<title>&lt;b&gt;odd</title>" in page
    assert "name='viewport' content='width=device-width" in page
    assert page.count("<style>") == 1
