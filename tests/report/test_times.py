"""Times of kernels in a report: expected, measured, and the section of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.backends.base import Artifact
from edgec.report.times import add_measured, share_of_roof, time_facts, times_section
from edgec.target import load_target

META = {"kernel_algorithms": {"a": "direct", "<b>": "pool"},
        "predicted": {"a": {"cycles": 3000, "roof": 1500, "bound": "multiply-adds"},
                      "<b>": {"cycles": 500, "roof": 100, "bound": "memory"}}}


def facts():
    artifacts = [Artifact("onnxruntime", Path(), (), ()), Artifact("tvm", Path(), (), (), meta=META)]
    return time_facts(artifacts, load_target("rpi4"))


def test_facts_are_those_of_backends_that_predict():
    assert facts() == {"mhz": 1500, "rows": [
        {"kernel": "a", "stage": 1, "algorithm": "direct", "cycles": 3000, "roof": 1500, "bound": "multiply-adds"},
        {"kernel": "<b>", "stage": 1, "algorithm": "pool", "cycles": 500, "roof": 100, "bound": "memory"}]}


def test_measured_kernel_has_a_share_of_its_roof():
    times = add_measured(facts(), {"a": 2e-6}, 1.5, "a board")
    assert [row.get("seconds") for row in times["rows"]] == [2e-6, None]
    assert share_of_roof(times["rows"][0], 1.5) == pytest.approx(0.5)
    assert share_of_roof(times["rows"][1], 1.5) is None
    assert "measured" not in facts()


def test_page_shows_seconds_or_cycles_and_escapes_names():
    expected = times_section(facts())
    assert "2 us" in expected
    assert "Not measured" in expected
    assert "&lt;b&gt;" in expected
    assert "3,000 cycles" in times_section({**facts(), "mhz": 0})
    measured = times_section(add_measured(facts(), {"a": 4e-6}, 1.5, "a <board>"))
    assert "4 us" in measured
    assert "25 %" in measured
    assert "a &lt;board&gt; at 1.50 GHz" in measured
    assert "4 us measured" in measured
    assert measured.count('class="bar"') == 1
    assert "More than 100 %" not in measured
    assert "More than 100 %" in times_section(add_measured(facts(), {"a": 5e-7}, 1.5, "a board"))
    assert times_section({"mhz": 0, "rows": []}) == ""
