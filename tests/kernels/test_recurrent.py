import numpy as np
import pytest
from edgec.kernels import recurrent
from edgec.kernels.recurrent import by_units

from edgec.ir.graph import Graph, Value
from edgec.ir.interpret import interpret
from edgec.ops.semantics import make_node
from edgec.plan.kernels import group
from tests.grids import on_grids, random_feeds
from tests.kernels.harness import AVX2, check, everywhere, graph_input, random, run

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def net(op, steps=4, batch=1, inputs=7, hidden=19, *, states=False, bias=True, outputs=(0, 1), **attributes):
    graph = Graph()
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[op]
    x = graph_input(graph, "x", (steps, batch, inputs))
    given = [x, random(graph, "w", directions, gates * hidden, inputs, scale=0.5),
             random(graph, "r", directions, gates * hidden, hidden, scale=0.4),
             random(graph, "b", directions, 2 * gates * hidden) if bias else None]
    if states:
        given += [None, graph_input(graph, "h", (directions, batch, hidden))]
        if op == "LSTM":
            given.append(random(graph, "c", directions, batch, hidden))
    count = 3 if op == "LSTM" else 2
    made = make_node(graph, op, given, {"hidden_size": hidden, **attributes}, outputs=count)
    graph.outputs = [made.outputs[i] for i in outputs]
    return graph


@everywhere
@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("hidden", [1, 5, 16, 33, 70])
def test_numbers_of_every_width(target, op, hidden):
    assert check(net(op, hidden=hidden, inputs=hidden % 9 + 1), target) == ["recurrent"]


@everywhere
@pytest.mark.parametrize(("op", "batch"), [("LSTM", 3), ("LSTM", 5), ("GRU", 4), ("RNN", 6)])
def test_numbers_of_several_sequences(target, op, batch):
    assert check(net(op, batch=batch, hidden=21, states=True), target) == ["recurrent"]


@everywhere
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "extra"), [
    ("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})],
    ids=["LSTM", "GRU", "GRU late", "RNN"])
def test_numbers_of_directions(target, op, extra, direction):
    assert check(net(op, steps=5, direction=direction, states=True, **extra), target) == ["recurrent"]


@pytest.mark.parametrize("outputs", [(0,), (1,), (2,), (0, 1, 2)])
def test_only_the_outputs_that_are_used_are_written(outputs):
    assert check(net("LSTM", outputs=outputs), AVX2) == ["recurrent"]


@pytest.mark.parametrize("op", GATES)
def test_numbers_without_bias(op):
    assert check(net(op, bias=False), AVX2) == ["recurrent"]


@everywhere
@pytest.mark.parametrize(("op", "outputs", "batch"), [("LSTM", (0, 1, 2), 1), ("LSTM", (0,), 3), ("GRU", (0, 1), 2),
                                                      ("RNN", (1,), 1)])
def test_values_in_bytes_are_read_and_written(target, op, outputs, batch):
    """To a step of the grid: the sums before the rounding are floats."""
    graph = net(op, batch=batch, hidden=37, inputs=18, states=True, outputs=outputs, direction="bidirectional")
    feeds = random_feeds(graph)
    graph = on_grids(graph, feeds)
    got, algorithms = run(graph, target, feeds)
    assert algorithms.count("recurrent") == 1
    assert "generic" not in algorithms
    for value in graph.outputs:
        expected = interpret(graph, feeds)[value.name]
        assert value.quant is not None
        difference = np.abs(got[value.name] - expected) / value.quant.scale
        assert difference.max() <= 1.01
        assert (difference > 0.5).mean() < 0.01


@pytest.mark.parametrize(("op", "names"), [
    ("LSTM", [b"Sigmoid", b"Tanh", b"Tanh"] * 2), ("GRU", ["Sigmoid", "Tanh"] * 2), ("RNN", ["tanh", "tanh"])],
    ids=["LSTM", "GRU", "RNN"])
def test_activations_that_are_named_and_usual_are_taken(op, names):
    assert check(net(op, direction="bidirectional", activations=names), AVX2) == ["recurrent"]


def test_by_units_puts_the_gates_of_a_vector_side_by_side():
    packed = by_units(np.arange(2 * 3 * 1, dtype=np.float32).reshape(6, 1) + 1, 2, 2)  # 2 gates of 3 units, blocks of 2
    np.testing.assert_array_equal(packed, [[1, 2, 4, 5, 3, 0, 6, 0]])


@pytest.mark.parametrize(("attributes", "text"), [
    ({"activations": [b"Relu", b"Tanh", b"Tanh"]}, "activations"), ({"clip": 3.0}, "clip"),
    ({"input_forget": 1}, "input_forget")])
def test_refuses_what_it_does_not_compute(attributes, text):
    assert text in recurrent.refuse(group(net("LSTM", **attributes))[0], AVX2)


def test_refuses_computed_weights_long_sequences_and_short_ones():
    graph = net("RNN")
    kernel = group(graph)[0]
    node = graph.nodes[0]
    long = group(net("LSTM", steps=9000, hidden=64, outputs=(1,)))[0]
    assert "do not stay" in recurrent.refuse(long, AVX2)
    graph.set_input(node, 4, Value.constant("lengths", np.array([3], np.int32)))
    assert "shorter" in recurrent.refuse(kernel, AVX2)
