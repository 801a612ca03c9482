"""Placement: golden texts for the usual blocks, and one test for each rule."""

import numpy as np
import pytest

from edgec.backends.tensorrt.policy import TENSORRT
from edgec.compress.quantize import CPU, annotate, place
from edgec.errors import UserError
from edgec.ir.graph import Graph
from edgec.ir.types import DType, Quant
from tests.compress.quantize.blocks import BLOCKS, block
from tests.models import Builder


def grids(placement, policy=CPU):
    """A grid for each class: zero point 0 where a CPU grid may stand for a Relu, scale by the number of the class."""
    dtype = policy.activations.dtype
    return {name: Quant(dtype, np.float32(0.01 * (i + 1)), np.zeros((), dtype.numpy))
            for i, name in enumerate(placement.sources)}


def text(graph: Graph, policy) -> str:
    """The annotated graph, one node a line: `#n` is the grid of class n, `w` a weight on a grid of its own."""
    placement = place(graph, policy)
    chosen = grids(placement, policy)
    number = {quant: f"#{i}" for i, quant in enumerate(chosen.values())}
    result = annotate(graph, placement, chosen, policy)

    def show(value):
        if value is None:
            return "_"
        grid = "" if value.quant is None else number.get(value.quant, f"{value.quant.dtype.value}")
        if value.const is not None:
            return f"w:{grid}" if grid else "c"
        return value.name + grid

    lines = [f"{' '.join(map(show, n.outputs))} = {n.op}({', '.join(map(show, n.inputs))})" for n in result.nodes]
    lines += [f"float {r.node}: {r.rule}" for r in placement.kept]
    return "\n".join([f"{policy.name} of {graph.name}", *lines]) + "\n"


@pytest.mark.parametrize("policy", [CPU, TENSORRT], ids=lambda p: p.name)
@pytest.mark.parametrize("name", BLOCKS)
def test_place_puts_grids_where_the_golden_text_says(name, policy, check_golden):
    check_golden(f"compress/quantize/place_{name}_{policy.name}.txt", text(block(name), policy))


def test_place_leaves_everything_between_conv_and_relu_alone():
    b = Builder(3)
    x = b.input("x", 1, 4, 5, 5)
    inner = b.conv(x, 4)
    y = b("Relu", b.batch_norm(inner))
    graph = b.output(b.conv(y, 3))
    placement = place(graph, CPU)
    assert placement.grids == {"x": "x", y.name: y.name}
    assert list(placement.edges) == ["x"]


def test_place_gives_all_inputs_of_a_concat_and_its_output_one_class_even_through_two_concats():
    b = Builder()
    x = b.input("x", 1, 4, 5, 5)
    p, q, r = b("Relu", b.conv(x, 4)), b("Relu", b.conv(x, 4)), b("Relu", b.conv(x, 4))
    both = b("Concat", p, q, axis=1)
    all_three = b("Concat", r, both, p, axis=1)
    graph = b.output(b.conv(both, 3), b.conv(all_three, 3))
    placement = place(graph, CPU)
    assert {placement.grids[v.name] for v in (p, q, r, both, all_three)} == {p.name}
    assert placement.sources[p.name] == (p.name, q.name, r.name)


def test_place_rounds_a_constant_that_shares_a_concat():
    b = Builder()
    x = b.input("x", 1, 4, 5, 5)
    token = b.weight(1, 2, 5, 5, name="token")
    y = b("Relu", b.conv(x, 4))
    graph = b.output(b.conv(b("Concat", y, token, axis=1), 3))
    placement = place(graph, CPU)
    assert placement.sources[y.name] == (y.name, "token")
    result = annotate(graph, placement, grids(placement), CPU)
    concat = next(n for n in result.nodes if n.op == "Concat")
    assert concat.inputs[1].quant == concat.inputs[0].quant == concat.outputs[0].quant
    assert token.quant is None


def test_place_keeps_float_numbers_for_float_readers_and_outputs():
    b = Builder()
    x = b.input("x", 1, 4, 5, 5)
    y = b("Relu", b.conv(x, 4))
    graph = b.output(b.conv(y, 3), b("Softmax", y, axis=1), y)
    placement = place(graph, CPU)
    assert set(placement.edges) == {"x", y.name}
    result = annotate(graph, placement, grids(placement), CPU)
    values = {v.name: v for v in result.values()}
    assert values[y.name].quant is None
    assert sorted(n.op for n, _ in values[y.name].uses) == ["Identity", "Softmax"]


