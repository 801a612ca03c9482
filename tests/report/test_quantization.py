"""The section on low precision: nothing from a model is HTML, every kernel is in the plot, numbers are there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgec.report.quantization import _repairs, accuracy_tile, plot, quantization


def kernel(name: str, sqnr: float | None = 30.0, product: str | None = None, int8: bool = True) -> dict[str, Any]:
    return {"name": name, "product": name if product is None else product, "ops": ["Conv"], "source": "", "int8": int8,
            "macs": 1000, "sqnr_db": sqnr, "largest": 0.1, "magnitude": 2.0}


def facts(**changes: Any) -> dict[str, Any]:
    interval = {"value": 90.0, "low": 88.0, "high": 92.0}
    return {"precision": "int8", "note": "", "samples": 64, "findings": [], "convergence": {}, "float": [],
            "tensors": [], "weights": [], "budget": None, "kernels": [kernel("a", 40.0), kernel("b", 20.0)],
            "sensitivity": [{"product": "a", "noise": 0.1, "sqnr_db": 10.0}],
            "accuracy": {"metric": "top1", "unit": "%", "samples": 500, "confidence": 0.95, "with": "engine",
                         "float": interval, "engine": interval, "drop": {"value": 0.0, "low": -1.0, "high": 1.0},
                         "mcnemar": {"p_value": 0.5, "only_float_right": 3, "only_engine_right": 2},
                         "agreement": {"agreement": 99.0, "sqnr": 30.0}, "classes": []}, **changes}


def test_section_escapes_what_a_model_says():
    evil = "<script>x</script>"
    page = quantization(facts(
        kernels=[kernel(evil)], note=evil, float=[{"node": evil, "rule": "r", "text": evil, "source": ""}],
        findings=[{"rule": "r", "text": evil, "advice": evil}],
        tensors=[{"name": evil, "method": "kl", "threshold": 1.0, "scale": 0.1, "zero_point": 0, "sqnr_db": None}],
        weights=[{"weight": evil, "node": evil, "dtype": "int8", "scales": 4, "group": 0, "sqnr_db": 40.0}]))
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 7


def test_plot_has_a_mark_for_every_kernel_and_every_one_alone():
    kernels = [kernel(f"k{i}", 50.0 - i, int8=i != 3) for i in range(7)]
    svg = plot(kernels, {"k1": 33.0, "k2": None})
    assert svg.count("<circle") == 7
    assert svg.count('class="sqnr float"><title>') == 1
    assert svg.count("<rect") == 2
    assert "k1 alone: 33.0 dB" in svg
    assert "k2 alone: exact" in svg


@pytest.mark.parametrize("values", [[None], [None, None], [-12.0, 30.0], [200.0], []], ids=str)
def test_plot_keeps_every_mark_inside(values):
    svg = plot([kernel(f"k{i}", v) for i, v in enumerate(values)], {})
    heights = [float(y) for y in re.findall(r'cy="([^"]+)"', svg)]
    assert len(heights) == len(values)
    assert all(10 <= y <= 226 for y in heights)


def test_plot_puts_more_decibels_higher():
    svg = plot([kernel("a", 10.0), kernel("b", 40.0), kernel("c", None)], {})
    low, high, exact = (float(y) for y in re.findall(r'cy="([^"]+)"', svg))
    assert exact <= high < low


def test_table_starts_with_the_worst_kernel():
    page = quantization(facts())
    table = page[page.index("largest magnitude"):]
    assert table.index("<code>b</code>") < table.index("<code>a</code>")


def test_section_without_calibration_shows_weights_alone():
    page = quantization(facts(kernels=[], sensitivity=[], accuracy=None, weights=[
        {"weight": "w", "node": "n", "dtype": "int4", "scales": 4, "group": 32, "sqnr_db": 20.0}]))
    assert "<details open>" in page
    assert "Error of every kernel" not in page


def test_missed_budget_is_said_and_marks_the_tile():
    budget = {"met": False, "max_drop": 0.5, "unit": "%", "reason": "the time of 3 s is up", "trials": [[0, 2.0]],
              "float_kernels": []}
    page = quantization(facts(budget=budget))
    assert "was missed" in page
    assert "time of 3 s" in page
    assert "bad" in accuracy_tile(facts(budget=budget))[0][1]
    assert "bad" not in accuracy_tile(facts())[0][1]
    assert accuracy_tile(facts(accuracy=None)) == []


def test_measurement_that_the_engine_did_not_make_is_said():
    other = facts()
    other["accuracy"]["with"] = "onnxruntime"
    assert "measured in ONNX Runtime" in quantization(other)
    assert "measured in ONNX Runtime" not in quantization(facts())


def test_repairs_say_what_they_were_worth():
    text = _repairs([
        {"repair": "bias-correction", "way": "in turn", "applied": 3, "outputs": {"y<": [20.0, 23.5]},
         "reason": "left <away>: no"},
        {"repair": "equalize", "applied": 0, "weight_noise": [0.01, 0.002]},
        {"repair": "smooth", "applied": 1, "norms": [{"norm": "ln", "spread": (60.0, 8.0)}]}])
    assert "y&lt;" in text
    for part in ("left &lt;away&gt;: no", "20.0 dB to 23.5 dB", "0.01 to 0.002", "60 times the median, then 8"):
        assert part in text
    assert "bias-correction in turn<" in text
    assert _repairs([]) == ""
