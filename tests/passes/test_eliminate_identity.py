import numpy as np
import pytest

from edgec.ir import DType
from edgec.ir.text import print_graph
from edgec.passes import eliminate_identity
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals

SHAPE = (2, 3, 1, 5)


def ints(*numbers):
    return np.array(numbers, np.int64)


CASES = {
    "identity": lambda b, x: b("Identity", x),
    "dropout": lambda b, x: b("Dropout", x, 0.4),
    "dropout_explicit": lambda b, x: b("Dropout", x, 0.4, np.array(False)),
    "cast": lambda b, x: b("Cast", x, to=DType.FLOAT32),
    "cast_like": lambda b, x: b("CastLike", x, b.weight(3)),
    "reshape": lambda b, x: b("Reshape", x, ints(0, -1, 1, 5)),
    "expand": lambda b, x: b("Expand", x, ints(1, 3, 1, 1)),
    "slice": lambda b, x: b("Slice", x, ints(0, -99), ints(9, 99), ints(0, 3)),
    "tile": lambda b, x: b("Tile", x, ints(1, 1, 1, 1)),
    "pad": lambda b, x: b("Pad", x, ints(0, 0, 0, 0, 0, 0, 0, 0)),
    "resize": lambda b, x: b("Resize", x, None, np.ones(4, np.float32), mode="linear"),
    "resize_sizes": lambda b, x: b("Resize", x, None, None, ints(*SHAPE), mode="nearest"),
    "transpose": lambda b, x: b("Transpose", x, perm=(0, 1, 2, 3)),
    "concat": lambda b, x: b("Concat", x, axis=1),
    "sum": lambda b, x: b("Sum", x),
    "add": lambda b, x: b("Add", x, np.zeros((3, 1, 1), np.float32)),
    "add_first": lambda b, x: b("Add", 0.0, x),
    "sub": lambda b, x: b("Sub", x, 0.0),
    "mul": lambda b, x: b("Mul", x, np.ones(5, np.float32)),
    "mul_first": lambda b, x: b("Mul", 1.0, x),
    "div": lambda b, x: b("Div", x, 1.0),
    "pow": lambda b, x: b("Pow", x, 1.0),
    "clip": lambda b, x: b("Clip", x),
    "clip_infinite": lambda b, x: b("Clip", x, -np.inf, np.inf),
    "reduce": lambda b, x: b("ReduceMean", x, ints(2), keepdims=1),
    "reduce_none": lambda b, x: b("ReduceSum", x, ints(), keepdims=1, noop_with_empty_axes=1),
}


@pytest.mark.parametrize("case", CASES)
def test_eliminate_identity_removes_the_node_when_it_changes_nothing(case):
    b = Builder()
    x = b("Neg", b.input("x", *SHAPE))
    result = apply(eliminate_identity, b.output(b("Exp", CASES[case](b, x))))
    assert ops(result.graph) == ["Neg", "Exp"]


