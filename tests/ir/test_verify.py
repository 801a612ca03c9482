import time

import numpy as np
import pytest

from edgec.ir import DType, Graph, Node, Quant, Sparsity, TensorType, Value
from edgec.ir.verify import RULES, verify
from tests import models

F = DType.FLOAT32


def value(name, *shape, dtype=F):
    return Value(name, TensorType(dtype, shape))


def small():
    """x -> Add(x, c) -> Relu -> y"""
    graph = Graph("g", [value("x", 2, 3)])
    constant = Value.constant("c", np.ones((2, 3), np.float32))
    graph.add(Node("Add", [graph.inputs[0], constant], [value("a", 2, 3)]))
    graph.add(Node("Relu", [graph.nodes[0].outputs[0]], [value("y", 2, 3)]))
    graph.outputs = [graph.nodes[1].outputs[0]]
    return graph


def branch(name="then", captured=True):
    body = Graph(name, [value("k", 2, 3)] if captured else [])
    source = body.inputs[0] if captured else Value.constant("k", np.ones((2, 3), np.float32))
    body.add(Node("Neg", [source], [value("o", 2, 3)]))
    body.outputs = [body.nodes[0].outputs[0]]
    return body


def with_if():
    graph = Graph("g", [value("p", dtype=DType.BOOL), value("x", 2, 3)])
    graph.add(Node("If", graph.inputs, [value("y", 2, 3)], {"then_branch": branch(), "else_branch": branch("else")},
                   name="choice", captures=1))
    graph.outputs = [graph.nodes[0].outputs[0]]
    return graph


def same_name(g):
    g.nodes[0].outputs[0].name = "x"


def no_name(g):
    g.nodes[0].outputs[0].name = ""


def same_node_name(g):
    g.nodes[0].name = g.nodes[1].name


def foreign(g):
    g.set_input(g.nodes[1], 0, value("elsewhere", 2, 3))


def made_twice(g):
    g.nodes[1].outputs = (g.nodes[0].outputs[0],)


def wrong_producer(g):
    g.nodes[0].outputs[0].producer = g.nodes[1]


def made_constant(g):
    g.nodes[0].outputs[0].const = np.ones((2, 3), np.float32)


def lost_use(g):
    g.inputs[0].uses.clear()


def double_use(g):
    g.inputs[0].uses.append(g.inputs[0].uses[0])


def swapped(g):
    g.nodes.reverse()


def input_twice(g):
    g.inputs.append(g.inputs[0])


def input_constant(g):
    g.inputs[0].const = np.ones((2, 3), np.float32)


def output_is_input(g):
    g.outputs = [g.inputs[0]]


def output_twice(g):
    g.outputs *= 2


def constant_shape(g):
    g.nodes[0].inputs[1].type = TensorType(F, (3, 2))


def constant_dtype(g):
    g.nodes[0].inputs[1].type = TensorType(DType.INT32, (2, 3))


def wrong_shape(g):
    g.nodes[0].outputs[0].type = TensorType(F, (2, 4))


def wrong_dtype(g):
    g.outputs[0].type = TensorType(DType.INT8, (2, 3))


def malformed(g):
    g.nodes[0].inputs[1].type = TensorType(F, (2, 5))
    g.nodes[0].inputs[1].const = np.ones((2, 5), np.float32)


def no_output(g):
    g.nodes.append(Node("Relu", [], [], name="nothing"))


def quant(*, scale=0.1, zero=0, dtype=DType.INT8, axis=None, block=0, on=None):
    def change(g):
        target = g.nodes[0].outputs[0]
        if on is not None:
            target.type = TensorType(on, (2, 3))
        array = np.asarray(scale, np.float32)
        target.quant = Quant(dtype, array, np.full(array.shape, zero), axis, block)
    return change


def sparsity(*args, array=None):
    def change(g):
        constant = g.nodes[0].inputs[1]
        if array is not None:
            constant.const = np.asarray(array, np.float32)
        constant.sparsity = Sparsity(*args)
    return change


