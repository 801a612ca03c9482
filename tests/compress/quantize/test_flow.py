import json

import numpy as np
import pytest

from edgec.calibrate.lint import Normalization
from edgec.compress.quantize import CPU, Settings, is_quantized, observe, place, quantize_graph
from edgec.compress.quantize.choose import OBSERVERS
from edgec.errors import UserError
from tests.compress.quantize.blocks import block
from tests.compress.quantize.prepared import drawn
from tests.models import mlp


def test_report_says_every_threshold_with_method_and_error_and_is_json():
    graph = block("mobilenet_v2")
    found = quantize_graph(graph, CPU, Settings(), lambda: drawn(graph, 40))
    report = json.loads(json.dumps(found.report, allow_nan=False))
    assert is_quantized(found.graph)
    assert report["samples"] == 40
    for row in report["tensors"]:
        assert {c["method"] for c in row["candidates"]} == {"minmax", "moving_average", "percentile", "mse", "kl"}
        assert row["error"] is not None
        assert row["threshold"] > 0
    assert len(report["weights"]) == sum(n.op in ("Conv", "Gemm") for n in graph.nodes)
    assert report["convergence"]["samples"] == [8, 16, 32, 40] or len(report["convergence"]["samples"]) == 5
    assert all(v > 20 for v in report["outputs"].values())


def test_no_data_is_an_error_that_says_what_to_give():
    with pytest.raises(UserError, match="needs calibration data") as caught:
        quantize_graph(block("resnet"), CPU, Settings())
    assert "--calibration" in caught.value.expected


def test_a_quantized_model_keeps_its_numbers_and_needs_no_data():
    graph = block("resnet")
    first = quantize_graph(graph, CPU, Settings(), lambda: drawn(graph, 3)).graph
    again = quantize_graph(first, CPU, Settings())
    assert again.graph is first
    assert "keeps its own numbers" in again.report["note"]


def test_a_model_without_integer_kernels_stays_float_with_a_note():
    graph = block("resnet")
    found = quantize_graph(graph, CPU, Settings(keep_float=("*",)), lambda: drawn(graph, 2))
    assert found.graph is graph
    assert "stays float" in found.report["note"]
    assert {r["rule"] for r in found.report["float"]} >= {"int8.asked"}


def test_linter_speaks_of_range_labels_and_few_samples():
    graph = block("resnet")
    found = quantize_graph(graph, CPU, Settings(), lambda: [{"x": np.abs(s["x"]) * 100} for s in drawn(graph, 4)],
                           normalization=Normalization(), labels=lambda: [3] * 4)
    assert {f["rule"] for f in found.report["findings"]} >= {"data.range", "data.one-class", "data.too-few"}
    assert found.report["convergence"]["enough"] is None


@pytest.mark.parametrize(("settings", "text"), [
    ({"precision": "int7"}, "no precision 'int7'"), ({"observer": "max"}, "no observer 'max'"),
])
def test_settings_refuse_words_that_are_none(settings, text):
    with pytest.raises(UserError, match=text):
        Settings(**settings)


def test_weight_precisions_take_no_calibration_data():
    graph = mlp(widths=(64, 64, 8))
    with pytest.raises(UserError, match="needs no calibration"):
        quantize_graph(graph, CPU, Settings("int8-weights"), lambda: drawn(graph, 2))
    found = quantize_graph(graph, CPU, Settings("int8-weights"))
    assert [row["dtype"] for row in found.report["weights"]] == ["int8"]
    assert json.dumps(found.report, allow_nan=False)


KINDS = {"zero": lambda x: 0 * x, "constant": lambda x: 0 * x + 3, "single": lambda x: x, "subnormal": lambda x:
         x * np.float32(1e-42), "huge": lambda x: x * np.float32(1e30)}


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_observer_has_an_answer_for_odd_tensors(kind, observer):
    graph = block("resnet")
    sample = {n: KINDS[kind](a) for n, a in drawn(graph, 1)[0].items()}
    seen = observe(graph, place(graph, CPU), lambda: [sample]).histograms
    found = quantize_graph(graph, CPU, Settings(observer=observer), lambda: [sample])
    assert found.report["tensors"]
    for row in found.report["tensors"]:
        assert 0 <= row["threshold"] <= seen[row["name"]].range.limit
        assert 0 < row["scale"] < np.inf
    assert json.dumps(found.report, allow_nan=False)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_every_observer_refuses_numbers_that_are_not_finite(number, observer):
    graph = block("resnet")
    sample = drawn(graph, 1)[0]
    sample["x"].flat[5] = number
    with pytest.raises(UserError, match=r"1 of .* numbers are not finite") as caught:
        quantize_graph(graph, CPU, Settings(observer=observer), lambda: [sample])
    assert caught.value.where == "x"
    assert "calibration data" in caught.value.hint
