"""Which nodes run as one kernel: an anchor with everything that can be computed while its result is in registers.

Both `plan/kernels.py` and `compress/quantize` ask here, so that integer grids lie where kernels end, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import why_not_absorbed
from edgec.ops import KernelRole, table


@dataclass(frozen=True)
class Group:
    """Nodes that run as one, in the graph's order, and the one of role ANCHOR among them, if any."""

    nodes: tuple[Node, ...]
    anchor: Node | None

    @property
    def output(self) -> Value:
        """The first output of the last node: what the kernel makes."""
        return self.nodes[-1].outputs[0]


def groups(graph: Graph) -> list[Group]:
    """Groups that cover every node once, in the order of their last nodes.

    A group starts at an anchor (Conv, Gemm, pooling) or a pointwise node and takes in the next node while
    (1) its last value has one use, is no graph output, and lies on no integer grid of its own (`ir.rewrite`);
    (2) that use is a pointwise node; (3) that node's output has the shape of the last value, so that every element is
    computed where it lies; (4) its output lies on no grid, if an anchor that reads floats leads the group: such kernels
    write floats, and a pass of its own rounds them. Pointwise nodes that feed only such a node, with its shape, are
    taken in as well.
    Where the results of two anchors meet, the one that is more nodes away from the inputs takes the node: the other
    one's result is there first. Every other node is a group of its own.
    """
    taken: set[int] = set()
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    depth = _depths(graph)
    found: list[Group] = []

    def take(nodes: list[Node], anchor: Node | None) -> None:
        nodes = sorted(nodes, key=lambda n: position[id(n)])
        taken.update(id(n) for n in nodes)
        found.append(Group(tuple(nodes), anchor))

    anchors = [n for n in graph.nodes if table.role(n) is KernelRole.ANCHOR]
    for node in sorted(anchors, key=lambda n: -depth[id(n)]):  # a pointwise node belongs to an anchor, if to any
        take(_grow(graph, node, taken), node)
    for node in graph.nodes:
        if id(node) not in taken and table.role(node) is KernelRole.POINTWISE:
            take(_grow(graph, node, taken), None)
    for node in graph.nodes:
        if id(node) not in taken:
            take([node], None)
    return sorted(found, key=lambda g: position[id(g.nodes[-1])])


def _depths(graph: Graph) -> dict[int, int]:
    """How many nodes lie on the longest way from an input to each node."""
    depth: dict[int, int] = {}
    for node in graph.nodes:
        earlier = (depth[id(v.producer)] for v in node.input_values if v.producer is not None)
        depth[id(node)] = 1 + max(earlier, default=0)
    return depth


def _grow(graph: Graph, seed: Node, taken: set[int]) -> list[Node]:
    chosen = [seed]
    last = seed
    floats = table.role(seed) is KernelRole.ANCHOR and all(v.quant is None or v.const is not None
                                                           for v in seed.input_values)
    while (user := _absorbing_user(graph, last.outputs[0])) is not None and id(user) not in taken:
        if floats and user.outputs[0].quant is not None:  # (4)
            break
        for value in user.input_values:
            if value is not last.outputs[0]:
                chosen.extend(_feeders(graph, value, user.outputs[0], taken, chosen))
        chosen.append(user)
        last = user
    return chosen


def _absorbing_user(graph: Graph, value: Value) -> Node | None:
    if why_not_absorbed(graph, value) is not None:
        return None
    user = value.uses[0][0]
    same = len(user.outputs) == 1 and user.outputs[0].type.shape == value.type.shape and value.type.is_static
    return user if same and table.role(user) is KernelRole.POINTWISE else None


def _feeders(graph: Graph, value: Value, result: Value, taken: set[int], chosen: list[Node]) -> list[Node]:
    """Pointwise nodes that compute `value` for this group alone, in the shape of `result`."""
    node = value.producer
    if (node is None or id(node) in taken or node in chosen or table.role(node) is not KernelRole.POINTWISE
            or _absorbing_user(graph, value) is None or value.type.shape != result.type.shape):
        return []
    found = [n for v in node.input_values for n in _feeders(graph, v, result, taken, chosen)]
    return [*found, node]