KEPT = {
    "cast": lambda b, x: b("Cast", b("Cast", x, to=DType.FLOAT16), to=DType.FLOAT32),
    "reshape": lambda b, x: b("Reshape", x, ints(3, 2, 1, 5)),
    "expand": lambda b, x: b("Expand", x, ints(2, 3, 2, 5)),
    "slice_reversed": lambda b, x: b("Slice", x, ints(-1), ints(-99), ints(3), ints(-1)),
    "pad_and_crop": lambda b, x: b("Pad", x, ints(0, 0, 0, 1, 0, 0, 0, -1)),
    "resize_crop": lambda b, x: b("Resize", x, np.array([0, 0, 0, .2, 1, 1, 1, .7], np.float32), None, ints(*SHAPE),
                                  mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
    "transpose": lambda b, x: b("Transpose", b("Reshape", x, ints(3, 3, 1, 1, 1)), perm=(1, 0, 2, 3, 4)),
    "concat": lambda b, x: b("Concat", x, x, axis=2),
    "add_enlarges": lambda b, x: b("Add", x, np.zeros((1, 1, 4, 1), np.float32)),
    "add_one": lambda b, x: b("Add", x, np.array([0, 0, 0, 0, 1e-6], np.float32)),
    "sub_from": lambda b, x: b("Sub", 0.0, x),
    "div_by": lambda b, x: b("Div", 1.0, b("Exp", x)),
    "mul_two": lambda b, x: b("Mul", x, 1.001),
    "clip": lambda b, x: b("Clip", x, -np.inf, 0.5),
    "relu": lambda b, x: b("Relu", x),
    "reduce": lambda b, x: b("ReduceMean", x, ints(3), keepdims=1),
}


@pytest.mark.parametrize("case", KEPT)
def test_eliminate_identity_keeps_the_node_when_it_changes_something(case):
    b = Builder()
    shape = (3, 3, 1, 1) if case == "transpose" else SHAPE
    graph = b.output(KEPT[case](b, b("Neg", b.input("x", *shape))))
    assert apply(eliminate_identity, graph, numbers=case != "pad_and_crop").report.matched == 0


@pytest.mark.parametrize("before", ["Relu", "Sigmoid", "HardSigmoid", "Clip"])
def test_eliminate_identity_removes_a_relu_when_its_input_cannot_be_negative(before):
    b = Builder()
    y = b(before, b.input("x", 3, 5), *([0.0, 6.0] if before == "Clip" else []))
    assert ops(apply(eliminate_identity, b.output(b("Relu", y))).graph) == [before]


def test_eliminate_identity_removes_a_global_pool_when_the_picture_is_one_pixel():
    b = Builder()
    y = b("GlobalAveragePool", b("Neg", b.input("x", 2, 3, 1, 1)))
    assert ops(apply(eliminate_identity, b.output(y)).graph) == ["Neg"]


def test_eliminate_identity_keeps_the_output_name_when_the_node_gives_a_graph_output(check_golden):
    b = Builder()
    y = b("Identity", b("Dropout", b("Neg", b.input("x", 3))))
    result = apply(eliminate_identity, b.output(y))
    assert ops(result.graph) == ["Neg"]
    assert result.graph.outputs[0].name == y.name
    check_golden("passes/eliminate_identity.txt", print_graph(result.graph))


def test_eliminate_identity_refuses_when_an_input_would_become_an_output():
    b = Builder()
    assert refusals(eliminate_identity, b.output(b("Identity", b.input("x", 3)))) == ["rewrite.output"]


def test_eliminate_identity_refuses_when_a_constant_would_become_an_output():
    b = Builder()
    b.input("x", 3)
    assert refusals(eliminate_identity, b.output(b("Identity", b.weight(3)))) == ["rewrite.output"]


def test_eliminate_identity_refuses_when_two_outputs_would_become_one():
    b = Builder()
    y = b("Neg", b.input("x", 3))
    assert refusals(eliminate_identity, b.output(y, b("Identity", y))) == ["rewrite.output"]


def test_eliminate_identity_refuses_when_the_identity_carries_a_grid():
    b = Builder()
    y = b("Identity", b.input("x", 3))
    y.quant = quant()
    assert refusals(eliminate_identity, b.output(b("Exp", y))) == ["rewrite.quant"]


def test_eliminate_identity_removes_the_node_when_both_grids_are_equal():
    b = Builder()
    x = b("Neg", b.input("x", 3))
    y = b("Identity", x)
    x.quant, y.quant = quant(), quant()
    assert ops(apply(eliminate_identity, b.output(b("Exp", y))).graph) == ["Neg", "Exp"]


def test_eliminate_identity_refuses_dropout_whose_mask_is_used():
    b = Builder()
    node = b.node("Dropout", b("Neg", b.input("x", 3)), outputs=2)
    graph = b.output(b("Exp", node.outputs[0]), b("Not", node.outputs[1]))
    assert refusals(eliminate_identity, graph) == ["eliminate_identity.outputs"]
