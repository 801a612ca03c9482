import json

import pytest

from edgec.compress.quantize import CPU, Settings, quantize_graph
from edgec.compress.quantize.annotate import WeightGrids
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


@pytest.mark.parametrize(("given", "per_channel", "repairs"), [
    (("auto",), True, ("bias-correction",)), (("auto",), False, ("equalize", "bias-correction")), ((), False, ()),
    (("bias-correction", "equalize"), True, ("equalize", "bias-correction"))])
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
