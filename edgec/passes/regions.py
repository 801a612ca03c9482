"""Regions: connected ops of one rank that work in any order of axes, for eliminate_transposes."""

from __future__ import annotations

from edgec.ir.graph import Graph, Node, Value
from edgec.passes.layout import follows, permuted


def regions(graph: Graph) -> list[list[Node]]:
    """The connected sets of nodes that can change their layout together, each in topological order.

    A node belongs to a region if its op works in any layout, its data are of one rank of at least 2 (constants and
    single numbers aside), and no value that it gives carries a Quant along an axis or a Sparsity.
    """
    parent: dict[int, int] = {}
    member: dict[int, Node] = {}

    def root(key: int) -> int:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for node in graph.nodes:
        if _can_move(node):
            parent[id(node)], member[id(node)] = id(node), node
    for node in member.values():
        for value in _data(node):
            producer = value.producer
            if producer is not None and id(producer) in member and not _leaves_layout(producer):
                first, second = root(id(producer)), root(id(node))
                parent[max(first, second)] = min(first, second)
    groups: dict[int, list[Node]] = {}
    for node in member.values():
        groups.setdefault(root(id(node)), []).append(node)
    return list(groups.values())


def _can_move(node: Node) -> bool:
    if not node.inputs or not node.outputs or not node.outputs[0].type.is_static:
        return False
    rank = _layout_rank(node)
    if rank < 2:
        return False
    form = permuted(node, tuple(range(rank)))
    if form is None:
        return False
    data = [node.inputs[i] for i in form.data]
    if any(v is None or not follows(v, rank) for v in data) or all(v is None or v.const is not None for v in data):
        return False
    return all(v.sparsity is None and (v.quant is None or v.quant.axis is None) and (form.sink or v.type.rank == rank)
               for v in node.outputs)


def _layout_rank(node: Node) -> int:
    return max((v.type.rank for v in (*node.input_values, *node.outputs)), default=0)


def _data(node: Node) -> list[Value]:
    form = permuted(node, tuple(range(_layout_rank(node))))
    values = [node.inputs[i] for i in form.data] if form is not None else []
    return [v for v in values if v is not None and v.const is None and v.type.size != 1]


def _leaves_layout(node: Node) -> bool:
    form = permuted(node, tuple(range(_layout_rank(node))))
    return form is None or form.sink
