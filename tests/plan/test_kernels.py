import numpy as np
import pytest

from edgec.errors import InternalError
from edgec.ir import DType, Graph, Quant, TensorType, Value
from edgec.ops.semantics import make_node
from edgec.plan.kernels import group, order, split
from edgec.plan.plan import Kernel

RNG = np.random.default_rng(0)


def data(name, *shape):
    return Value(name, TensorType(DType.FLOAT32, shape))


def weight(name, *shape):
    return Value.constant(name, RNG.standard_normal(shape).astype(np.float32))


def conv(graph, x, channels, name):
    kernel = weight(f"{name}.w", channels, x.shape[1], 3, 3)
    return make_node(graph, "Conv", [x, kernel], {"pads": (1, 1, 1, 1)}, name=name).outputs[0]


def op(graph, name, *inputs, **attributes):
    return make_node(graph, name, inputs, attributes).outputs[0]


def ops(kernels):
    return [[n.op for n in k.nodes] for k in kernels]


@pytest.fixture
def graph():
    return Graph("g", [data("x", 1, 5, 7, 7)])


def test_group_joins_conv_add_relu_when_residual_is_ready(graph):
    a = op(graph, "Relu", conv(graph, graph.inputs[0], 6, "a"))
    b = conv(graph, a, 6, "b")
    graph.outputs = [op(graph, "Relu", op(graph, "Add", b, a))]
    kernels = group(graph)
    assert ops(kernels) == [["Conv", "Relu"], ["Conv", "Add", "Relu"]]
    assert kernels[1].inputs == [a]
    assert kernels[1].outputs == graph.outputs
    assert kernels[1].anchor.name == "b"


def test_group_keeps_order_topological_when_residual_comes_later(graph):
    main = conv(graph, graph.inputs[0], 6, "main")
    shortcut = conv(graph, graph.inputs[0], 6, "shortcut")
    graph.outputs = [op(graph, "Add", main, shortcut)]
    kernels = group(graph)
    assert [k.anchor.name for k in kernels] == ["shortcut", "main"]
    assert ops(kernels) == [["Conv"], ["Conv", "Add"]]


def test_group_stops_when_value_is_output(graph):
    a = conv(graph, graph.inputs[0], 6, "a")
    graph.outputs = [a, op(graph, "Relu", a)]
    assert ops(group(graph)) == [["Conv"], ["Relu"]]


def test_group_stops_when_value_has_two_uses(graph):
    a = conv(graph, graph.inputs[0], 6, "a")
    graph.outputs = [op(graph, "Relu", a), op(graph, "Tanh", a)]
    assert ops(group(graph)) == [["Conv"], ["Relu"], ["Tanh"]]


def test_group_stops_when_value_is_quantized(graph):
    a = conv(graph, graph.inputs[0], 6, "a")
    a.quant = Quant(DType.INT8, np.float32(0.1), np.int8(0))
    graph.outputs = [op(graph, "Relu", a)]
    assert ops(group(graph)) == [["Conv"], ["Relu"]]


def test_group_stops_when_shape_grows(graph):
    small = op(graph, "GlobalAveragePool", graph.inputs[0])
    graph.outputs = [op(graph, "Mul", small, graph.inputs[0])]
    assert ops(group(graph)) == [["GlobalAveragePool"], ["Mul"]]


def test_group_takes_in_feeders_when_they_serve_one_kernel(graph):
    x = graph.inputs[0]
    graph.outputs = [op(graph, "Mul", op(graph, "Sigmoid", x), op(graph, "Tanh", op(graph, "Abs", x)))]
    kernels = group(graph)
    assert ops(kernels) == [["Sigmoid", "Abs", "Tanh", "Mul"]]
    assert kernels[0].anchor is None
    assert kernels[0].inputs == [x]


def test_group_marks_view_as_alias(graph):
    flat = make_node(graph, "Flatten", [graph.inputs[0]]).outputs[0]
    graph.outputs = [op(graph, "Relu", flat)]
    kernels = group(graph)
    assert [k.algorithm for k in kernels] == ["alias", "generic"]


def test_group_covers_every_node_once_when_graph_is_random():
    rng = np.random.default_rng(7)
    for _ in range(30):
        graph = Graph("g", [data("x", 1, 5, 7, 7)])
        values = [graph.inputs[0]]
        for i in range(20):
            pick = values[rng.integers(len(values))]
            other = values[rng.integers(len(values))]
            kind = rng.integers(3)
            values.append(conv(graph, pick, 5, f"c{i}") if kind == 0 else
                          op(graph, "Relu", pick) if kind == 1 else op(graph, "Add", pick, other))
        graph.outputs = [v for v in values[1:] if not v.uses]
        kernels = group(graph)
        assert sorted(id(n) for k in kernels for n in k.nodes) == sorted(id(n) for n in graph.nodes)
        ready = {id(graph.inputs[0])}
        for kernel in kernels:
            assert all(id(v) in ready for v in kernel.inputs)
            ready |= {id(v) for v in kernel.outputs}


def test_split_gives_one_kernel_for_each_node(graph):
    graph.outputs = [op(graph, "Relu", conv(graph, graph.inputs[0], 6, "a"))]
    (kernel,) = group(graph)
    parts = split(graph, kernel)
    assert ops(parts) == [["Conv"], ["Relu"]]
    assert parts[0].outputs == parts[1].inputs


def test_order_refuses_kernels_that_wait_for_each_other():
    x, y, z = data("x", 1), data("y", 1), data("z", 1)
    circle = [Kernel("first", [], None, [x, z], [], [y]), Kernel("second", [], None, [y], [], [z])]
    with pytest.raises(InternalError, match="first, second"):
        order(circle)
