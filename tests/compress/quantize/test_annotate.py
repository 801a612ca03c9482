import numpy as np
import pytest

from edgec.backends.tensorrt.policy import TENSORRT
from edgec.compress.quantize import CPU, annotate, choose_grids, observe, place
from edgec.ir.graph import Value
from edgec.ir.interpret import interpret
from edgec.ir.quantize import product_scale, quantize, quantize_dequantize
from edgec.ir.text import dump
from edgec.ir.types import DType, Quant
from edgec.ir.verify import verify
from edgec.ops import QuantRole, table
from tests.compress.quantize.blocks import BLOCKS, block
from tests.compress.quantize.prepared import drawn
from tests.models import Builder


def quantized(graph, samples, policy=CPU):
    placement = place(graph, policy)
    seen = observe(graph, placement, lambda: samples)
    choices = choose_grids(graph, placement, seen, policy.activations, "minmax")
    return annotate(graph, placement, {n: c.threshold.quant for n, c in choices.items()}, policy)


@pytest.mark.parametrize("policy", [CPU, TENSORRT], ids=lambda p: p.name)
@pytest.mark.parametrize("name", BLOCKS)
def test_annotate_leaves_a_correct_graph_near_the_float_one_and_the_callers_alone(name, policy):
    graph = block(name)
    before = dump(graph)
    samples = drawn(graph, 4)
    result = quantized(graph, samples, policy)
    assert verify(result) == []
    after = dump(graph)
    assert after[0] == before[0]
    assert [v.name for v in result.outputs] == [v.name for v in graph.outputs]
    assert [(v.name, v.type, v.quant) for v in result.inputs] == [(v.name, v.type, None) for v in graph.inputs]
    for feeds in samples:
        exact, found = interpret(graph, feeds), interpret(result, feeds)
        for output, reference in exact.items():
            noise = np.sqrt(np.mean((found[output].astype(np.float64) - reference) ** 2))
            assert noise < 0.1 * reference.std() + 1e-6, output


@pytest.mark.parametrize("name", BLOCKS)
def test_every_placed_product_is_exact_and_its_weight_lies_on_its_grid(name):
    graph = block(name)
    placement = place(graph, CPU)
    result = quantized(graph, drawn(graph, 2))
    products = [n for n in result.nodes if table.find(n).quant is QuantRole.COMPUTE and n.operand(1).quant is not None]
    assert {n.name for n in products} == set(placement.products)
    for node in products:
        weight = node.operand(1)
        assert product_scale(node) is not None
        assert np.array_equal(weight.const, quantize_dequantize(weight.const, weight.quant))
        integers = quantize(weight.const, weight.quant).astype(int)
        assert np.abs(integers).max() == 127
        assert weight.quant.dtype is DType.INT8


def clipped(low, high, top):
    b = Builder()
    y = b("Clip", b.conv(b.input("x", 1, 3, 5, 5), 4), low, high)
    graph = b.output(b.conv(y, 3))
    placement = place(graph, CPU)
    zero = round(-low / (top - low) * 255) if np.isfinite(low) else 0
    scale = np.float32((top - (low if np.isfinite(low) else 0)) / 255)
    grids = {n: Quant(DType.UINT8, scale, np.uint8(zero)) for n in placement.sources}
    return graph, annotate(graph, placement, grids, CPU)


@pytest.mark.parametrize(("low", "high", "top", "goes"), [
    (0.0, 6.0, 6.0, True), (0.0, 6.0, 4.5, True), (0.0, 6.0, 6.5, False), (-1.0, 3.0, 3.0, True),
])
def test_annotate_removes_a_clip_when_the_grid_cuts_off_the_same(low, high, top, goes):
    graph, result = clipped(low, high, top)
    assert sum(n.op == "Clip" for n in result.nodes) == (0 if goes else 1)
    feeds = {"x": (np.random.default_rng(2).standard_normal((1, 3, 5, 5)) * 4).astype(np.float32)}
    middle = graph.nodes[1].outputs[0].name if not goes else graph.nodes[0].outputs[0].name
    grid = next(v for v in result.values() if v.name == middle)
    numbers = interpret(result, feeds, [middle])[middle]
    assert grid.quant is not None
    half = float(grid.quant.scale) / 2  # the ends of the grid are rounded
    assert low - half <= numbers.min()
    assert numbers.max() <= high + half


def test_annotate_keeps_a_relu_whose_input_is_read_elsewhere():
    b = Builder()
    inner = b.conv(b.input("x", 1, 3, 5, 5), 4)
    graph = b.output(b.conv(b("Relu", inner), 3), b("Sigmoid", inner))
    assert sum(n.op == "Relu" for n in quantized(graph, drawn(graph, 2)).nodes) == 1


def test_annotate_shares_a_weight_that_two_products_share():
    b = Builder()
    x = b("Relu", b.conv(b.input("x", 1, 4, 5, 5), 4))
    weight = b.weight(4, 4, 1, 1)
    y = b("Relu", b("Conv", b("Relu", b("Conv", x, weight)), weight))
    graph = b.output(b.conv(y, 2))
    result = quantized(graph, drawn(graph, 2))
    stored = [n.operand(1) for n in result.nodes if n.op == "Conv"][1:3]
    assert stored[0] is stored[1]


def test_annotate_rounds_a_shared_weight_twice_where_biases_want_other_grids():
    b = Builder()
    x = b("Relu", b.conv(b.input("x", 1, 4, 5, 5), 4))
    weight = b.constant(b.weight(4, 4, 1, 1).const * np.float32(1e-6))
    large = b.constant(np.full(4, 1e6, np.float32))
    graph = b.output(b("Add", b("Conv", x, weight), b("Neg", b("Conv", x, weight, large))))
    first, second = [n.operand(1) for n in quantized(graph, drawn(graph, 2)).nodes if n.op == "Conv"][1:]
    assert (second.quant.scale > first.quant.scale).all()
    for stored in (first, second):
        np.testing.assert_array_equal(stored.const, quantize_dequantize(weight.const, stored.quant))


def test_annotate_makes_one_edge_for_several_integer_readers_of_a_float_value():
    b = Builder()
    x = b.input("x", 1, 4, 5, 5)
    graph = b.output(b("Add", b.conv(x, 4), b.conv(x, 4, 1)), b("Softmax", x, axis=1))
    result = quantized(graph, drawn(graph, 2))
    edges = [n for n in result.nodes if n.op == "Identity" and n.outputs[0].quant is not None]
    assert [len(n.outputs[0].uses) for n in edges] == [2]
    assert isinstance(edges[0].inputs[0], Value)
    assert edges[0].inputs[0].quant is None