def test_place_gives_the_skip_of_a_sum_its_own_grid_and_the_convolution_none():
    b = Builder()
    x = b("Relu", b.conv(b.input("x", 1, 3, 5, 5), 4))
    inner = b.conv(x, 4)
    y = b("Relu", b("Add", inner, x))
    placement = place(b.output(b.conv(y, 3)), CPU)
    assert inner.name not in placement.grids
    assert placement.grids[x.name] != placement.grids[y.name]


def states(kind):
    """Parts of an input that go different ways: (first part, second part, placement)."""
    b = Builder(2)
    x = b.input("x", 2, 1, 6)
    first, second = (b("Slice", x, [i], [i + 1], [0]) for i in (0, 1))
    if kind == "apart":
        y, z = (b("MatMul", v, b.weight(6, 4)) for v in (first, second))
    elif kind == "float":
        y, z = b("MatMul", first, b.weight(6, 4)), b("Softmax", second, axis=-1)
    else:
        y = b("MatMul", b("Concat", first, second, axis=2), b.weight(12, 4))
        z = y
    return first, second, place(b.output(*dict.fromkeys((y, z))), CPU)


def test_place_gives_parts_of_a_float_value_that_go_different_ways_grids_of_their_own():
    first, second, placement = states("apart")
    assert placement.grids == {first.name: first.name, second.name: second.name}
    assert {r.rule for r in placement.kept} == {"int8.part"}
    first, second, placement = states("float")
    assert placement.grids == {first.name: first.name}
    first, second, placement = states("together")
    assert len(set(placement.grids.values())) == 1
    assert {"x", first.name, second.name} <= placement.grids.keys()


def test_place_carries_parts_of_what_an_integer_kernel_made():
    b = Builder(2)
    x = b.conv(b.input("x", 1, 4, 6, 5), 8)
    first, second = (b("Slice", x, [i], [i + 4], [1]) for i in (0, 4))
    placement = place(b.output(b.conv(first, 3), b.conv(second, 3)), CPU)
    assert placement.grids[first.name] == placement.grids[second.name] == x.name


def test_place_leaves_a_state_float_that_the_graph_hands_out():
    for handed_out in (True, False):
        b = Builder(3)
        cell = b.conv(b.input("x", 1, 3, 6, 5), 4)
        gate = b.conv(b.input("y", 1, 3, 6, 5), 4)
        pooled = b("MaxPool", gate, kernel_shape=(1, 1))
        sums = [b.conv(b(op, pooled, cell), 5) for op in ("Add", "Mul")]
        placement = place(b.output(*sums, *([cell] if handed_out else [])), CPU)
        assert gate.name in placement.grids
        assert (cell.name in placement.grids) != handed_out


def last_block(policy, shortcut, act="Relu", follow=None):
    """A residual block that only float layers follow: (skip, inner result, placement)."""
    b = Builder(5)
    x = b("Relu", b.batch_norm(b.conv(b.input("x", 1, 16, 7, 5), 16)))
    skip = b.conv(x, 16, 1) if shortcut else x
    inner = b.batch_norm(b.conv(b("Relu", b.conv(x, 16)), 16))
    inner = b("Swish", inner) if act == "Swish" else inner
    y = b("Relu", b("Add", inner, skip))
    results = [y if follow is None else follow(b, y), *([b("Softmax", x, axis=1)] if act == "float reader" else [])]
    return skip, inner, place(b.output(*results), policy)


@pytest.mark.parametrize("shortcut", [True, False])
def test_place_gives_the_skip_of_the_last_sum_a_grid_where_the_product_joins_it(shortcut):
    skip, inner, placement = last_block(TENSORRT, shortcut)
    assert skip.name in placement.grids
    assert skip.name not in placement.edges
    assert inner.name not in placement.grids
    skip, _, placement = last_block(CPU, shortcut=True)
    assert skip.name not in placement.grids


def test_place_leaves_a_last_skip_float_that_float_layers_read_too():
    skip, _, placement = last_block(TENSORRT, shortcut=False, act="float reader")
    assert [n for n, _ in placement.edges[skip.name] if "add" in n] == []


