"""Couplings of ops that move elements without arithmetic: see ops/coupling.py."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgec.ir.graph import Node
from edgec.ops.coupling import Coupling, Kept, Links, Resized, aligned, unknown


def _transpose(node: Node, links: Links) -> None:
    rank = node.operand(0).type.rank
    for position, axis in enumerate(node.integers("perm", range(rank)[::-1])):
        links.tie(node.operand(0), axis, node.outputs[0], position)


def reshape_blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of both shapes that hold the same elements, as small as possible; axes of extent 1 are left out."""
    old = [i for i, d in enumerate(before) if d != 1]
    new = [i for i, d in enumerate(after) if d != 1]
    blocks: list[tuple[list[int], list[int]]] = []
    while old or new:
        left, right = [old.pop(0)], [new.pop(0)]
        while (a := prod(before[i] for i in left)) != (b := prod(after[i] for i in right)):
            if a < b:
                left.append(old.pop(0))
            else:
                right.append(new.pop(0))
        blocks.append((left, right))
    return blocks


def _view(node: Node, links: Links) -> None:
    data, result = node.operand(0), node.outputs[0]
    if 0 in data.shape:
        return unknown(node, links)
    for left, right in reshape_blocks(data.shape, result.shape):
        if len(left) == 1 and len(right) == 1:
            links.tie(data, left[0], result, right[0])
        elif len(left) == 1:
            links.fold(data, left[0], result, right)
        elif len(right) == 1:
            links.fold(result, right[0], data, left)
        else:
            for value, axes in ((data, left), (result, right)):
                for axis in axes:
                    links.fix(value, axis, f"{node.op} mixes {len(left)} axes into {len(right)}")
    return None


def _output_shape(node: Node, kept: Kept) -> Resized:
    """The shape as second input, such as that of Reshape and Expand."""
    result = node.outputs[0]
    return Resized(parameters={1: np.array([len(kept(result, a)) for a in range(result.type.rank)], np.int64)})


def _concat(node: Node, links: Links) -> None:
    result, offset = node.outputs[0], 0
    axis = node.integer("axis", 0) % result.type.rank
    for value in node.input_values:
        count = value.shape[axis]
        links.tie_indices(value, axis, np.arange(count), result, axis, np.arange(offset, offset + count))
        offset += count
        for other in range(result.type.rank):
            if other != axis:
                links.tie(value, other, result, other)


def _split(node: Node, links: Links) -> None:
    data, offset = node.operand(0), 0
    axis = node.integer("axis", 0) % data.type.rank
    for value in node.outputs:
        count = value.shape[axis]
        links.tie_indices(value, axis, np.arange(count), data, axis, np.arange(offset, offset + count))
        offset += count
        for other in range(data.type.rank):
            if other != axis:
                links.tie(value, other, data, other)


def _split_sizes(node: Node, kept: Kept) -> Resized:
    axis = node.integer("axis", 0) % node.operand(0).type.rank
    sizes = np.array([len(kept(v, axis)) for v in node.outputs], np.int64)
    return Resized({"num_outputs": None}, {1: sizes})


def _slices(node: Node) -> dict[int, tuple[int, int]] | None:
    """Axis -> (first index, step) of a Slice; None if its parameters are computed."""
    data = node.operand(0)
    starts, axes, steps = node.parameter(1), node.parameter(3), node.parameter(4)
    if starts is None or node.parameter(2) is None or any(
            node.input(i) is not None and node.parameter(i) is None for i in (3, 4)):
        return None
    axes = [a % data.type.rank for a in axes or range(len(starts))]
    steps = steps or [1] * len(starts)
    found = {}
    for start, axis, step in zip(starts, axes, steps, strict=True):
        extent = data.shape[axis]
        first = start + extent if start < 0 else start
        found[axis] = (min(max(first, 0), extent if step > 0 else extent - 1), step)
    return found


def _slice(node: Node, links: Links) -> None:
    data, result, ranges = node.operand(0), node.outputs[0], _slices(node)
    if ranges is None:
        return unknown(node, links)
    for axis in range(data.type.rank):
        first, step = ranges.get(axis, (0, 1))
        if step != 1:
            links.fix(data, axis, f"{node.op} takes every {step}th index")
            links.fix(result, axis, f"{node.op} takes every {step}th index")
        else:
            count = np.arange(result.shape[axis])
            links.tie_indices(result, axis, count, data, axis, first + count)
    return None


def _slice_bounds(node: Node, kept: Kept) -> Resized:
    data, result, ranges = node.operand(0), node.outputs[0], _slices(node)
    starts, ends = node.parameter(1), node.parameter(2)
    if ranges is None or starts is None or ends is None:
        return Resized()
    for i, (axis, (first, step)) in enumerate(ranges.items()):
        if step == 1:
            starts[i] = int(np.searchsorted(kept(data, axis), first))
            ends[i] = starts[i] + len(kept(result, axis))
    return Resized(parameters={1: np.array(starts, np.int64), 2: np.array(ends, np.int64)})


def _gather(node: Node, links: Links) -> None:
    """Whole slices of data [.., n, ..] at indices; the other axes come through."""
    data, indices, result = node.operand(0), node.operand(1), node.outputs[0]
    axis = node.integer("axis", 0) % data.type.rank
    links.fix(data, axis, f"{node.op} looks indices up in it")
    for other in range(data.type.rank):
        if other != axis:
            links.tie(data, other, result, other if other < axis else other + indices.type.rank - 1)
    for inner in range(indices.type.rank):
        links.tie(indices, inner, result, axis + inner)


def _expand(node: Node, links: Links) -> None:
    data, result = node.operand(0), node.outputs[0]
    aligned(data, result, links)
    for axis in range(-result.type.rank, 0):
        if axis < -data.type.rank or data.shape[axis] != result.shape[axis]:
            links.fix(result, axis, f"{node.op} repeats along it")


def _tile(node: Node, links: Links) -> None:
    data, result, repeats = node.operand(0), node.outputs[0], node.parameter(1)
    if repeats is None:
        return unknown(node, links)
    for axis, count in enumerate(repeats):
        if count == 1:
            links.tie(data, axis, result, axis)
        else:
            links.fix(data, axis, f"{node.op} repeats it")
            links.fix(result, axis, f"{node.op} repeats it")
    return None


def _blocks(node: Node, links: Links) -> None:
    """DepthToSpace [N, b*b*C, H, W] -> [N, C, H*b, W*b], and SpaceToDepth, its inverse."""
    narrow, deep = ((node.outputs[0], node.operand(0)) if node.op == "DepthToSpace" else
                    (node.operand(0), node.outputs[0]))
    channels, index = narrow.shape[1], np.arange(deep.shape[1])
    outer = node.op == "DepthToSpace" and node.text("mode", "DCR") == "CRD"
    per = len(index) // channels
    links.tie_indices(deep, 1, index, narrow, 1, index // per if outer else index % channels)
    links.tie(deep, 0, narrow, 0)
    for value in (narrow, deep):
        for axis in (2, 3):
            links.fix(value, axis, f"{node.op} moves between it and the channels")


TRANSPOSE = Coupling(_transpose)
VIEW = Coupling(_view)
RESHAPE = Coupling(_view, _output_shape)
CONCAT = Coupling(_concat)
SPLIT = Coupling(_split, _split_sizes)
SLICE = Coupling(_slice, _slice_bounds)
GATHER = Coupling(_gather)
TILE = Coupling(_tile)
EXPAND = Coupling(_expand, _output_shape)
BLOCKS = Coupling(_blocks)
