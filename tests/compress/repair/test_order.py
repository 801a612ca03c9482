import json
from dataclasses import replace

import numpy as np
import pytest

from edgec.compress.quantize import CPU, Settings, quantize_graph
from edgec.compress.quantize.annotate import Numbers, WeightGrids
from edgec.compress.repair import adaround, order
from edgec.compress.repair.adaround import RoundedWeights
from edgec.compress.repair.correct_bias import CorrectedBiases
from edgec.compress.request import Quantization
from edgec.errors import UserError
from edgec.passes.pipelines import optimize
from tests.compress.quantize.prepared import chain, drawn
from tests.compress.repair.test_equalize import spoil


def test_repairs_say_in_the_report_what_they_were_worth():
    graph = spoil(optimize(chain())[0], 2.0)
    samples = drawn(graph, 12)
    settings = {"observer": "minmax", "weights": WeightGrids(per_channel=False), "least_sqnr": -100.0}
    plain = quantize_graph(graph, CPU, Settings(**settings), lambda: samples)
    found = quantize_graph(graph, CPU, Settings(**settings, repair=("equalize", "bias-correction")), lambda: samples)
    assert json.dumps(found.report, allow_nan=False)
    name = graph.outputs[0].name
    assert found.report["outputs"][name] > plain.report["outputs"][name] + 10
    equalized, corrected = found.report["repair"]
    assert equalized["weight_noise"][1] < equalized["weight_noise"][0] / 4
    before, after = corrected["outputs"][name]
    assert after > before
    assert corrected["unseen"] == 6
    assert corrected["applied"] == len(corrected["products"]) > 0
    assert plain.report["repair"] == []


def test_learned_rounding_starts_from_corrected_biases_and_they_are_corrected_again(monkeypatch):
    graph = optimize(chain())[0]
    seen = []

    def correct(prepared, own, **_):
        seen.append(("bias-correction", dict(prepared.numbers)))
        return CorrectedBiases({**prepared.numbers, name: Numbers(bias=np.full(8, float(len(seen))))}, ())

    def learn(prepared, own, **_):
        seen.append(("adaround", dict(prepared.numbers)))
        return RoundedWeights({**prepared.numbers, name: replace(prepared.numbers[name], weight=rounded)}, ())

    name = next(n for n in graph.nodes if n.op == "Conv").name
    rounded = np.zeros_like(next(n for n in graph.nodes if n.name == name).operand(1).const)
    monkeypatch.setattr(order, "correct_biases", correct)
    monkeypatch.setattr(adaround, "learn_rounding", learn)
    monkeypatch.setattr(order, "_mean_decibels", lambda before, after: 1.0)
    settings = Settings(observer="minmax", least_sqnr=-100.0, repair=("bias-correction", "adaround"))
    found = quantize_graph(graph, CPU, settings, lambda: drawn(graph, 4))
    assert [r["repair"] for r in found.report["repair"]] == [what for what, _ in seen] == [
        "bias-correction", "adaround", "bias-correction"]
    assert seen[0][1] == {}
    assert seen[1][1][name].bias[0] == 1
    assert seen[2][1][name].weight is rounded


def test_a_repair_that_helps_its_own_samples_only_is_left_away(monkeypatch):
    """Biases that fit the samples they were learned from and no others."""
    graph = optimize(chain())[0]
    samples = drawn(graph, 12)
    products = quantize_graph(graph, CPU, Settings(observer="minmax"), lambda: samples).prepared.placement.products
    learned_from = []

    def overfit(prepared, own, **_):
        learned_from.append(len(own))
        return CorrectedBiases({products[0]: Numbers(bias=np.full(8, 0.2))}, ())

    monkeypatch.setattr(order, "correct_biases", overfit)
    found = quantize_graph(graph, CPU, Settings(observer="minmax", repair=("bias-correction",)), lambda: samples)
    (row,) = found.report["repair"]
    assert learned_from == [6]
    assert row["applied"] == 0
    assert found.prepared.numbers == {}


@pytest.mark.parametrize(("given", "per_channel", "repairs"), [
    (("auto",), True, ("bias-correction",)), (("auto",), False, ("equalize", "bias-correction")), ((), False, ()),
    (("bias-correction", "equalize"), True, ("equalize", "bias-correction")),
    (("adaround",), True, ("bias-correction", "adaround"))])
def test_auto_corrects_biases_and_equalizes_for_weights_with_one_scale(given, per_channel, repairs):
    assert Quantization(repair=given, per_channel=per_channel).repairs() == repairs
    assert Quantization(repair=("auto",), per_channel=per_channel).repairs("int8-weights") == ()


def test_unknown_repairs_and_weights_are_refused():
    with pytest.raises(UserError, match="no repair 'polish'"):
        Quantization(repair=("polish",))
    with pytest.raises(UserError, match="no int7 weights"):
        Quantization(weights="int7")
    with pytest.raises(UserError, match="repairs are for int8"):
        Settings("int8-weights", repair=("equalize",))
