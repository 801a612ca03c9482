"""Which indices along the axes of a node's inputs and outputs belong together: what pruning must remove at once.

A `Coupling` is two functions. `relate` tells `Links` what holds for a node: an axis is tied to another index by index,
some indices are tied, an axis is fixed (nothing of it may go, with the reason), or one axis is folded from several
(a reshape). `resize` gives the attributes and parameter inputs of the node after indices were removed.
Compress/prune draws the conclusions. An axis of one index is never pruned, so it needs no rule.
Source: the idea of dependency groups is that of DepGraph, Fang et al. 2023, arXiv:2301.12900.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgec.ir.graph import Attr, Node, Value


class Links(Protocol):
    """Receives what holds for a node. Axes may be negative. Values without that axis are an error."""

    def tie(self, a: Value, axis_a: int, b: Value, axis_b: int) -> None:
        """Index i of one axis and index i of the other are one; both have the same extent."""

    def tie_indices(self, a: Value, axis_a: int, indices_a: np.ndarray, b: Value, axis_b: int,
                    indices_b: np.ndarray) -> None:
        """`indices_a[i]` and `indices_b[i]` are one."""

    def fix(self, value: Value, axis: int, reason: str) -> None:
        """Nothing may be removed from the axis."""

    def fold(self, flat: Value, axis: int, value: Value, axes: Sequence[int]) -> None:
        """`axis` of `flat` counts the indices of `axes` of `value` in row-major order."""


@dataclass(frozen=True)
class Resized:
    """What changes in a node: attributes by name (None: it goes), constant inputs by index."""

    attributes: Mapping[str, Attr | None] = field(default_factory=dict)
    parameters: Mapping[int, np.ndarray] = field(default_factory=dict)


Kept = Callable[[Value, int], np.ndarray]  # (value, axis) -> indices that stay, ascending
Relate = Callable[[Node, Links], None]
Resize = Callable[[Node, Kept], Resized]


def _unchanged(_node: Node, _kept: Kept) -> Resized:
    return Resized()


@dataclass(frozen=True)
class Coupling:
    """relate: what belongs together. resize: the node's parameters after a removal."""

    relate: Relate
    resize: Resize = _unchanged


# -- by axis ----------------------------------------------------------------------------------------------------------


def _fix_all(node: Node, links: Links, reason: str) -> None:
    for value in (*node.input_values, *node.outputs):
        for axis in range(value.type.rank):
            links.fix(value, axis, reason)


def unknown(node: Node, links: Links) -> None:
    """Fix every axis: what cannot be told is not pruned."""
    _fix_all(node, links, f"what {node.op} does to its channels is not known")


def _pairs(a: Value, b: Value, links: Links, leave: Sequence[int] = (), reason: str = "") -> None:
    """Tie all axes of two values of one rank, except `leave`, which are fixed."""
    for axis in range(a.type.rank):
        if axis in leave or a.shape[axis] != b.shape[axis]:
            links.fix(a, axis, reason)
            links.fix(b, axis, reason)
        else:
            links.tie(a, axis, b, axis)


def aligned(value: Value, result: Value, links: Links) -> None:
    """Tie the axes of a value that is broadcast to `result` (ONNX: aligned at the last axis)."""
    for axis in range(-value.type.rank, 0):
        if value.shape[axis] == result.shape[axis]:
            links.tie(value, axis, result, axis)


def _same(node: Node, links: Links) -> None:
    for value in node.input_values:
        aligned(value, node.outputs[0], links)
    for value in node.outputs[1:]:
        aligned(value, node.outputs[0], links)


def _spatial(value: Value) -> range:
    return range(2, value.type.rank)


def _window(node: Node, links: Links) -> None:
    for value in node.outputs:
        _pairs(node.operand(0), value, links, _spatial(value), f"{node.op} slides over it")


