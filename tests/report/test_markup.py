"""The pieces that all pages share, and their style."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from edgec.report.markup import bar, foldable, in_short, table, tiles

CSS = resources.files("edgec.report").joinpath("page.css").read_text(encoding="utf-8")
SCHEMES = [dict(re.findall(r"--(\w+):\s*(#\w+)", block)) for block in re.findall(r":root \{([^}]*)\}", CSS)]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark", "paper"])
@pytest.mark.parametrize("ink", ["ink", "soft", "good", "warn", "bad", "link"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme, ink):
    for ground in ("paper", "tint"):
        low, high = sorted((luminance(scheme[ink]), luminance(scheme[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark", "paper"])
def test_marks_of_plots_have_the_contrast_that_wcag_asks_for(scheme):
    low, high = sorted((luminance(scheme["bar"]), luminance(scheme["paper"])))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_style_knows_phones_and_paper():
    assert "@media (max-width: 640px)" in CSS
    assert "@media print" in CSS
    assert "details-content" in CSS  # what is folded stands on paper


def test_table_folds_only_more_than_a_few():
    rows = [[str(i)] for i in range(13)]
    assert "<details>" not in table("t", ["a"], rows, shown=10)
    folded = table("t<", ["a"], [*rows, ["13"]], shown=10)
    assert "<summary>4 more</summary>" in folded
    assert folded.count('scope="col"') == 2
    assert 'aria-label="t&lt;"' in folded
    assert table("t", ["a"], []) == "<p>none</p>"


def test_bar_shows_nothing_for_nothing():
    assert bar(0, 10) == bar(1, 0) == ""
    assert "width:90px" in bar(10, 10)
    assert "width:2px" in bar(1e-9, 10)


def test_answers_leave_empty_questions_out():
    assert in_short([("a", ""), ("b", "c")]).count("<dt>") == 1
    assert in_short([("a", "")]) == ""
    assert tiles([("a", "b", "c")]).count("<dt>") == 1


def test_list_folds_when_it_is_long():
    assert foldable(["a"] * 3, "things") == "aaa"
    assert "4 things" in foldable(["a"] * 4, "things")
    assert "and 20 more" in foldable(["a"] * 120, "things")
