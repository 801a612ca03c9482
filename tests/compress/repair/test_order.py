import json
from dataclasses import replace

import numpy as np
import pytest

from edgec.compress.quantize import CPU, Settings, quantize_graph
from edgec.compress.quantize.annotate import Numbers, WeightGrids
from edgec.compress.repair import adaround, order
from edgec.compress.repair.adaround import RoundedWeight, RoundedWeights
from edgec.compress.repair.correct_bias import CorrectedBias, CorrectedBiases
from edgec.compress.request import Quantization
from edgec.errors import UserError
from edgec.ir.types import DType
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
    equalized, corrected, in_turn = found.report["repair"]
    assert (corrected["way"], in_turn["way"]) == ("alone", "in turn")
    assert equalized["weight_noise"][1] < equalized["weight_noise"][0] / 4
    before, after = corrected["outputs"][name]
    assert after > before
    assert corrected["unseen"] == 6
    assert corrected["applied"] == len(corrected["products"]) > 0
    assert "of 6 samples that it has not seen are" in corrected["reason"]
    assert corrected["reason"].endswith("dB nearer to float")
    assert plain.report["repair"] == []


@pytest.mark.parametrize("helps", [True, False])
def test_biases_are_corrected_again_for_learned_rounding_where_that_has_helped(helps, monkeypatch):
    graph = optimize(chain())[0]
    seen = []

    def correct(prepared, own, in_turn=False, **_):
        if in_turn:  # nothing to correct
            return CorrectedBiases(prepared.numbers, ())
        seen.append(("bias-correction", dict(prepared.numbers)))
        own = replace(prepared.numbers.get(name, Numbers()), bias=np.full(8, float(len(seen))))
        return CorrectedBiases({**prepared.numbers, name: own}, (CorrectedBias(name, 1.0, 1.0, 1.0),))

    def learn(prepared, own, *, centered, **_):
        seen.append(("adaround", dict(prepared.numbers)))
        assert centered == helps
        old = prepared.numbers.get(name, Numbers())
        return RoundedWeights({**prepared.numbers, name: replace(old, weight=rounded)}, ())

    name = next(n for n in graph.nodes if n.op == "Conv").name
    rounded = np.zeros_like(next(n for n in graph.nodes if n.name == name).operand(1).const)
    monkeypatch.setattr(order, "correct_biases", correct)
    monkeypatch.setattr(adaround, "learn_rounding", learn)
    monkeypatch.setattr(order, "_mean_decibels", lambda before, after: 1.0 if helps or len(seen) > 1 else -1.0)
    settings = Settings(observer="minmax", least_sqnr=-100.0, repair=("bias-correction", "adaround"))
    found = quantize_graph(graph, CPU, settings, lambda: drawn(graph, 4))
    assert [r["repair"] for r in found.report["repair"]] == [*["bias-correction"] * 2, "adaround"]
    assert [what for what, _ in seen] == ["bias-correction", "adaround", *["bias-correction"] * helps]
    assert seen[0][1] == {}
    assert seen[1][1] == {} if not helps else seen[1][1][name].bias[0] == 1
    final = found.prepared.numbers[name]
    assert final.weight is rounded
    assert final.bias is None if not helps else final.bias[0] == 3


def test_biases_in_turn_hold_for_all_kernels_together_only():
    """With fewer kernels on grids, and for each kernel alone, the biases count that were found alone."""
    graph = optimize(chain())[0]
    settings = Settings(observer="minmax", repair=("bias-correction",), least_sqnr=-100.0)
    prepared = quantize_graph(graph, CPU, settings, lambda: drawn(graph, 12)).prepared
    name = prepared.placement.products[0]
    parts, whole = (Numbers(bias=np.full(8, x)) for x in (0.25, 0.5))
    case = replace(prepared, numbers={name: whole}, of_parts={name: parts})
    node = next(n for n in graph.nodes if n.name == name)
    own = np.zeros(8) if node.input(2) is None else node.operand(2).const

    def bias(of):
        return next(n for n in of.nodes if n.name == name).operand(2).const - own

    assert np.allclose(bias(case.annotated()), 0.5, atol=0.02)
    assert np.allclose(bias(case.alone(name)), 0.25, atol=0.02)
    others = dict.fromkeys(prepared.placement.products[1:], ("int8.sensitive", "too far off"))
    assert case.without(others).numbers == {name: parts}
    assert case.without(others).of_parts is None


