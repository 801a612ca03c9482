"""Concatenations and splits that compute nothing: their parts lie inside the whole, where producers write them.

Fires when: (1) a part is a contiguous range of the whole's bytes: nothing but single samples before the axis, and in a
blocked layout whole blocks before the part; (2) part and whole store the same numbers alike: one element type, one
grid; (3) the part can lie there: it is no graph input or output, no constant, nor elsewhere already, as a value that is
concatenated twice would be; (4) the largest set of values that live at once is not larger than without any view.
A part for which (2) to (4) fail is copied by an Identity kernel of its own, which also changes the grid; if all parts
are such, or (1) fails, the kernel stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from edgec.ir.graph import Graph, Node, Value
from edgec.plan.plan import Kernel, Layout, Slice, stored_dtype
from edgec.plan.storage import Storage

ALGORITHM = "in place"
_COPIED_RANKS = (3, 4)  # of blocked values that the kernel of pointwise chains can copy


def contiguous(kernel: Kernel, whole: Value, parts: Sequence[tuple[Value, int]], axis: int) -> tuple[Slice, ...] | None:
    """Condition (1): where each part lies in the whole, None if one of them is not in one piece.

    parts: each with its first index along `axis`.
    """
    values = [whole, *(part for part, _ in parts)]
    block = kernel.layout(whole).block
    if any(not v.type.is_static or not v.type.size or kernel.layout(v).block != block for v in values):
        return None
    if any(v.quant is not None and v.quant.axis is not None for v in values):
        return None
    if prod(whole.shape[:axis]) != 1 or (block and (axis != 1 or any(first % block for _, first in parts))):
        return None
    row = prod(whole.shape[axis + 1:]) * stored_dtype(whole).itemsize
    return tuple(Slice(part, whole, first * row) for part, first in parts)


def share(graph: Graph, kernels: Sequence[Kernel],
          offer: Callable[[Kernel], tuple[Slice, ...] | None]) -> list[Kernel]:
    """The kernels, some of them with `slices` in place of work, and the copies that they need before or after them.

    offer: what `contiguous` says of a kernel, None if it is no concatenation and no split. `graph` gains the Identity
    nodes; its inputs and outputs keep their names.
    """
    storage = Storage(graph, kernels)
    lifetimes = _lifetimes(kernels)
    peak = storage.peak(lifetimes)
    result: list[Kernel] = []
    for kernel in kernels:
        offered = None if kernel.is_view else offer(kernel)
        attempt = _attempt(kernel, offered, storage, lifetimes, peak) if offered else None
        if attempt is None:
            result.append(kernel)
            continue
        storage, kept = attempt
        result += _rewritten(graph, kernel, offered or (), kept, storage)
    return result


def _attempt(kernel: Kernel, offered: tuple[Slice, ...], storage: Storage, lifetimes: dict[int, tuple[int, int]],
             peak: int) -> tuple[Storage, set[int]] | None:
    """The storage with as many slices as fit, and their indices; None if none does, or the rest cannot be copied.

    One part alone may make more live at once where all of them together make less: so all are tried first.
    """
    order = sorted(range(len(offered)), key=lambda i: -offered[i].part.type.size)
    tests: list[Callable[[Storage], bool]] = [lambda _: True, lambda s: s.peak(lifetimes) <= peak]
    for accept in tests:
        for indices in (order, order[::-1]):  # what comes first may shut out the others
            trial, kept = _joined(kernel, offered, indices, storage, accept)
            rest = [view for index, view in enumerate(offered) if index not in kept]
            if kept and trial.peak(lifetimes) <= peak and all(_can_copy(kernel, view, trial) for view in rest):
                return trial, kept
    return None


def _joined(kernel: Kernel, offered: tuple[Slice, ...], indices: Sequence[int], storage: Storage,
            accept: Callable[[Storage], bool]) -> tuple[Storage, set[int]]:
    """A storage with the slices joined that can be and that `accept` likes, and their indices."""
    trial, kept = storage.copy(), set()
    for value in kernel.outputs:
        trial.now_viewed(value)
    for index in indices:
        view, further = offered[index], trial.copy()
        alike = view.part.quant == view.whole.quant and stored_dtype(view.part) is stored_dtype(view.whole)
        if alike and view.part.const is None and further.join(view) and accept(further):
            trial = further
            kept.add(index)
    return trial, kept


def _can_copy(kernel: Kernel, view: Slice, storage: Storage) -> bool:
    """True if a copy of the part can lie in the whole beside what lies there."""
    block = kernel.layout(view.whole).block
    if block and (len(view.part.shape) not in _COPIED_RANKS or view.part.const is not None):
        return False
    copy = Value("copy", view.part.type)
    trial = storage.copy()
    trial.enter(copy, _nbytes(view, block), written=any(view.whole is v for v in kernel.outputs))
    return trial.join(replace(view, part=copy))


def _rewritten(graph: Graph, kernel: Kernel, offered: tuple[Slice, ...], kept: set[int],
               storage: Storage) -> list[Kernel]:
    """The kernel as a view, with a copy before it or after it for each part that cannot lie in the whole."""
    node = kernel.nodes[0]
    before, after, slices = [], [], []
    layout = kernel.layout(offered[0].whole)
    joins = node.outputs[0] is offered[0].whole  # a concatenation: the parts are inputs, in their order
    for index, view in enumerate(offered):
        if index in kept:
            slices.append(view)
            continue
        name = graph.unique_name(f"{view.part.name}_copy")
        copy = Value(name, view.part.type, quant=view.whole.quant)
        slices.append(replace(view, part=copy))
        if joins:
            before.append(_copy(graph, view.part, copy, node, layout))
            graph.set_input(node, index, copy)
        else:
            node.outputs = tuple(copy if v is view.part else v for v in node.outputs)
            copy.producer, view.part.producer = node, None
            following = graph.nodes.index(node) + 1
            after.append(_copy(graph, copy, view.part, graph.nodes[following] if following < len(graph.nodes) else None,
                               layout))
        storage.enter(copy, _nbytes(view, layout.block), written=joins)
        storage.join(slices[-1])
        if not joins:
            storage.enter(view.part, _nbytes(view, layout.block), written=True)
    inputs = list({id(v): v for v in node.input_values if v.const is None}.values())
    constants = list({id(v): v for v in node.input_values if v.const is not None}.values())
    copies = {id(view.part) for view in slices}
    outputs = [v for v in node.outputs if id(v) in copies or any(v is old for old in kernel.outputs)]
    layouts = {v.name: layout for v in (*inputs, *outputs) if layout.block}
    viewed = replace(kernel, inputs=inputs, constants=constants, outputs=outputs, layouts=layouts, algorithm=ALGORITHM,
                     slices=tuple(slices))
    return [*before, viewed, *after]


def _copy(graph: Graph, source: Value, result: Value, before: Node | None, layout: Layout) -> Kernel:
    node = graph.add(Node("Identity", [source], [result], name=graph.unique_name(result.name)), before)
    constant = source.const is not None
    layouts = {v.name: layout for v in (source, result) if layout.block}
    return Kernel(node.name, [node], None, [] if constant else [source], [source] if constant else [], [result],
                  layouts=layouts)


def _nbytes(view: Slice, block: int) -> int:
    """Bytes of the part as it is stored in the whole."""
    return prod(Layout(block).stored_shape(view.part.type)) * stored_dtype(view.whole).itemsize


def _lifetimes(kernels: Sequence[Kernel]) -> dict[int, tuple[int, int]]:
    """By id of the value, the first and the last kernel that computes with it."""
    spans: dict[int, tuple[int, int]] = {}
    for moment, kernel in enumerate(kernels):
        for value in (*kernel.inputs, *kernel.outputs):
            spans[id(value)] = spans.get(id(value), (moment, moment))[0], moment
    return spans