def _resampled(node: Node, links: Links) -> None:
    data, result = node.operand(0), node.outputs[0]
    changed = [a for a in range(data.type.rank) if data.shape[a] != result.shape[a]]
    _pairs(data, result, links, changed, f"{node.op} changes its extent")


def _resampled_size(node: Node, _kept: Kept) -> Resized:
    size, axes = node.input(3), node.integers("axes", range(node.outputs[0].type.rank))
    if size is None or size.const is None or not size.const.size:
        return Resized()
    return Resized(parameters={3: np.array([len(_kept(node.outputs[0], a)) for a in axes], size.const.dtype)})


def _pads(node: Node) -> dict[int, tuple[int, int]] | None:
    """Axis -> (before, after) of a Pad; None if they are computed."""
    rank, pads = node.operand(0).type.rank, node.parameter(1)
    if pads is None or (node.input(3) is not None and node.parameter(3) is None):
        return None
    axes = node.parameter(3) or list(range(rank))
    return {axis % rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}


def _padded(node: Node, links: Links) -> None:
    """New indices stand before and after those of the data; a reflection of channels is not followed."""
    data, result, pads = node.operand(0), node.outputs[0], _pads(node)
    if pads is None:
        return unknown(node, links)
    constant = node.text("mode", "constant") == "constant"
    cut = [a for a, pair in pads.items() if min(pair) < 0 or (max(pair) > 0 and not constant)]
    grown = [a for a, pair in pads.items() if a not in cut and max(pair) > 0]
    for axis in range(data.type.rank):
        if axis in cut:
            links.fix(data, axis, f"{node.op} cuts or mirrors it")
            links.fix(result, axis, f"{node.op} cuts or mirrors it")
        elif axis in grown:
            index = np.arange(data.shape[axis])
            links.tie_indices(data, axis, index, result, axis, pads[axis][0] + index)
        else:
            links.tie(data, axis, result, axis)
    return None


def _padded_size(node: Node, kept: Kept) -> Resized:
    pads = _pads(node) or {}
    before, after = [], []
    for axis, (first, last) in pads.items():
        indices, end = kept(node.outputs[0], axis), node.outputs[0].shape[axis] - last
        before.append(int((indices < first).sum()) if first > 0 else first)
        after.append(int((indices >= end).sum()) if last > 0 else last)
    return Resized(parameters={1: np.array([*before, *after], np.int64)})


def _per_channel(node: Node, links: Links) -> None:
    _pairs(node.operand(0), node.outputs[0], links)
    for value in node.inputs[1:]:
        if value is not None and value.type.rank == 1:
            links.tie(value, 0, node.outputs[0], 1)


def _instance(node: Node, links: Links) -> None:
    _per_channel(node, links)
    for axis in _spatial(node.outputs[0]):
        links.fix(node.outputs[0], axis, f"{node.op} takes statistics over it")