CASES = [
    ("V01", same_name), ("V01", no_name), ("V02", same_node_name), ("V03", foreign), ("V03", made_twice),
    ("V03", wrong_producer), ("V03", made_constant), ("V04", lost_use), ("V04", double_use), ("V05", swapped),
    ("V06", input_twice), ("V06", input_constant), ("V07", output_is_input), ("V07", output_twice),
    ("V08", constant_shape), ("V08", constant_dtype), ("V09", wrong_shape), ("V09", wrong_dtype), ("V09", malformed),
    ("V13", no_output),
    ("V10", quant(scale=0)), ("V10", quant(scale=-1)), ("V10", quant(scale=np.inf)), ("V10", quant(scale=[1, 2])),
    ("V10", quant(scale=[1, 2], axis=1)), ("V10", quant(axis=2)), ("V10", quant(zero=128)),
    ("V10", quant(scale=[[1, 2]], axis=1, block=2)), ("V10", quant(on=DType.INT32)),
    ("V11", sparsity(2, 4, 3)), ("V11", sparsity(4, 4, 0)), ("V11", sparsity(1, 2, 1)), ("V11", sparsity(1, 4, 1)),
]


@pytest.mark.parametrize(("rule", "change"), CASES, ids=lambda c: getattr(c, "__name__", None) if callable(c) else c)
def test_verify_names_the_rule(rule, change):
    graph = small()
    assert verify(graph) == []
    change(graph)
    assert rule in {v.rule for v in verify(graph)}, [str(v) for v in verify(graph)]


@pytest.mark.parametrize("change", [
    quant(), quant(scale=[1, 2, 3], axis=1), quant(scale=[1, 2], axis=-2),
    quant(scale=[[1, 2], [3, 4]], axis=1, block=2), quant(dtype=DType.UINT4, zero=15),
    sparsity(1, 2, 0, array=[[1, 0, 0], [0, 1, 0]]),
    sparsity(1, 2, 1, array=[[1, 0, 1], [0, 1, 0]]),
], ids=range(7))
def test_verify_accepts_annotations_that_fit(change):
    graph = small()
    change(graph)
    assert verify(graph) == []


def test_verify_takes_types_as_stated_when_asked_or_when_onnx_does_not_know():
    graph = small()
    wrong_shape(graph)
    assert verify(graph, types=False) == []
    graph.nodes[0].domain = graph.nodes[1].domain = "custom"
    assert verify(graph) == []


def test_verify_takes_an_unknown_dimension_for_any():
    graph = small()
    graph.nodes[0].outputs[0].type = TensorType(F, (2, None))
    assert verify(graph) == []


def test_verify_looks_into_bodies():
    graph = with_if()
    assert verify(graph) == []
    graph.nodes[0].attributes["else_branch"].nodes[0].outputs[0].type = TensorType(F, (9, 9))
    assert [(v.rule, v.node) for v in verify(graph)][-1] == ("V09", "choice/else_branch/o")


@pytest.mark.parametrize("change", [
    lambda n: setattr(n, "captures", 3), lambda n: setattr(n, "captures", -1),
    lambda n: n.attributes.update(then_branch=branch(captured=False)),
    lambda n: setattr(n.attributes["then_branch"].inputs[0], "type", TensorType(F, (3, 2))),
    lambda n: n.attributes.clear(),
], ids=["too_many", "negative", "no_input", "other_type", "no_body"])
def test_verify_names_v12_when_captures_do_not_fit(change):
    graph = with_if()
    change(graph.nodes[0])
    assert "V12" in {v.rule for v in verify(graph)}


def test_every_rule_has_a_case():
    assert {rule for rule, _ in CASES} | {"V12"} == set(RULES)


@pytest.mark.parametrize("make", [models.conv_bn_relu, models.shuffle_block, models.squeeze_excite_block,
                                  models.attention_block, models.mlp])
def test_verify_finds_nothing_in_good_graphs(make):
    assert [str(v) for v in verify(make())] == []


def test_verify_takes_less_than_a_second_for_a_thousand_nodes():
    b = models.Builder()
    x = b.input("x", 1, 8, 6, 6)
    for _ in range(500):
        x = b("Relu", b.conv(x, 8, 1))
    graph = b.output(x)
    start = time.process_time()
    assert verify(graph) == []
    assert time.process_time() - start < 1