def test_a_repair_that_helps_its_own_samples_only_is_left_away(monkeypatch):
    """Biases that fit the samples they were learned from and no others."""
    graph = optimize(chain())[0]
    samples = drawn(graph, 12)
    products = quantize_graph(graph, CPU, Settings(observer="minmax"), lambda: samples).prepared.placement.products
    learned_from = []

    def overfit(prepared, own, **_):
        learned_from.append(len(own))
        row = CorrectedBias(products[0], 0.2, 1.0, 1.0)
        return CorrectedBiases({products[0]: Numbers(bias=np.full(8, 0.2))}, (row,))

    monkeypatch.setattr(order, "correct_biases", overfit)
    found = quantize_graph(graph, CPU, Settings(observer="minmax", repair=("bias-correction",)), lambda: samples)
    row, _ = found.report["repair"]
    assert learned_from == [6, 6]  # alone, and in turn
    assert row["applied"] == 0
    assert row["reason"].startswith("left away: with it (1 of 1 products) the outputs of 6 samples")
    assert row["reason"].endswith("dB farther from float")
    assert found.prepared.numbers == {}


@pytest.mark.parametrize(("bits", "least", "most"), [(DType.INT4, 0.9, 1.0), (DType.INT8, 0.1, 0.9)])
def test_learned_rounding_says_how_much_of_the_error_it_can_reach(bits, least, most):
    graph = optimize(chain())[0]
    settings = Settings(observer="minmax", weights=WeightGrids(bits), repair=("adaround",), least_sqnr=-100.0)
    (row,) = quantize_graph(graph, CPU, settings, lambda: drawn(graph, 16)).report["repair"]
    assert json.dumps(row, allow_nan=False)
    assert least < row["weights_share"] <= most
    assert f"makes {row['weights_share']:.0%} of their error" in row["reason"]
    assert row["applied"] == (0 if row["reason"].startswith("left away") else sum(p["taken"] for p in row["products"]))


@pytest.mark.parametrize(("share", "taken"), [(0.05, False), (0.2, True)])
def test_learned_rounding_is_left_away_where_weights_make_next_to_nothing_of_the_error(share, taken, monkeypatch):
    graph = optimize(chain())[0]
    name = next(n for n in graph.nodes if n.op == "Conv").name
    row = RoundedWeight(name, 0.1, (1.0, 0.5), True)
    numbers = {name: Numbers(bias=np.zeros(8))}
    monkeypatch.setattr(adaround, "learn_rounding", lambda prepared, own, **_: RoundedWeights(numbers, (row,)))
    monkeypatch.setattr(order, "_weights_share", lambda *_: share)
    monkeypatch.setattr(order, "_mean_decibels", lambda before, after: 1.0)
    settings = Settings(observer="minmax", repair=("adaround",), least_sqnr=-100.0)
    found = quantize_graph(graph, CPU, settings, lambda: drawn(graph, 4))
    (row,) = found.report["repair"]
    assert row["applied"] == taken
    assert row["reason"].startswith("left away") != taken
    assert ("nothing to win" in row["reason"]) != taken
    assert found.prepared.numbers == (numbers if taken else {})


def test_one_sample_is_too_few_to_judge_by():
    graph = optimize(chain())[0]
    settings = Settings(observer="minmax", repair=("bias-correction",), least_sqnr=-100.0)
    found = quantize_graph(graph, CPU, settings, lambda: drawn(graph, 1))
    for row in found.report["repair"]:
        assert row["reason"].startswith("left away")
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
