"""Layout assignment: which values are stored with blocked channels, and where conversions stand between kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from edgec.ir.graph import Graph, Node, Value
from edgec.plan.plan import PLAIN, Kernel, Layout


@dataclass(frozen=True)
class Demand:
    """The layouts in which a kernel can work. block: the blocked layout that it knows.

    fixed: block by name of value. shared: values that must all be plain or all be blocked. either: values that may come
    in either layout, each for itself. A value that is not mentioned is plain.
    """

    block: int = 0
    fixed: Mapping[str, int] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    either: frozenset[str] = frozenset()


def assign(graph: Graph, kernels: list[Kernel], demand: Callable[[Kernel], Demand]) -> list[Kernel]:
    """The kernels with their layouts, and with conversions (algorithm `relayout`, one Identity node) between them.

    `graph` gains the Identity nodes; its inputs and outputs keep their names and stay plain. Rules, kernel by kernel
    in topological order:
    (1) a fixed value has the layout that the kernel demands;
    (2) shared values are blocked if at least half of the bytes among its inputs are stored so already, else plain;
    (3) a value that may come in either layout is read as it is stored, blocked if there is a blocked copy;
    (4) a value is stored as its producer writes it; a graph input is plain;
    (5) a reader that needs another layout reads a converted copy, which all readers with that need share;
    (6) a graph output whose producer writes it blocked is written by a conversion.
    A value with one position and whole blocks ([N, C, 1, 1], C a multiple of the block) lies alike in both layouts: a
    conversion of it is an alias.
    """
    stored: dict[str, int] = {}
    copies: dict[tuple[str, int], Value] = {}
    outputs = {id(v) for v in graph.outputs}
    result: list[Kernel] = []
    for kernel in kernels:
        layouts = _choose(kernel, demand(kernel), stored, copies)
        for value in kernel.inputs:
            wanted = layouts.get(value.name, 0)
            if stored.get(value.name, 0) != wanted and (value.name, wanted) not in copies:
                name = graph.unique_name(f"{value.name}_{'blocked' if wanted else 'plain'}")
                copy = Value(name, value.type, quant=value.quant)
                result.append(_conversion(graph, value, copy, stored.get(value.name, 0), wanted, kernel.nodes[0]))
                copies[value.name, wanted] = copy
        swaps = {v.name: copies[v.name, layouts.get(v.name, 0)] for v in kernel.inputs
                 if stored.get(v.name, 0) != layouts.get(v.name, 0)}
        kernel = _reading(graph, kernel, layouts, swaps)
        late: list[Kernel] = []
        for value in list(kernel.outputs):
            block = layouts.get(value.name, 0)
            if block and id(value) in outputs:
                inner = Value(graph.unique_name(f"{value.name}_blocked"), value.type, quant=value.quant)
                kernel = _writing(kernel, value, inner)
                late.append(_conversion(graph, inner, value, block, 0, None))
                copies[value.name, block] = inner
                block = 0
            stored[value.name] = block
        result.extend([kernel, *late])
    return result


def _choose(kernel: Kernel, demand: Demand, stored: Mapping[str, int],
            copies: Mapping[tuple[str, int], Value]) -> dict[str, int]:
    """Block by name for the values of a kernel that are not plain."""
    def blocked(name: str) -> bool:
        return stored.get(name, 0) == demand.block or (name, demand.block) in copies

    layouts = {name: block for name, block in demand.fixed.items() if block}
    shared = [v for v in kernel.inputs if v.name in demand.shared]
    ready = sum(PLAIN.nbytes(v) for v in shared if blocked(v.name))
    if 2 * ready >= sum(PLAIN.nbytes(v) for v in shared) > 0:
        layouts.update(dict.fromkeys(demand.shared, demand.block))
    layouts.update({name: demand.block for name in demand.either if blocked(name)})
    return {name: block for name, block in layouts.items() if block}


def _conversion(graph: Graph, source: Value, copy: Value, old: int, new: int, before: Node | None) -> Kernel:
    node = Node("Identity", [source], [copy], name=copy.name)
    if before is None:
        producer = source.producer
        following = graph.nodes.index(producer) + 1 if producer is not None else 0
        before = graph.nodes[following] if following < len(graph.nodes) else None
    graph.add(node, before)
    layouts = {v.name: Layout(b) for v, b in ((source, old), (copy, new)) if b}
    whole = len(source.shape) > 2 and not any(b and source.shape[1] % b for b in (old, new))
    alike = whole and all(d == 1 for d in source.shape[2:])
    return Kernel(copy.name, [node], None, [source], [], [copy], "alias" if alike else "relayout", layouts)


def _reading(graph: Graph, kernel: Kernel, layouts: Mapping[str, int], swaps: Mapping[str, Value]) -> Kernel:
    """The kernel with its layouts, reading the converted copies."""
    for node in kernel.nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.const is None and value.name in swaps:
                graph.set_input(node, index, swaps[value.name])
    renamed = {(swaps[name].name if name in swaps else name): Layout(block) for name, block in layouts.items()}
    inputs = list({id(v): v for v in (swaps.get(v.name, v) for v in kernel.inputs)}.values())
    return replace(kernel, inputs=inputs, layouts=renamed)


def _writing(kernel: Kernel, value: Value, inner: Value) -> Kernel:
    """The kernel writing `inner` in place of `value`, a graph output that gets a producer of its own."""
    node = value.producer
    assert node is not None  # graph outputs are produced by nodes
    node.outputs = tuple(inner if v is value else v for v in node.outputs)
    inner.producer, value.producer = node, None
    layouts = {(inner.name if name == value.name else name): layout for name, layout in kernel.layouts.items()}
    return replace(kernel, outputs=[inner if v is value else v for v in kernel.outputs], layouts=layouts)


__all__ = ["PLAIN", "Demand", "Layout", "assign"]
