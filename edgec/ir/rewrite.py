"""The one guard and the one substitution for rewrites, used by passes/ and plan/kernels.py.

A rewrite asks `why_not_absorbed` before a value may disappear, and changes the graph only through `substitute`,
`recompute` and `fold`: they keep the names of graph outputs, keep every output produced by a node, and keep Quant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.types import TensorType


def why_not_absorbed(graph: Graph, value: Value) -> tuple[str, str] | None:
    """(rule, text) if `value` must stay visible, None if its producer may be merged with its only user.

    Rules: `rewrite.output` it is a graph output; `rewrite.uses` it has more than one use, or none;
    `rewrite.quant` it lies on an integer grid of its own; `rewrite.sparsity` it carries a sparsity pattern.
    """
    if graph.is_output(value):
        return "rewrite.output", f"{value.name} is a graph output"
    if len(value.uses) != 1:
        return "rewrite.uses", f"{value.name} has {len(value.uses)} uses"
    return why_not_forgotten(value)


def why_not_forgotten(value: Value) -> tuple[str, str] | None:
    """(rule, text) if `value` carries a fact that would be lost with it: `rewrite.quant`, `rewrite.sparsity`."""
    if value.quant is not None:
        return "rewrite.quant", f"{value.name} is quantized"
    if value.sparsity is not None:
        return "rewrite.sparsity", f"{value.name} has a sparsity pattern"
    return None


def why_not_replaced_together(graph: Graph, values: Iterable[Value], members: Iterable[Node]) -> tuple[str, str] | None:
    """The guard for a pattern of several nodes: may all `values` disappear when all `members` go?

    Rules as `why_not_absorbed`, except that a value may have several uses as long as all are in `members`.
    """
    inside = {id(n) for n in members}
    for value in values:
        if graph.is_output(value):
            return "rewrite.output", f"{value.name} is a graph output"
        outside = [n for n, _ in value.uses if id(n) not in inside]
        if outside:
            return "rewrite.uses", f"{value.name} is also used by {outside[0].name}"
        if refusal := why_not_forgotten(value):
            return refusal
    return None


def same_facts(first: Value, second: Value) -> bool:
    """True if both values carry the same Quant and the same Sparsity, none included."""
    return first.quant == second.quant and first.sparsity == second.sparsity


def why_not_substituted(graph: Graph, old: Value, new: Value) -> tuple[str, str] | None:
    """(rule, text) if `new`, which holds the same numbers, may not take the place of `old`.

    Rules: `rewrite.type` dtype or shape differ; `rewrite.quant`, `rewrite.sparsity` the facts differ;
    `rewrite.output` `old` is a graph output and `new` is a graph input, a constant, or itself a graph output.
    """
    if old.type != new.type:
        return "rewrite.type", f"{old.name} is {old.type}, {new.name} is {new.type}"
    if old.quant != new.quant:
        return "rewrite.quant", f"{old.name} and {new.name} are quantized differently"
    if old.sparsity != new.sparsity:
        return "rewrite.sparsity", f"{old.name} and {new.name} have different sparsity patterns"
    if graph.is_output(old):
        if new.producer is None:
            kind = "constant" if new.const is not None else "graph input"
            return "rewrite.output", f"graph output {old.name} would be the {kind} {new.name}"
        if graph.is_output(new):
            return "rewrite.output", f"graph outputs {old.name} and {new.name} would be one value"
    return None


def substitute(graph: Graph, old: Value, new: Value) -> tuple[str, str] | None:
    """Let everything that reads `old` read `new`; returns None when done, else the refusal of `why_not_substituted`.

    If `old` is a graph output, `new` takes over its name. Nodes that became useless are removed.
    """
    if refusal := why_not_substituted(graph, old, new):
        return refusal
    if graph.is_output(old):
        old.name, new.name = new.name, old.name
    graph.replace_uses(old, new)
    if old.producer is not None:
        remove_unused(graph, [old.producer])
    return None


def recompute(graph: Graph, value: Value, op: str, inputs: Sequence[Value | None],
              attributes: Mapping[str, Attr] | None = None, *, like: Node | None = None) -> Node:
    """Let `value` be the only output of a new node, in the place of its producer, which is removed.

    Name, type, Quant and uses of `value` stay, so graph outputs and calibrated facts survive. The inputs must be
    computed before the old producer. Nodes that became useless are removed. The new node has the name and source of
    `like`, or of the old producer.
    Raises ValueError if the old producer has another output that is used.
    """
    old = value.producer
    if old is None:
        raise ValueError(f"{value.name} is not computed by a node")
    like = like or old
    node = Node(op, inputs, (value,), attributes, name=like.name, source=like.source)
    replace_node(graph, old, [node])
    return node


def replace_node(graph: Graph, old: Node, new: Sequence[Node]) -> None:
    """Put the nodes `new` in the place of `old`. Values of `old` that are still read must be outputs of `new`.

    Nodes that became useless are removed. Raises ValueError if a value in use would be left without a producer.
    """
    made = {id(v) for node in new for v in node.outputs}
    for value in old.outputs:
        if id(value) not in made and (value.uses or graph.is_output(value)):
            raise ValueError(f"{value.name}, an output of {old!r}, is still used")
    for node in new:
        graph.add(node, before=old)
    graph.nodes.remove(old)
    for value in old.outputs:
        if value.producer is old:
            value.producer = None
    remove_unused(graph, _disconnect(old))


def splice(graph: Graph, node: Node, body: Graph, inputs: Sequence[Value]) -> None:
    """Put the nodes of `body` in the place of `node`: its inputs become `inputs`, its outputs those of `node`.

    Names of values and nodes are made unique; the outputs of `node` keep name, type and Quant. `body` is used up.
    """
    prefix = node.name
    for value in list(body.values()):
        value.name = graph.unique_name(f"{prefix}/{value.name}")
    replaced = list(zip(body.inputs, inputs, strict=True)) + list(zip(body.outputs, node.outputs, strict=True))
    twin = {id(inner): outer for inner, outer in replaced}
    new = []
    for inner in body.nodes:
        read = [None if v is None else twin.get(id(v), v) for v in inner.inputs]
        made = [twin.get(id(v), v) for v in inner.outputs]
        new.append(Node(inner.op, read, made, inner.attributes, name=graph.unique_name(f"{prefix}/{inner.name}"),
                        source=node.source, domain=inner.domain, captures=inner.captures))
    for value in body.values():
        value.uses, value.producer = [], None
    replace_node(graph, node, new)


def fold(graph: Graph, node: Node, arrays: Sequence[np.ndarray]) -> None:
    """Let every output of `node` become the constant of `arrays` in its place; `node` is removed.

    Name and Quant of the outputs stay. A graph output is then produced by an Identity node, since no graph output is a
    constant. Nodes that became useless are removed.
    """
    for value, array in zip(node.outputs, arrays, strict=True):
        if graph.is_output(value):
            constant = Value.constant(graph.unique_name(f"{value.name}_constant"), array)
            graph.add(Node("Identity", [constant], [value], name=node.name, source=node.source), before=node)
        else:
            value.producer, value.const = None, array
            value.type = TensorType(value.dtype, array.shape)
    graph.nodes.remove(node)
    remove_unused(graph, _disconnect(node))


def remove_unused(graph: Graph, nodes: Iterable[Node]) -> int:
    """Remove those of `nodes` whose outputs nobody reads, then what only they read; returns how many went."""
    count, waiting = 0, list(nodes)
    while waiting:
        node = waiting.pop()
        if not is_present(node) or any(v.uses or graph.is_output(v) for v in node.outputs):
            continue
        graph.remove(node)
        count += 1
        waiting.extend(v.producer for v in node.input_values if v.producer is not None)
    return count


def is_present(node: Node) -> bool:
    """False once `node` has been removed from its graph or its output has got another producer."""
    return any(v.producer is node for v in node.outputs)


def only_user(value: Value) -> Node | None:
    """The node that uses `value`, if exactly one input of one node does."""
    return value.uses[0][0] if len(value.uses) == 1 else None


def _disconnect(node: Node) -> list[Node]:
    """Take the node's reads out of its inputs' uses; returns the producers of its inputs."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            value.uses.remove((node, index))
    return [v.producer for v in node.input_values if v.producer is not None]
