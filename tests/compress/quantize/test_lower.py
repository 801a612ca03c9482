"""From samples and a budget to a graph in low precision, in one call."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edgec.compress.quantize import CPU
from edgec.compress.quantize.lower import lower_precision
from edgec.compress.request import Budget, Quantization
from edgec.errors import UserError
from edgec.interchange.onnx_export import to_model
from edgec.ir.interpret import interpret
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.compress.quantize.prepared import chain, drawn
from tests.compress.quantize.test_subset import integer_products
from tests.models import Builder

PLAIN = {"observer": "minmax", "least_sqnr": -100.0}  # no kernel is too bad for int8


def classifier(outlier: float = 1.0):
    """The chain with a pool and five classes, each about as likely as the others."""
    graph = chain(outlier)
    b = Builder()
    b.graph = graph
    y = b("Flatten", b("GlobalAveragePool", graph.outputs.pop()))
    graph.outputs.append(y)
    scores = np.concatenate([interpret(graph, s)[y.name] for s in drawn(graph, 30)])
    graph.outputs.pop()
    b.output(b("Div", b("Sub", y, scores.mean(0)), scores.std(0)))
    return optimize(graph, Options())[0]


@pytest.fixture
def data(tmp_path):
    """(graph, calibration file, evaluation file whose labels are the float model's classes)."""
    graph = classifier(60.0)
    samples = drawn(graph, 100, 10)
    x = np.concatenate([s["x"] for s in samples])
    y = np.array([next(iter(interpret(graph, s).values())).argmax() for s in samples])
    np.savez(tmp_path / "train.npz", x=x[:40], y=y[:40])
    np.savez(tmp_path / "test.npz", x=x[40:], y=y[40:])
    return graph, tmp_path / "train.npz", tmp_path / "test.npz"


def lower(graph, wish: Quantization, precision: str = "int8"):
    return lower_precision(graph, to_model(graph).SerializeToString(), CPU, precision, wish)


def test_report_has_every_kernel_and_its_sensitivity(data):
    graph, train, _ = data
    found = lower(graph, Quantization(train, **PLAIN))
    assert integer_products(found.graph) == {r["product"] for r in found.report["sensitivity"]}
    assert {r["product"] for r in found.report["kernels"] if r["int8"]} >= integer_products(found.graph)
    assert (found.report["calibration"]["name"], found.report["samples"]) == ("train.npz", 40)
    assert lower(graph, Quantization(train, samples=7, **PLAIN)).report["samples"] == 7
    assert found.report["budget"] is None
    assert found.mixed is None
    json.dumps(found.report, allow_nan=False)


def test_kernel_that_alone_spoils_the_outputs_stays_float_and_the_report_says_why(data):
    graph, train, test = data
    plain = lower(graph, Quantization(train, observer="minmax", repair=(), least_sqnr=-100.0))
    noises = {r["product"]: r["sqnr_db"] for r in plain.report["sensitivity"]}
    worst, second = sorted(noises, key=noises.__getitem__)[:2]
    bar = (noises[worst] + noises[second]) / 2
    budget = Budget(test, max_drop=0.0, seconds=0)
    found = lower(graph, Quantization(train, observer="minmax", repair=(), least_sqnr=bar, budget=budget))
    assert integer_products(plain.graph) - integer_products(found.graph) == {worst}
    reason = next(r for r in found.report["float"] if r["node"] == worst)
    assert reason["rule"] == "int8.sensitive"
    assert f"{noises[worst]:.1f} dB" in reason["text"]
    assert {r["product"]: r["sqnr_db"] for r in found.report["sensitivity"]} == noises
    assert worst not in {r["node"] for r in found.report["weights"]}
    assert [r["int8"] for r in found.report["kernels"] if r["product"] == worst] == [False]
    assert all(t["members"] for t in found.report["tensors"])
    assert found.mixed is not None
    assert worst not in found.mixed.floats


def test_budget_keeps_the_worst_kernel_in_float(data):
    graph, train, test = data
    plain = lower(graph, Quantization(train, **PLAIN))
    worst = max(plain.report["sensitivity"], key=lambda r: r["noise"])["product"]
    found = lower(graph, Quantization(train, **PLAIN, budget=Budget(test, max_drop=1.0)))
    budget = found.report["budget"]
    assert budget["trials"][0][1] > 1  # all in int8 loses too much
    assert budget["met"]
    assert budget["drop"] <= 1
    assert (budget["metric"], budget["float"], budget["samples"]) == ("top1", 100, 60)
    assert worst in budget["float_kernels"]
    assert integer_products(found.graph) == integer_products(plain.graph) - set(budget["float_kernels"])
    rows = {r["product"]: r for r in found.report["kernels"] if r["product"]}
    assert not rows[worst]["int8"]


def test_missed_budget_gives_the_best_and_the_reason(data):
    graph, train, test = data
    found = lower(graph, Quantization(train, **PLAIN, budget=Budget(test, max_drop=0.0, seconds=0)))
    assert found.mixed is not None
    assert not found.mixed.met
    assert "time" in found.mixed.reason
    assert found.report["budget"]["drop"] > 0


def test_samples_that_also_measure_are_reported(data):
    graph, train, test = data
    apart = lower(graph, Quantization(train, **PLAIN, budget=Budget(test)))
    same = lower(graph, Quantization(train, **PLAIN, budget=Budget(train)))
    rules = [[f["rule"] for f in r.report["findings"]] for r in (apart, same)]
    assert ("data.overlap" in rules[0], "data.overlap" in rules[1]) == (False, True)


def test_one_class_is_reported(data, tmp_path):
    graph, train, _ = data
    with np.load(train) as arrays:
        np.savez(tmp_path / "one.npz", x=arrays["x"], y=np.full(40, 3))
    rules = [f["rule"] for f in lower(graph, Quantization(tmp_path / "one.npz", **PLAIN)).report["findings"]]
    assert "data.one-class" in rules


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_blank_picture_is_reported_although_each_channel_has_its_own_mean(layout, tmp_path):
    b = Builder()
    x = b.input("x", 1, 3, 9, 8) if layout == "NCHW" else b.input("x", 1, 9, 8, 3)
    data = x if layout == "NCHW" else b("Transpose", x, perm=(0, 3, 1, 2))
    graph = optimize(b.output(b("Relu", b("Conv", data, b.weight(5, 3, 3, 3)))), Options())[0]
    pictures = np.random.default_rng(8).integers(0, 256, (34, 9, 8, 3)).astype(np.uint8)
    pictures[7] = 200
    np.savez(tmp_path / "pictures.npz", x=pictures)
    recipe = "scale=1/255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225"
    findings = lower(graph, Quantization(tmp_path / "pictures.npz", preprocess=recipe, **PLAIN)).report["findings"]
    assert [f["text"] for f in findings] == ["samples with the same number everywhere: 1 (number 7)"]


def test_evaluation_without_labels_measures_agreement(data, tmp_path):
    graph, train, test = data
    with np.load(test) as arrays:
        np.savez(tmp_path / "plain.npz", x=arrays["x"])
    found = lower(graph, Quantization(train, **PLAIN, budget=Budget(tmp_path / "plain.npz", max_drop=2)))
    assert found.report["budget"]["metric"] == "agreement"
    assert found.report["budget"]["drop"] <= 2


def test_budget_of_outputs_that_are_no_classes_needs_a_stated_metric(data, tmp_path):
    _, train, test = data
    graph = optimize(chain(), Options())[0]
    with np.load(test) as arrays:
        np.savez(tmp_path / "plain.npz", x=arrays["x"])
    budget = Budget(tmp_path / "plain.npz", max_drop=0.5)
    with pytest.raises(UserError, match="stated metric"):  # it would leave everything float: 99.5 dB
        lower(graph, Quantization(train, **PLAIN, budget=budget))
    wish = Quantization(train, **PLAIN, budget=replace(budget, metric="sqnr", max_drop=75))
    stated = lower(graph, wish).report["budget"]
    assert stated["met"]
    assert stated["float_kernels"] == []


@pytest.mark.parametrize(("precision", "wish", "part"), [
    ("int8", Quantization(), "needs calibration data"), ("int8", Quantization("nowhere"), "no such samples"),
    ("int8-weights", Quantization("{train}"), "needs no calibration"),
    ("int8-weights", Quantization(budget=Budget("{test}", max_drop=1)), "kernels that can stay float")])
def test_what_does_not_go_together_is_explained(data, precision, wish, part):
    graph, train, test = data
    if wish.calibration == "{train}":
        wish = Quantization(train)
    if wish.budget is not None:
        wish = Quantization(budget=Budget(test, max_drop=1))
    with pytest.raises(UserError, match=part):
        lower(graph, wish, precision)


@pytest.mark.parametrize("make", [lambda: Budget("x", max_drop=-1), lambda: Budget("x", seconds=float("nan")),
                                  lambda: Quantization("x", samples=0), lambda: Budget("x", max_drop=float("inf"))])
def test_impossible_numbers_are_refused(make):
    with pytest.raises(UserError, match="expected"):
        make()
