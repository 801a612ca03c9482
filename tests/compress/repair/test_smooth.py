import json

import numpy as np
import pytest

from edgec.compress.quantize import CPU, Settings, quantize_graph
from edgec.compress.repair.smooth import smooth
from edgec.ir.interpret import interpret
from edgec.passes.pipelines import optimize
from tests.architectures import Nets
from tests.compress.quantize.prepared import drawn


def transformer(outlier=1.0, norm="LayerNormalization", second_reader=False):
    """One block: normalization, three projections, attention, normalization, two layers. `outlier`: the scale of three
    channels behind each normalization, taken back in the weights that read them, so that the function stays.
    """
    b = Nets(7, "transformer")
    x = b.input("x", 1, 9, 32)
    scale = np.ones(32, np.float32)
    scale[[3, 11, 30]] = outlier

    def normalized(value):
        gamma = b.constant((b.weight(32, scale=0.2).const + 1) * scale, "gamma")
        if norm == "RMSNormalization":
            return b(norm, value, gamma, axis=-1)
        return b(norm, value, gamma, b.constant(b.weight(32, scale=0.2).const * scale, "beta"), axis=-1)

    def linear(value, width, scaled=True):
        weight = b.weight(value.shape[-1], width, scale=0.3).const
        weight = b.constant(weight / scale[:, None] if scaled else weight, "w")
        return b("Add", b("MatMul", value, weight), b.weight(width))

    y = normalized(x)
    q, k, v = (linear(y, 32) for _ in range(3))
    mixed = b("MatMul", b("Softmax", b("MatMul", q, b("Transpose", k, perm=(0, 2, 1))), axis=-1), v)
    z = b("Add", linear(mixed, 32, scaled=False), x)
    y = normalized(z)
    z = b("Add", linear(b("Gelu", linear(y, 64)), 32, scaled=False), z)
    return b.output(*([z, b("Neg", y)] if second_reader else [z]))


def sqnr(graph, *repair):
    samples = drawn(graph, 12)
    found = quantize_graph(graph, CPU, Settings(observer="minmax", repair=repair, least_sqnr=-100.0), lambda: samples)
    assert json.dumps(found.report, allow_nan=False)
    return found.report["outputs"][graph.outputs[0].name], found.report["repair"]


@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
def test_a_block_with_outlier_channels_loses_and_is_restored(norm):
    usual, _ = sqnr(optimize(transformer(norm=norm))[0])
    spoiled = optimize(transformer(60.0, norm))[0]
    lost, _ = sqnr(spoiled)
    restored, (row,) = sqnr(spoiled, "smooth")
    assert lost < usual - 6
    assert restored > lost + 5
    assert restored > usual - 3
    assert row["repair"] == "smooth"
    assert row["applied"] == 2
    assert all(n["spread"][1] < n["spread"][0] / 3 for n in row["norms"])


def test_the_function_stays():
    graph = optimize(transformer(60.0))[0]
    samples = drawn(graph, 3)
    found = smooth(graph, samples)
    assert [len(row.products) for row in found.norms] == [3, 1]
    for feeds in samples:
        for name, array in interpret(graph, feeds).items():
            np.testing.assert_allclose(interpret(found.graph, feeds)[name], array, atol=2e-5 * np.abs(array).max())


def test_channels_are_scaled_against_each_other_and_not_all_together():
    graph = optimize(transformer(60.0))[0]
    smoothed = smooth(graph, drawn(graph, 4)).graph
    before, after = ([n.operand(1).const for n in g.nodes if n.op == "LayerNormalization"] for g in (graph, smoothed))
    for old, new in zip(before, after, strict=True):
        factors = np.log(np.abs(old.astype(np.float64) / new))
        assert np.ptp(factors) > 1
        assert factors.mean() == pytest.approx(0, abs=1e-5)


def test_a_graph_without_outliers_stays_as_it_is():
    graph = optimize(transformer())[0]
    assert smooth(graph, drawn(graph, 3)).graph is graph
    assert sqnr(graph, "smooth")[1][0]["applied"] == 0


def test_a_norm_that_others_read_too_is_left_alone():
    graph = optimize(transformer(60.0, second_reader=True))[0]
    assert len(smooth(graph, drawn(graph, 3)).norms) == 1


def test_shared_weights_are_left_alone():
    graph = optimize(transformer(60.0))[0]
    products = [n for n in graph.nodes if n.op == "MatMul" and n.operand(1).const is not None]
    graph.set_input(products[1], 1, products[0].operand(1))
    assert len(smooth(graph, drawn(graph, 3)).norms) == 1