def _grouped_norm(node: Node, links: Links) -> None:
    _instance(node, links)
    result = node.outputs[0]
    channels = np.arange(result.shape[1])
    size = result.shape[1] // node.integer("num_groups", 1)
    links.tie_indices(result, 1, channels, result, 1, channels // size * size)


def _grouped_norm_size(node: Node, kept: Kept) -> Resized:
    groups = node.integer("num_groups", 1)
    size = node.outputs[0].shape[1] // groups
    return Resized({"num_groups": len(kept(node.outputs[0], 1)) // size})


def _normalized_axes(node: Node) -> range:
    rank = node.operand(0).type.rank
    return range(node.integer("axis", -1) % rank, rank)


def _layer_norm(node: Node, links: Links) -> None:
    data = node.operand(0)
    _pairs(data, node.outputs[0], links, _normalized_axes(node), f"{node.op} takes statistics over it")
    for value in node.inputs[1:]:
        if value is not None:
            aligned(value, data, links)
    for value in node.outputs[1:]:
        for axis in range(value.type.rank):
            links.fix(value, axis, f"{node.op} keeps statistics")


def _reduced_axes(node: Node) -> list[int] | None:
    """The axes of a reduction, from its second input or its attribute; None if they are computed."""
    rank = node.operand(0).type.rank
    if node.input(1) is not None and node.parameter(1) is None:
        return None
    axes = node.parameter(1)
    if axes is None:
        axes = list(node.integers("axes")) if "axes" in node.attributes else []
    if not axes and node.integer("noop_with_empty_axes", 0):
        return []
    return sorted(a % rank for a in axes) if axes else list(range(rank))


def _reduce(node: Node, links: Links) -> None:
    _drop(node, links, _reduced_axes(node))


def _search(node: Node, links: Links) -> None:
    _drop(node, links, [node.integer("axis", 0) % node.operand(0).type.rank])


def _drop(node: Node, links: Links, axes: Sequence[int] | None) -> None:
    data, result = node.operand(0), node.outputs[0]
    if axes is None:
        return unknown(node, links)
    keep = node.integer("keepdims", 1)
    left = [a for a in range(data.type.rank) if keep or a not in axes]
    for axis in axes:
        links.fix(data, axis, f"{node.op} reduces over it")
    for position, axis in enumerate(left):
        if axis not in axes:
            links.tie(data, axis, result, position)
    return None


def along(default: int) -> Coupling:
    """Ops that mix the numbers along one axis (Softmax): that axis is fixed, the others are tied."""
    def relate(node: Node, links: Links) -> None:
        axis = node.integer("axis", default) % node.operand(0).type.rank
        _pairs(node.operand(0), node.outputs[0], links, [axis], f"{node.op} mixes all of it")

    return Coupling(relate)


def _triangle(node: Node, links: Links) -> None:
    data = node.operand(0)
    last = (data.type.rank - 2, data.type.rank - 1)
    _pairs(data, node.outputs[0], links, last, f"{node.op} cuts a triangle out of it")


# -- products ---------------------------------------------------------------------------------------------------------


def _conv(node: Node, links: Links) -> None:
    """X [N, C, ...], w [K, C/g, ...], y [N, K, ...]; ConvTranspose has w [C, K/g, ...]."""
    data, weight, result = node.operand(0), node.operand(1), node.outputs[0]
    groups = node.integer("group", 1)
    rows, columns = (data, result) if node.op == "ConvTranspose" else (result, data)  # of the weight
    links.tie(weight, 0, rows, 1)
    if groups == 1:
        links.tie(weight, 1, columns, 1)
    else:
        _tie_groups(links, groups, weight, rows, columns)
    if node.input(2) is not None:
        links.tie(node.operand(2), 0, result, 1)
    links.tie(data, 0, result, 0)
    for value in (data, weight, result):
        for axis in _spatial(value):
            links.fix(value, axis, f"{node.op} slides over it")


def _tie_groups(links: Links, groups: int, weight: Value, rows: Value, columns: Value) -> None:
    """All groups stay equally large. Many small groups go as a whole; few large ones lose the same columns each."""
    many, wide = rows.shape[1], columns.shape[1]
    row, column = np.arange(many), np.arange(wide)
    size = wide // groups
    if groups >= size:
        first = column // size * size
        links.tie_indices(columns, 1, column, columns, 1, first)
        links.tie_indices(rows, 1, row, columns, 1, row // (many // groups) * size)
        links.fix(weight, 1, "groups go as a whole")
    else:
        links.tie_indices(columns, 1, column, weight, 1, column % size)
        links.tie_indices(rows, 1, row, rows, 1, row % (many // groups))


def _conv_groups(node: Node, kept: Kept) -> Resized:
    if node.integer("group", 1) == 1:
        return Resized()
    whole = node.outputs[0] if node.op == "ConvTranspose" else node.operand(0)
    return Resized({"group": len(kept(whole, 1)) // len(kept(node.operand(1), 1))})


def _gemm(node: Node, links: Links) -> None:
    a, b, result = node.operand(0), node.operand(1), node.outputs[0]
    flip_a, flip_b = node.integer("transA", 0), node.integer("transB", 0)
    links.tie(a, 0 if flip_a else 1, b, 1 if flip_b else 0)
    links.tie(a, 1 if flip_a else 0, result, 0)
    links.tie(b, 0 if flip_b else 1, result, 1)
    if node.input(2) is not None:
        aligned(node.operand(2), result, links)


def _matmul(node: Node, links: Links) -> None:
    a, b, result = node.operand(0), node.operand(1), node.outputs[0]
    links.tie(a, -1, b, -2 if b.type.rank > 1 else -1)
    if a.type.rank > 1:
        links.tie(a, -2, result, -2 if b.type.rank > 1 else -1)
    if b.type.rank > 1:
        links.tie(b, -1, result, -1)
    for value in (a, b):
        for axis in range(-value.type.rank, -2):
            if value.shape[axis] == result.shape[axis]:
                links.tie(value, axis, result, axis)


def _recurrent(node: Node, links: Links) -> None:
    """X [.., I]; W [D, gates * H, I]; R [D, gates * H, H]; B [D, 2 * gates * H]; H is last elsewhere."""
    weight, recurrence = node.operand(1), node.operand(2)
    hidden = recurrence.shape[2]
    links.tie(node.operand(0), 2, weight, 2)

    def gates(value: Value, axis: int) -> None:
        index = np.arange(value.shape[axis])
        links.tie_indices(value, axis, index, recurrence, 2, index % hidden)

    gates(weight, 1)
    gates(recurrence, 1)
    for index in (3, 7):  # the bias; the peepholes
        if node.input(index) is not None:
            gates(node.operand(index), 1)
    for value in (*node.outputs, *(v for v in (node.input(5), node.input(6)) if v is not None)):
        links.tie(value, -1, recurrence, 2)
        for axis in range(value.type.rank - 1):
            links.fix(value, axis, f"{node.op} steps over it")
    for axis in (0, 1):
        links.fix(node.operand(0), axis, f"{node.op} steps over it")


def _hidden_size(node: Node, kept: Kept) -> Resized:
    return Resized({"hidden_size": len(kept(node.operand(2), 2))})


def _attention(node: Node, links: Links) -> None:
    """Heads (axis 1 of [N, heads, L, D]) go together; several query heads may share one head of keys and values."""
    query, key, value, result = node.operand(0), node.operand(1), node.operand(2), node.outputs[0]
    if query.type.rank != 4 or len(node.input_values) > 3 or len(node.outputs) > 1:
        return unknown(node, links)
    share = np.arange(query.shape[1]) // (query.shape[1] // key.shape[1])
    _pairs(query, result, links, (2, 3), f"{node.op} mixes all of it")
    _pairs(key, value, links, (2, 3), f"{node.op} mixes all of it")
    links.tie_indices(query, 1, np.arange(query.shape[1]), key, 1, share)
    return None


UNKNOWN = Coupling(unknown)
SAME = Coupling(_same)
WINDOW = Coupling(_window)
RESAMPLED = Coupling(_resampled, _resampled_size)
PADDED = Coupling(_padded, _padded_size)
PER_CHANNEL = Coupling(_per_channel)
INSTANCE = Coupling(_instance)
GROUPED_NORM = Coupling(_grouped_norm, _grouped_norm_size)
LAYER_NORM = Coupling(_layer_norm)
REDUCE = Coupling(_reduce)
SEARCH = Coupling(_search)
CONV = Coupling(_conv, _conv_groups)
GEMM = Coupling(_gemm)
MATMUL = Coupling(_matmul)
RECURRENT = Coupling(_recurrent, _hidden_size)
ATTENTION = Coupling(_attention)
TRIANGLE = Coupling(_triangle)
