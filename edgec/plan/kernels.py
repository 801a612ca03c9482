"""Kernels: groups of nodes that run as one, with what they read, hold and write."""

from __future__ import annotations

import heapq

from edgec.errors import InternalError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.grouping import groups
from edgec.ops import KernelRole, table
from edgec.plan.plan import Kernel


def group(graph: Graph) -> list[Kernel]:
    """Kernels in topological order that cover every node once: the groups of `ir.grouping`; a VIEW is an alias.

    Inner values have one use each, so no kernel can wait for its own result: the order stays topological.
    """
    return order([_kernel(graph, list(g.nodes), g.anchor) for g in groups(graph)])


def split(graph: Graph, kernel: Kernel) -> list[Kernel]:
    """One kernel for each node of `kernel`, for a backend that can run only some of them."""
    return [_kernel(graph, [n], n if table.role(n) is KernelRole.ANCHOR else None) for n in kernel.nodes]


def _kernel(graph: Graph, nodes: list[Node], anchor: Node | None) -> Kernel:
    inside = {id(v) for n in nodes for v in n.outputs}
    members = {id(n) for n in nodes}
    inputs: dict[int, Value] = {}
    constants: dict[int, Value] = {}
    for value in (v for n in nodes for v in n.input_values):
        if value.const is not None:
            constants[id(value)] = value
        elif id(value) not in inside:
            inputs[id(value)] = value
    outputs = [v for n in nodes for v in n.outputs
               if graph.is_output(v) or any(id(user) not in members for user, _ in v.uses)]
    alias = len(nodes) == 1 and _is_view(nodes[0])
    return Kernel(nodes[-1].name, nodes, anchor, list(inputs.values()), list(constants.values()), outputs,
                  algorithm="alias" if alias else "generic")


def _is_view(node: Node) -> bool:
    """True if the output is the input's memory: the same elements, on one grid that has no axis to follow."""
    if table.role(node) is not KernelRole.VIEW:
        return False
    quant = node.operand(0).quant
    return quant == node.outputs[0].quant and (quant is None or quant.axis is None)


def order(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels in topological order, otherwise as they are. Raises InternalError if there is none."""
    writer = {id(v): i for i, k in enumerate(kernels) for v in k.outputs}
    waits = [{writer[id(v)] for v in k.inputs if id(v) in writer} for k in kernels]
    followers: list[list[int]] = [[] for _ in kernels]
    for index, needed in enumerate(waits):
        for other in needed:
            followers[other].append(index)
    ready = [i for i, needed in enumerate(waits) if not needed]
    heapq.heapify(ready)
    result: list[Kernel] = []
    while ready:
        index = heapq.heappop(ready)
        result.append(kernels[index])
        for other in followers[index]:
            waits[other].discard(index)
            if not waits[other]:
                heapq.heappush(ready, other)
    if len(result) < len(kernels):
        left = [kernels[index].name for index, needed in enumerate(waits) if needed]
        raise InternalError("kernels wait for each other: " + ", ".join(left))
    return result
