import time

import numpy as np
import pytest

from edgec.ir import DType, Graph, Node, TensorType, Value
from tests.models import attention_block


def value(name, *shape):
    return Value(name, TensorType(DType.FLOAT32, shape))


def chain(length):
    graph = Graph("chain", [value("x", 2)])
    last = graph.inputs[0]
    for i in range(length):
        last = graph.add(Node("Relu", [last], [value(f"v{i}", 2)])).outputs[0]
    graph.outputs = [last]
    return graph


def test_sort_keeps_the_order_of_a_graph_that_is_in_order():
    graph = attention_block()
    before = list(graph.nodes)
    graph.sort()
    assert graph.nodes == before


def test_sort_brings_producers_first_when_nodes_are_shuffled():
    graph = attention_block()
    np.random.default_rng(3).shuffle(graph.nodes)
    graph.sort()
    done = set(graph.inputs)
    for node in graph.nodes:
        assert all(v.const is not None or v in done for v in node.input_values), node
        done.update(node.outputs)


def test_sort_names_a_node_of_the_cycle():
    graph = chain(3)
    graph.set_input(graph.nodes[0], 0, graph.nodes[2].outputs[0])
    with pytest.raises(ValueError, match="cycle through v0, v1, v2"):
        graph.sort()


def test_sort_takes_linear_time_when_the_order_is_reversed():
    graph = chain(20_000)
    graph.nodes.reverse()
    start = time.process_time()
    graph.sort()
    assert time.process_time() - start < 1.5
    assert graph.nodes[0].inputs[0] is graph.inputs[0]


def test_unique_name_takes_the_next_free_number():
    graph = Graph("g", [value("x"), value("x_2")])
    assert [graph.unique_name("x") for _ in range(3)] == ["x_1", "x_3", "x_4"]
    assert graph.unique_name("y") == "y"


def test_remove_refuses_while_an_output_is_used():
    graph = chain(2)
    with pytest.raises(ValueError, match="still used"):
        graph.remove(graph.nodes[0])
    graph.outputs = []
    graph.remove(graph.nodes[1])
    assert not graph.nodes[0].outputs[0].uses


def test_set_input_fills_absent_inputs_in_between():
    graph = chain(1)
    extra = Value.constant("k", np.float32(1))
    graph.set_input(graph.nodes[0], 2, extra)
    assert graph.nodes[0].inputs == (graph.inputs[0], None, extra)
    assert extra.uses == [(graph.nodes[0], 2)]


def test_replace_uses_moves_every_use_and_the_output():
    graph = chain(2)
    first, second = graph.nodes
    graph.replace_uses(second.outputs[0], first.outputs[0])
    assert graph.outputs == [first.outputs[0]]
    assert not second.outputs[0].uses


def test_copy_shares_arrays_and_nothing_else():
    graph = attention_block()
    copied = graph.copy()
    assert not {id(n) for n in graph.nodes} & {id(n) for n in copied.nodes}
    for old, new in zip(graph.constants(), copied.constants(), strict=True):
        assert old is not new
        assert np.shares_memory(old.const, new.const)
    assert copied.unique_name("x") == graph.unique_name("x")


def test_const_cannot_be_written():
    constant = Value.constant("c", np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        constant.const[0] = 1


def test_operand_and_attributes_raise_when_they_are_not_there():
    node = Node("Conv", [value("x", 1), None], [value("y", 1)], {"group": "three", "pads": 1}, source="net.py:7")
    with pytest.raises(ValueError, match=r"net\.py:7.*no input 1"):
        node.operand(1)
    with pytest.raises(TypeError, match="group"):
        node.integer("group", 1)
    with pytest.raises(TypeError, match="pads"):
        node.integers("pads")
    assert node.integers("strides", (1, 1)) == (1, 1)


def test_node_reads_typed_attributes_and_parameters():
    axes = Value.constant("axes", np.array([[1], [-1]], np.int64))
    node = Node("Made", [None, axes], [Value("y", TensorType(DType.FLOAT32, ()))],
                {"alpha": 0.5, "mode": b"linear", "count": 3})
    assert (node.real("alpha", 1.0), node.real("count", 1.0), node.real("beta", 2)) == (0.5, 3.0, 2.0)
    assert (node.text("mode", ""), node.text("other", "none")) == ("linear", "none")
    assert (node.parameter(0), node.parameter(1), node.parameter(2)) == (None, [1, -1], None)
    with pytest.raises(TypeError, match="mode of Made"):
        node.real("mode", 1.0)
    with pytest.raises(TypeError, match="alpha of Made"):
        node.text("alpha", "")
