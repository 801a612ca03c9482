"""Axes that can be read, and marks inside of them."""

from __future__ import annotations

import re

import pytest

from edgec.report.plot import WIDTH, Plot


def labels(svg: str, axis: str) -> list[str]:
    return re.findall(rf'class="{axis}">([^<]+)</text>', svg)


@pytest.mark.parametrize(("values", "shown"), [
    ([0.0357, 0.0607], ["0.035", "0.04", "0.045", "0.05", "0.055", "0.06", "0.065"]),
    ([-0.05, 43.0], ["-10", "0", "10", "20", "30", "40", "50"]),
    ([3.0, 3.0], ["3", "4"]), ([0.0, 0.0], ["0", "0.2"]), ([], ["0", "0.2"]),
    ([1e9, 5e9], ["1e+09", "2e+09", "3e+09", "4e+09", "5e+09"]),
], ids=str)
def test_axis_has_a_label_at_both_ends_and_at_every_step(values, shown):
    plot = Plot([0.0, 1.0], values, "x", "y")
    assert labels(plot.html("", []), "up") == shown


def test_axis_of_counts_has_no_label_between_two():
    svg = Plot(range(1, 3), [0.0, 1.0], "x", "y", whole=True).html("", [])
    assert labels(svg, "across")[:-1] == ["1", "2"]


def test_shares_are_shown_in_per_cent():
    assert labels(Plot([0.0, 0.9], [0.0], "x", "y", percent=True).html("", []), "across")[0] == "0 %"


def test_texts_of_both_axes_lie_inside():
    svg = Plot([0.0, 1.0], [0.0, 1.0], "below", "beside").html("", [])
    for x, y, kind in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"(?: class="(\w+)")?', svg):
        room = 30 if kind == "across" else 0  # half of a label, in pixels
        assert room <= float(x) <= WIDTH - room
        assert 13 <= float(y) <= 340
    assert labels(svg, "across")[-1] == "below"


def test_figure_is_named_and_escaped():
    plot = Plot([0.0, 1.0], [0.0, 1.0], "<x>", "<y>")
    plot.dot(0.5, 0.5, "sqnr", "<dot>")
    plot.square(0.5, 0.5, "alone", "<square>")
    plot.line([(0.0, 0.0), (1.0, 1.0)], "sqnr", "<line>")
    html = plot.html("<label>", [("sqnr", "<mark>")])
    for raw in ("<x>", "<y>", "<dot>", "<square>", "<line>", "<label>", "<mark>"):
        assert raw not in html
        assert raw.replace("<", "&lt;").replace(">", "&gt;") in html
    assert html.count("<figcaption") == html.count('role="img"') == 1
