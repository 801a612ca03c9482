"""Group nodes into kernels: an anchor with everything that can be computed while its result is still in registers."""

from __future__ import annotations

import heapq

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import why_not_absorbed
from edgec.ops import KernelRole, table
from edgec.plan.plan import Kernel

_SEEDS = (KernelRole.ANCHOR, KernelRole.POINTWISE)


def group(graph: Graph) -> list[Kernel]:
    """Kernels in topological order that cover every node once.

    A kernel starts at an anchor (Conv, Gemm, pooling) or a pointwise node and takes in the next node while
    (1) its last value has one use, is no graph output, and lies on no integer grid of its own (`ir.rewrite`);
    (2) that use is a pointwise node; (3) that node's output has the shape of the last value, so that every element is
    computed where it lies. Pointwise nodes that feed only such a node, with its shape, are taken in as well.
    Every other node is a kernel of its own; a VIEW becomes an alias of its input.
    Inner values have one use each, so no kernel can wait for its own result: the order stays topological.
    """
    taken: set[int] = set()
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    kernels: list[Kernel] = []
    for role in _SEEDS:  # anchors first: a pointwise node belongs to an anchor before it starts a chain of its own
        for node in graph.nodes:
            if id(node) not in taken and table.role(node) is role:
                nodes = sorted(_grow(graph, node, taken), key=lambda n: position[id(n)])
                taken.update(id(n) for n in nodes)
                kernels.append(_kernel(graph, nodes, node if role is KernelRole.ANCHOR else None))
    for node in graph.nodes:
        if id(node) not in taken:
            kernels.append(_kernel(graph, [node], None))
    kernels.sort(key=lambda k: position[id(k.nodes[-1])])
    return order(kernels)


def split(graph: Graph, kernel: Kernel) -> list[Kernel]:
    """One kernel for each node of `kernel`, for a backend that can run only some of them."""
    return [_kernel(graph, [n], n if table.role(n) is KernelRole.ANCHOR else None) for n in kernel.nodes]


def _grow(graph: Graph, seed: Node, taken: set[int]) -> list[Node]:
    chosen = [seed]
    last = seed
    while (user := _absorbing_user(graph, last.outputs[0])) is not None and id(user) not in taken:
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
    """Pointwise nodes that compute `value` for this kernel alone, in the shape of `result`."""
    node = value.producer
    if (node is None or id(node) in taken or node in chosen or table.role(node) is not KernelRole.POINTWISE
            or _absorbing_user(graph, value) is None or value.type.shape != result.type.shape):
        return []
    found = [n for v in node.input_values for n in _feeders(graph, v, result, taken, chosen)]
    return [*found, node]


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
    alias = len(nodes) == 1 and table.role(nodes[0]) is KernelRole.VIEW
    return Kernel(nodes[-1].name, nodes, anchor, list(inputs.values()), list(constants.values()), outputs,
                  algorithm="alias" if alias else "generic")


def order(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels in topological order, otherwise as they are."""
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
    return result
