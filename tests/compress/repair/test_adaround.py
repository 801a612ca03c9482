from dataclasses import replace

import numpy as np
import pytest

from edgec.compress.quantize.annotate import WeightGrids
from edgec.compress.quantize.outputs import compare_outputs
from edgec.compress.repair.adaround import _is_sure, learn_rounding
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import DType
from edgec.ir.verify import verify
from tests.compress.quantize.blocks import block
from tests.compress.quantize.prepared import drawn, prepare
from tests.models import Builder, mlp


def alike(graph, count, seed=0):
    """Samples whose numbers depend on each other, as those of real inputs do: rounding up or down matters."""
    base = np.random.default_rng(77).standard_normal((3, *graph.inputs[0].shape)).astype(np.float32)
    rng = np.random.default_rng(seed)
    name = graph.inputs[0].name
    return [{name: np.float32(0.1) * feeds[name] + np.float32(0.5)
             + np.tensordot(rng.standard_normal(3).astype(np.float32), base, 1)}
            for feeds in drawn(graph, count, seed)]


def coarse(graph, samples):
    return replace(prepare(graph, samples), weights=WeightGrids(DType.INT4))


@pytest.mark.parametrize("kind", ["mobilenet_v1", "mlp"])
def test_results_are_nearer_with_learned_rounding_and_weights_lie_on_their_grids(kind):
    graph = mlp(widths=(17, 11, 5)) if kind == "mlp" else block(kind)
    samples, others = alike(graph, 32), alike(graph, 16, seed=500)
    plain = coarse(graph, samples)
    found = learn_rounding(plain, samples, steps=150)
    mended = replace(plain, numbers=found.numbers)
    result = mended.annotated()
    assert verify(result) == []
    assert [r.product for r in found.rows] == list(plain.placement.products)
    assert any(r.moved > 0 and r.taken for r in found.rows)
    assert all(r.error[1] < r.error[0] for r in found.rows if r.taken)
    assert set(found.numbers) == {r.product for r in found.rows if r.taken}
    before = {n.name: n for n in plain.annotated().nodes}
    for node in result.nodes:
        if node.name in found.numbers:
            weight = node.operand(1)
            assert np.array_equal(weight.const, quantize_dequantize(weight.const, weight.quant))
            assert weight.quant == before[node.name].operand(1).quant
            original = next(n for n in plain.graph.nodes if n.name == node.name).operand(1).const
            shape = [-1 if a == weight.quant.axis else 1 for a in range(original.ndim)]
            assert (np.abs(weight.const - original) / weight.quant.scale.reshape(shape)).max() < 1.001
    outputs = [compare_outputs(plain.graph, p.annotated(), others) for p in (plain, mended)]
    assert sum(outputs[1].values()) > sum(outputs[0].values()) + 0.3


def test_rounding_is_learned_on_8_bits_too():
    """There the error is so small beside the results that a regularizer of their size would leave nearest rounding."""
    graph = mlp(widths=(24, 16))
    samples = alike(graph, 48)
    plain = prepare(graph, samples)
    (row,) = learn_rounding(plain, samples, steps=300).rows
    assert row.taken
    assert row.moved > 0.1
    assert row.error[1] < 0.5 * row.error[0]


def test_what_only_its_own_samples_gain_by_is_not_taken():
    """Four samples of independent numbers for 2,000 weights: they can be met exactly, and others lose by it."""
    graph = mlp(widths=(200, 10))
    plain = coarse(graph, drawn(graph, 32))
    found = learn_rounding(plain, drawn(graph, 5), steps=300)
    (row,) = found.rows
    assert row.moved > 0.02
    assert row.error[1] > row.error[0]
    assert not row.taken
    assert found.numbers == {}
    assert learn_rounding(plain, drawn(graph, 3)).rows == ()


def test_the_same_samples_give_the_same_numbers_and_zeros_stay():
    graph = block("mobilenet_v1")
    samples = drawn(graph, 5)
    plain = coarse(graph, samples)
    node = next(n for n in plain.graph.nodes if n.name == plain.placement.products[0])
    weight = node.operand(1).const.copy()
    weight[..., 1] = 0
    node.operand(1).const = weight
    first, second = (learn_rounding(plain, samples, steps=40) for _ in range(2))
    assert first.rows == second.rows
    for name, numbers in first.numbers.items():
        assert np.array_equal(numbers.weight, second.numbers[name].weight)
    if node.name in first.numbers:
        assert not first.numbers[node.name].weight[..., 1].any()


def test_what_an_activation_cuts_off_is_not_learned():
    b = Builder(3)
    x = b.input("x", 1, 3, 5, 7)
    y = b("Relu", b("Conv", x, b.weight(4, 3, 1, 1), b.constant(np.full(4, -1000, np.float32))))
    graph = b.output(b("Relu", b.conv(b("Add", y, b.conv(x, 4, 1)), 5, 1)))
    samples = drawn(graph, 4)
    plain = prepare(graph, samples)
    name = next(u.producer.name for u in [n.operand(0) for n in plain.graph.nodes if n.op == "Relu"]
                if u.producer.op == "Conv" and (u.producer.operand(2).const == -1000).all())
    rows = {r.product: r for r in learn_rounding(plain, samples, steps=1).rows}
    assert rows[name].error == (0.0, 0.0)
    assert all(r.error[0] > 0 for n, r in rows.items() if n != name)


def test_the_mean_of_a_channel_is_left_to_the_bias_where_that_is_corrected():
    """Data that are nearly the same everywhere: rounding can only move means, and has nothing to learn without them."""
    graph = mlp(widths=(12, 8))
    base = np.random.default_rng(2).standard_normal(graph.inputs[0].shape[-1])
    samples = [{graph.inputs[0].name: np.float32(base + 1e-4 * np.random.default_rng(i).standard_normal(
        graph.inputs[0].shape))} for i in range(16)]
    plain = coarse(graph, samples)
    (left,), (centered,) = (learn_rounding(plain, samples, centered=c, steps=100).rows for c in (False, True))
    assert left.error[1] < 0.6 * left.error[0]
    assert centered.error[0] < 1e-4 * left.error[0]


@pytest.mark.parametrize(("gain", "sure"), [
    ([1.0, 1.2, 0.8, 1.1], True), ([5.0, -4.0, 2.0, -1.0], False), ([1.0, -0.9, 0.5, 0.2], False),
    ([-1.0, -1.1, -0.9], False), ([0.0, 0.0], False), ([0.3], True)])
def test_rounding_is_taken_where_the_gain_is_larger_than_its_error(gain, sure):
    assert _is_sure(np.array(gain)) is sure


def test_rounding_does_not_depend_on_the_size_of_the_numbers():
    """The squares of these results are beyond float32; powers of two change no digit."""
    def learned(size):
        graph = mlp(widths=(24, 16))
        for value in graph.constants():
            value.const = value.const * np.float32(size)
        samples = alike(graph, 24)
        (row,) = (found := learn_rounding(prepare(graph, samples), samples, steps=60)).rows
        return row, next(iter(found.numbers.values())).weight

    (usual, weight), (large, scaled) = learned(1.0), learned(2.0**70)
    assert usual.taken
    assert large == usual
    assert np.array_equal(scaled, weight * np.float32(2.0**70))
