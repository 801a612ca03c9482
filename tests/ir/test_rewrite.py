import numpy as np
import pytest

from edgec.ir import DType, Node, Sparsity, TensorType, Value
from edgec.ir.rewrite import (
    fold,
    is_present,
    only_user,
    recompute,
    remove_unused,
    replace_node,
    same_facts,
    splice,
    substitute,
    why_not_absorbed,
    why_not_replaced_together,
    why_not_substituted,
)
from edgec.ir.verify import verify
from tests.models import Builder
from tests.passes.checks import ops, quant


def rule(refusal):
    return None if refusal is None else refusal[0]


def line():
    """x -> Neg -> Exp -> Abs, Abs is the output."""
    b = Builder()
    values = [b.input("x", 3)]
    for op in ("Neg", "Exp", "Abs"):
        values.append(b(op, values[-1]))
    return b.output(values[-1]), values


def test_why_not_absorbed_gives_none_when_one_node_reads_a_plain_value():
    graph, values = line()
    assert why_not_absorbed(graph, values[1]) is None


def test_why_not_absorbed_names_output_uses_quant_and_sparsity():
    graph, values = line()
    assert rule(why_not_absorbed(graph, values[3])) == "rewrite.output"
    graph.add(Node("Abs", [values[1]], [Value("more", values[1].type)]))
    assert rule(why_not_absorbed(graph, values[1])) == "rewrite.uses"
    values[2].quant = quant()
    assert rule(why_not_absorbed(graph, values[2])) == "rewrite.quant"
    values[2].quant, values[2].sparsity = None, Sparsity(2, 4, 0)
    assert rule(why_not_absorbed(graph, values[2])) == "rewrite.sparsity"


def test_why_not_replaced_together_allows_uses_inside_the_pattern_only():
    b = Builder()
    e = b("Exp", b.input("x", 3))
    y = b("Mul", e, b("Add", e, 1.0))
    graph = b.output(b("Abs", y))
    members = [e.producer, *{id(n): n for n, _ in e.uses}.values()]
    assert why_not_replaced_together(graph, [e], members) is None
    assert rule(why_not_replaced_together(graph, [e], members[:2])) == "rewrite.uses"
    assert rule(why_not_replaced_together(graph, [graph.outputs[0]], members)) == "rewrite.output"


def test_same_facts_compares_quant_and_sparsity():
    a, b = (Value(n, TensorType(DType.FLOAT32, (3,))) for n in "ab")
    assert same_facts(a, b)
    a.quant = quant()
    assert not same_facts(a, b)
    b.quant = quant()
    assert same_facts(a, b)
    b.sparsity = Sparsity(2, 4, 0)
    assert not same_facts(a, b)


def test_substitute_moves_uses_and_removes_what_is_useless():
    graph, values = line()
    assert substitute(graph, values[2], values[1]) is None
    assert ops(graph) == ["Neg", "Abs"]
    assert verify(graph) == []


def test_substitute_hands_the_name_over_when_the_old_value_is_an_output():
    graph, values = line()
    name = values[3].name
    assert substitute(graph, values[3], values[2]) is None
    assert ops(graph) == ["Neg", "Exp"]
    assert graph.outputs[0].name == name
    assert verify(graph) == []


def test_why_not_substituted_names_type_quant_sparsity_and_output():
    graph, values = line()
    other = Value("other", TensorType(DType.FLOAT32, (4,)))
    assert rule(why_not_substituted(graph, values[1], other)) == "rewrite.type"
    assert rule(why_not_substituted(graph, values[3], values[0])) == "rewrite.output"
    assert rule(why_not_substituted(graph, values[3], Value.constant("c", np.ones(3, np.float32)))) == "rewrite.output"
    graph.outputs.append(values[1])
    assert rule(why_not_substituted(graph, values[3], values[1])) == "rewrite.output"
    values[2].sparsity = Sparsity(2, 4, 0)
    assert rule(substitute(graph, values[2], values[1])) == "rewrite.sparsity"
    values[2].quant = quant()
    assert rule(substitute(graph, values[2], values[1])) == "rewrite.quant"
    assert ops(graph) == ["Neg", "Exp", "Abs"]


def test_recompute_keeps_the_value_and_what_is_known_of_it():
    graph, values = line()
    values[3].quant = quant()
    old = values[3].producer
    node = recompute(graph, values[3], "Relu", [values[0]])
    assert ops(graph) == ["Relu"]
    assert (node.name, node.source) == (old.name, old.source)
    assert graph.outputs[0] is values[3]
    assert values[3].quant == quant()
    assert not is_present(old)
    assert verify(graph) == []


def test_recompute_takes_name_and_source_of_another_node():
    graph, values = line()
    like = values[1].producer
    node = recompute(graph, values[3], "Relu", [values[0]], like=like)
    assert (node.name, node.source) == (like.name, like.source)


def test_recompute_refuses_a_node_whose_other_output_is_used():
    b = Builder()
    node = b.node("Split", b.input("x", 4), outputs=2, num_outputs=2)
    graph = b.output(b("Add", *node.outputs))
    with pytest.raises(ValueError, match="still used"):
        recompute(graph, node.outputs[0], "Neg", [graph.inputs[0]])
    with pytest.raises(ValueError, match="not computed"):
        recompute(graph, graph.inputs[0], "Neg", [])


def test_replace_node_refuses_to_leave_a_used_value_without_a_producer():
    graph, values = line()
    with pytest.raises(ValueError, match="still used"):
        replace_node(graph, values[2].producer, [])
    assert verify(graph) == []


def test_fold_makes_constants_and_keeps_outputs_computed():
    b = Builder()
    node = b.node("Split", b("Neg", b.weight(4)), outputs=2, num_outputs=2)
    first, second = node.outputs
    graph = b.output(b("Abs", first), second)
    fold(graph, node, [np.float32([1, 2]), np.float32([3, 4])])
    assert ops(graph) == ["Identity", "Abs"]
    assert first.const.tolist() == [1, 2]
    assert graph.outputs[1] is second
    assert second.const is None
    assert verify(graph) == []


def test_splice_puts_a_body_in_the_place_of_a_node():
    inner = Builder()
    x = inner.input("x", 3)
    body = inner.output(inner("Add", inner("Neg", x), 1.0), inner("Exp", x))
    b = Builder()
    given = b("Abs", b.input("x", 3))
    node = b.node("Split", b("Concat", given, given, axis=0), outputs=2, num_outputs=2)
    node.outputs[1].quant = quant()
    graph = b.output(node.outputs[0], b("Relu", node.outputs[1]))
    splice(graph, node, body, [given])
    assert ops(graph) == ["Abs", "Neg", "Add", "Exp", "Relu"]
    assert graph.outputs[0] is node.outputs[0]
    assert node.outputs[1].quant == quant()
    assert {n.source for n in graph.nodes[1:4]} == {node.source}
    assert verify(graph) == []


def test_remove_unused_counts_what_went_and_keeps_what_is_read():
    graph, values = line()
    dead = graph.add(Node("Abs", [values[1]], [Value("dead", values[1].type)]))
    tail = graph.add(Node("Neg", [dead.outputs[0]], [Value("tail", values[1].type)]))
    assert remove_unused(graph, [tail, values[2].producer]) == 2
    assert ops(graph) == ["Neg", "Exp", "Abs"]


def test_only_user_gives_none_when_there_are_none_or_several():
    graph, values = line()
    assert only_user(values[1]) is graph.nodes[1]
    assert only_user(values[3]) is None
    graph.add(Node("Abs", [values[1]], [Value("more", values[1].type)]))
    assert only_user(values[1]) is None