def test_place_gives_both_inputs_of_a_sum_behind_an_activation_grids():
    def conv(b, y):
        return b.conv(y, 16)

    skip, inner, placement = last_block(TENSORRT, shortcut=True, act="Swish", follow=conv)
    assert {skip.name, inner.name} <= set(placement.grids)
    _, inner, placement = last_block(TENSORRT, shortcut=True, act="Swish")
    assert inner.name not in placement.grids  # the sum stays float, so it reads floats
    _, inner, placement = last_block(CPU, shortcut=True, act="Swish", follow=conv)
    assert inner.name not in placement.grids


def test_place_keeps_small_operands_float_on_cpus_and_not_for_tensorrt():
    graph = block("efficientnet")
    gate = next(n for n in graph.nodes if n.op == "Sigmoid").outputs[0].name
    assert gate not in place(graph, CPU).grids
    b = Builder()
    x = b("Relu", b.conv(b.input("x", 1, 3, 6, 6), 16))
    gate = b("Sigmoid", b.conv(b("GlobalAveragePool", x), 16, 1))
    graph = b.output(b.conv(b("Mul", x, gate), 16))
    assert gate.name not in place(graph, CPU).grids
    assert gate.name in place(graph, TENSORRT).grids


def test_place_keeps_what_is_asked_for_by_pattern_and_names_the_rule():
    graph = block("resnet")
    convolutions = [n.name for n in graph.nodes if n.op == "Conv"]
    placement = place(graph, CPU, [convolutions[1]])
    assert set(placement.products) == {convolutions[0], convolutions[2]}
    assert [r.rule for r in placement.kept if r.node == convolutions[1]] == ["int8.asked"]
    assert place(graph, CPU, ["conv*"]).products == ()


def test_place_refuses_a_name_that_fits_nothing_and_offers_the_nearest():
    with pytest.raises(UserError, match="no node is called 'conv_9'") as caught:
        place(block("resnet"), CPU, ["conv_9"])
    assert "conv" in caught.value.expected


def test_place_leaves_a_pad_with_another_number_float():
    def padded(number):
        b = Builder()
        x = b("Relu", b.conv(b.input("x", 1, 3, 5, 5), 4))
        y = b("Pad", x, [0, 0, 1, 1, 0, 0, 1, 1], number)
        return b.output(b.conv(y, 3, pad=0)), x.name, y.name

    graph, x, y = padded(0.0)
    assert place(graph, CPU).grids[y] == x
    graph, x, y = padded(-1.0)
    placement = place(graph, CPU)
    assert placement.grids[y] == y
    assert x not in placement.grids


@pytest.mark.parametrize(("change", "rule"), [
    (lambda b, x: b("MatMul", x, b("Transpose", x, perm=(1, 0))), "int8.weights"),
    (lambda b, x: b("MatMul", x, b.weight(8)), "int8.rank"),
    (lambda b, x: b("Gemm", x, b.weight(8, 3), alpha=2.0), "int8.factor"),
])
def test_place_refuses_a_product_when_it_has_no_integer_form(change, rule):
    b = Builder()
    graph = b.output(change(b, b.input("x", 4, 8)))
    placement = place(graph, CPU)
    assert placement.products == ()
    assert rule in {r.rule for r in placement.kept}


def test_place_refuses_sums_that_could_leave_int32():
    b = Builder()
    graph = b.output(b("MatMul", b.input("x", 1, 33_001), b.constant(np.ones((33_001, 1), np.float32))))
    assert {r.rule for r in place(graph, CPU).kept} == {"int8.length"}


def test_place_refuses_a_transposed_convolution_with_groups():
    b = Builder()
    x = b.input("x", 1, 4, 5, 5)
    graph = b.output(b("ConvTranspose", x, b.weight(4, 3, 2, 2), group=2, strides=(2, 2)))
    assert {r.rule for r in place(graph, CPU).kept} == {"int8.groups"}


def test_tensorrt_grids_are_symmetric_and_keep_the_relu():
    graph = block("resnet")
    placement = place(graph, TENSORRT)
    assert TENSORRT.activations.dtype is DType.INT8
    result = annotate(graph, placement, grids(placement, TENSORRT), TENSORRT)
    assert sum(n.op == "Relu" for n in result.nodes) == sum(n.op == "Relu" for n in graph.nodes)
