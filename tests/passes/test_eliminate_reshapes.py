import numpy as np

from edgec.ir import Sparsity
from edgec.ir.text import print_graph
from edgec.passes import eliminate_reshapes
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


def ints(*numbers):
    return np.array(numbers, np.int64)


def chain(b, x):
    y = b("Flatten", b("Unsqueeze", b("Reshape", x, ints(6, 1, 5)), ints(0, 4)), axis=2)
    return b("Squeeze", b("Unsqueeze", y, ints(1)), ints(1))


def test_eliminate_reshapes_leaves_one_reshape_when_there_is_a_chain(check_golden):
    b = Builder()
    graph = b.output(b("Neg", chain(b, b.input("x", 2, 3, 5))))
    result = apply(eliminate_reshapes, graph)
    assert ops(result.graph) == ["Reshape", "Neg"]
    check_golden("passes/eliminate_reshapes.txt", print_graph(result.graph))


def test_eliminate_reshapes_leaves_nothing_when_the_chain_returns():
    b = Builder()
    y = b("Exp", b.input("x", 2, 3, 5))
    graph = b.output(b("Neg", b("Reshape", b("Flatten", y), ints(2, 3, 5))))
    assert ops(apply(eliminate_reshapes, graph).graph) == ["Exp", "Neg"]


def test_eliminate_reshapes_keeps_the_first_when_it_has_other_uses():
    b = Builder()
    y = b("Reshape", b.input("x", 2, 3, 5), ints(6, 5))
    graph = b.output(b("Neg", y), b("Exp", b("Reshape", y, ints(5, 6))))
    result = apply(eliminate_reshapes, graph)
    assert sorted(ops(result.graph)) == ["Exp", "Neg", "Reshape", "Reshape"]
    assert all(n.inputs[0].name == "x" for n in result.graph.nodes if n.op == "Reshape")


def test_eliminate_reshapes_keeps_the_output_when_the_chain_of_an_input_returns():
    b = Builder()
    graph = b.output(b("Reshape", b("Flatten", b.input("x", 2, 3, 5)), ints(2, 3, 5)))
    assert ops(apply(eliminate_reshapes, graph).graph) == ["Reshape"]


def test_eliminate_reshapes_keeps_zero_extents():
    b = Builder()
    graph = b.output(b("Neg", b("Reshape", b("Reshape", b.input("x", 2, 0, 5), ints(5, 2, 0), allowzero=1),
                                ints(0, 5), allowzero=1)))
    assert ops(apply(eliminate_reshapes, graph).graph) == ["Reshape", "Neg"]


def test_eliminate_reshapes_refuses_when_the_value_between_has_another_grid():
    b = Builder()
    y = b("Reshape", b.input("x", 2, 3, 5), ints(6, 5))
    y.quant = quant()
    assert refusals(eliminate_reshapes, b.output(b("Reshape", y, ints(5, 6)))) == ["rewrite.quant"]


def test_eliminate_reshapes_refuses_facts_along_an_axis():
    b = Builder()
    x = b("Neg", b.input("x", 4, 3, 5))
    y = b("Reshape", x, ints(4, 15))
    x.sparsity = y.sparsity = Sparsity(2, 4, 0)
    assert refusals(eliminate_reshapes, b.output(b("Reshape", y, ints(60)))) == ["rewrite.sparsity"]


def test_eliminate_reshapes_refuses_grids_along_an_axis():
    from edgec.ir import DType, Quant

    b = Builder()
    x = b("Neg", b.input("x", 4, 3, 5))
    y = b("Reshape", x, ints(4, 15))
    x.quant = y.quant = Quant(DType.INT8, np.full(4, 0.1, np.float32), np.zeros(4, np.int8), axis=0)
    assert refusals(eliminate_reshapes, b.output(b("Reshape", y, ints(60)))) == ["rewrite.sparsity"]


def test_eliminate_reshapes_leaves_unknown_shapes_alone():
    from edgec.ir import DType, Node, TensorType, Value
    b = Builder()
    y = Value("y", TensorType(DType.FLOAT32, (None, None)))
    b.graph.add(Node("Reshape", [b.input("x", 2, 3), b.input("shape", 2, dtype=DType.INT64)], [y]))
    graph = b.output(b("Flatten", y))
    assert apply(eliminate_reshapes, graph, numbers=False).report.matched == 0
