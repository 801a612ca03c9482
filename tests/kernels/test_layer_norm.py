import numpy as np
import pytest
from edgec.kernels import layer_norm

from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.plan.kernels import group
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import AVX2, check, everywhere, graph_input, node, random, run


def net(*shape, op="LayerNormalization", axis=-1, beta=True, then=(), parameters=None, **attributes):
    graph = Graph()
    wanted = shape[axis % len(shape):] if parameters is None else parameters
    inputs = [graph_input(graph, "x", shape), random(graph, "gamma", *wanted)]
    if beta and op == "LayerNormalization":
        inputs.append(random(graph, "beta", *wanted))
    y = node(graph, op, *inputs, axis=axis, **attributes)
    for name in then:
        y = node(graph, name, y)
    graph.outputs = [y]
    return graph


@everywhere
@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("length", [1, 2, 5, 8, 16, 17, 64, 67, 197])
def test_rows_of_every_length(target, op, length):
    assert check(net(3, 2, length, op=op, epsilon=1e-3), target, 1e-5) == ["layer_norm"]


@everywhere
def test_pointwise_nodes_are_computed_on_the_way(target):
    assert check(net(7, 37, axis=1, then=("Sigmoid", "Neg")), target) == ["layer_norm"]


@everywhere
@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_several_axes(target, op):
    assert check(net(2, 3, 5, 7, op=op, axis=2, beta=False), target) == ["layer_norm"]


def test_one_number_for_all():
    assert check(net(6, 21, parameters=(1,)), AVX2) == ["layer_norm"]


def test_computed_parameters():
    graph = Graph()
    x, gamma, beta = (graph_input(graph, name, shape) for name, shape in
                      (("x", (5, 19)), ("gamma", (19,)), ("beta", (19,))))
    graph.outputs = [node(graph, "LayerNormalization", x, gamma, beta)]
    assert check(graph, AVX2) == ["layer_norm"]


def test_large_means_lose_nothing():
    graph = net(4, 33)
    x = np.random.default_rng(0).standard_normal((4, 33)).astype(np.float32) + np.float32(4096)
    got, algorithms = run(graph, AVX2, {"x": x})
    wide = x.astype(np.float64)
    gamma, beta = (v.const.astype(np.float64) for v in graph.nodes[0].inputs[1:])
    exact = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5) * gamma + beta
    assert algorithms == ["layer_norm"]
    np.testing.assert_allclose(got[graph.outputs[0].name], exact, atol=3e-3)  # a mean of such numbers has 2^-12


@everywhere
def test_bytes_are_read_and_written(target):
    graph = net(5, 3, 45)
    feeds = random_feeds(graph)
    graph = on_grids(graph, feeds)
    (output,) = graph.outputs
    got, algorithms = run(graph, target, feeds)
    wanted = interpret(graph, feeds)[output.name]
    assert "layer_norm" in algorithms
    norm = next(n for n in graph.nodes if n.op == "LayerNormalization")
    steps = norm.operand(0).quant, norm.outputs[0].quant
    assert all(steps), "the kernel must see bytes"
    assert np.max(np.abs(got[output.name] - wanted)) <= 1.01 * steps[1].scale
    assert np.mean(got[output.name] != wanted) < 0.02


def test_refuses_what_it_cannot_do():
    def reason(graph):
        return layer_norm.refuse(group(graph)[0], AVX2) or ""

    assert "several axes" in reason(net(2, 3, 5, axis=1, then=("Neg",)))
    assert "one for each" in reason(net(2, 3, 5, axis=1, parameters=(5,)))
    assert "neither LayerNormalization" in reason(softmax_alone())


def softmax_alone():
    graph = Graph()
    graph.outputs = [node(graph, "Softmax", graph_input(graph, "x", (3, 4)))]
    return graph
