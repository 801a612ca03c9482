import numpy as np
import pytest
from edgec.kernels import softmax

from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.plan.kernels import group
from tests.kernels.harness import AVX2, check, everywhere, graph_input, node, run


def net(*shape, then=(), **attributes):
    graph = Graph()
    y = node(graph, "Softmax", graph_input(graph, "x", shape), **attributes)
    for op in then:
        y = node(graph, op, y)
    graph.outputs = [y]
    return graph


@everywhere
@pytest.mark.parametrize("length", [1, 2, 5, 8, 16, 17, 31, 64, 67, 197])
def test_rows_of_every_length(target, length):
    assert check(net(3, 2, length, axis=-1), target, 2e-6) == ["softmax"]


@everywhere
def test_pointwise_nodes_are_computed_on_the_way(target):
    assert check(net(7, 37, axis=1, then=("Sqrt", "Neg")), target) == ["softmax"]


@everywhere
def test_large_and_infinite_numbers_and_nan(target):
    graph = net(6, 21)
    x = np.random.default_rng(0).standard_normal((6, 21)).astype(np.float32)
    x[0] *= 1e30
    x[1, 3] = -np.inf
    x[2] = 1e38
    x[3, 7] = np.nan
    x[4] -= 1e5
    got, _ = run(graph, target, {"x": x})
    y = got[graph.outputs[0].name]
    wanted = interpret(graph, {"x": x})[graph.outputs[0].name]
    assert np.isnan(y[3]).all()
    keep = [0, 1, 2, 4, 5]
    np.testing.assert_allclose(y[keep], wanted[keep], rtol=1e-5, atol=1e-7)


def test_refuses_another_axis():
    assert "last" in softmax.refuse(group(net(3, 4, 5, axis=1))[0], AVX2)
