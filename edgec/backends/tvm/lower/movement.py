"""Lowerings of ops that move elements without arithmetic."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from tvm import te, tirx

from edgec.backends.tvm.lower.elementwise import unary
from edgec.backends.tvm.lower.rule import (
    Inputs,
    Lowering,
    Reason,
    Tensors,
    constant_inputs,
    extents,
    first_of,
    integers,
)
from edgec.backends.tvm.lower.shapes import Expr, at, constant, dtype_of, pad, reshape, select
from edgec.ir.graph import Node


def _view(node: Node, tensors: Inputs) -> Tensors:
    return [reshape(tensors[0], node.outputs[0].shape, node.op.lower())]


def _transpose(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    rank = len(x.shape)
    perm = integers(node, "perm") or list(range(rank))[::-1]
    back = [perm.index(d) for d in range(rank)]
    return [te.compute(node.outputs[0].shape, lambda *i: x(*[i[b] for b in back]), "transpose")]


def _concat(node: Node, tensors: Inputs) -> Tensors:
    parts = [t for t in tensors if 0 not in extents(t)] or tensors[:1]
    axis = node.integer("axis", 0) % len(parts[0].shape)
    starts = np.cumsum([0, *(extents(t)[axis] for t in parts)]).tolist()

    def element(*index: Expr) -> Expr:
        def read(k: int) -> Expr:
            return parts[k](*index[:axis], index[axis] - starts[k], *index[axis + 1:])

        result = read(len(parts) - 1)
        for k in reversed(range(len(parts) - 1)):
            result = tirx.if_then_else(index[axis] < starts[k + 1], read(k), result)
        return result

    return [te.compute(node.outputs[0].shape, element, "concat")]


def _split(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    axis = node.integer("axis", 0) % len(x.shape)
    starts = np.cumsum([0, *(o.shape[axis] for o in node.outputs)]).tolist()

    def part(start: int, shape: tuple[int, ...]) -> te.Tensor:
        return te.compute(shape, lambda *i: x(*i[:axis], i[axis] + start, *i[axis + 1:]), "split")

    return [part(start, o.shape) for (start, _end), o in zip(pairwise(starts), node.outputs, strict=True)]


def _slice(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    shape = extents(x)
    starts, ends = node.parameter(1) or [], node.parameter(2) or []
    axes = node.parameter(3) or list(range(len(starts)))
    steps = node.parameter(4) or [1] * len(starts)
    first, stride = [0] * len(shape), [1] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(shape)
        first[axis], _, stride[axis] = slice(start, end, step).indices(shape[axis])
    if 0 in node.outputs[0].shape:
        return [te.compute(node.outputs[0].shape, lambda *i: constant(0, dtype_of(x)), "slice")]

    def element(*index: Expr) -> Expr:
        return x(*[k * s + f for k, s, f in zip(index, stride, first, strict=True)])

    return [te.compute(node.outputs[0].shape, element, "slice")]


def _pad_source(mode: str, i: Expr, before: int, extent: int, total: int) -> Expr:
    """The index in an axis of length `extent` that position `i` of the padded axis of length `total` shows."""
    position = i - before
    if before <= 0 and total - before <= extent:
        return position
    if mode == "edge":
        return tirx.min(tirx.max(position, 0), extent - 1)
    if mode == "wrap":
        return tirx.floormod(position, extent)
    if extent == 1:
        return tirx.const(0, "int32")
    period = 2 * (extent - 1)
    folded = tirx.floormod(position, period)
    return tirx.min(folded, period - folded)


def _pad(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    shape = extents(x)
    pads = node.parameter(1) or []
    axes = node.parameter(3)
    axes = list(range(len(shape))) if axes is None else [a % len(shape) for a in axes]
    before, after = [0] * len(shape), [0] * len(shape)
    for k, axis in enumerate(axes):
        before[axis], after[axis] = pads[k], pads[k + len(axes)]
    mode = node.text("mode", "constant")
    out = node.outputs[0].shape
    if mode == "constant":
        filler = node.input(2)
        if any(b < 0 for b in before) or any(a < 0 for a in after) or (filler is not None and filler.const is None):
            return [_pad_constant(x, before, out, tensors[2] if len(tensors) > 2 else None)]
        value = 0 if filler is None or filler.const is None else filler.const.reshape(-1)[0]
        padded = pad(x, before, after, value)
        return [padded if padded is not x else te.compute(out, lambda *i: x(*i), "pad")]
    return [te.compute(out, lambda *i: x(*[_pad_source(mode, k, b, d, t) for k, b, d, t in
                                           zip(i, before, shape, out, strict=True)]), "pad")]


def _pad_constant(x: te.Tensor, before: list[int], out: tuple[int, ...], filler: te.Tensor | None) -> te.Tensor:
    shape = extents(x)

    def element(*index: Expr) -> Expr:
        source = [i - b for i, b in zip(index, before, strict=True)]
        inside = [tirx.all(s >= 0, s < d) for s, d in zip(source, shape, strict=True)]
        value = constant(0, dtype_of(x)) if filler is None else filler(*[0] * len(filler.shape))
        return tirx.if_then_else(tirx.all(*inside), x(*source), value) if inside else x()

    return te.compute(out, element, "pad")


def _center_crop_pad(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    shape, out = extents(x), node.outputs[0].shape
    # cropping starts at the half of the surplus, rounded down; padding likewise puts the smaller half first
    before = [(o - d) // 2 if o >= d else -((d - o) // 2) for o, d in zip(out, shape, strict=True)]
    return [_pad_constant(x, before, out, None)]


def _expand(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    return [te.compute(node.outputs[0].shape, lambda *i: at(x, i), "expand")]


def _tile(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    shape = extents(x)
    return [te.compute(node.outputs[0].shape, lambda *i: x(*[tirx.indexmod(k, d) if d > 1 else 0 for k, d in
                                                             zip(i, shape, strict=True)]), "tile")]


def _depth_to_space(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    block = node.integer("blocksize", 1)
    depth = node.outputs[0].shape[1]

    def element(n: Expr, c: Expr, h: Expr, w: Expr) -> Expr:
        inner = tirx.indexmod(h, block) * block + tirx.indexmod(w, block)
        channel = inner * depth + c if node.text("mode", "DCR") == "DCR" else c * (block * block) + inner
        return x(n, channel, tirx.indexdiv(h, block), tirx.indexdiv(w, block))

    return [te.compute(node.outputs[0].shape, element, "depth_to_space")]


def _space_to_depth(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    block = node.integer("blocksize", 1)
    depth = extents(x)[1]

    def element(n: Expr, c: Expr, h: Expr, w: Expr) -> Expr:
        blocks = block * block
        dcr = node.text("mode", "DCR") == "DCR"
        inner = tirx.indexdiv(c, depth) if dcr else tirx.indexmod(c, blocks)
        channel = tirx.indexmod(c, depth) if dcr else tirx.indexdiv(c, blocks)
        return x(n, channel, h * block + tirx.indexdiv(inner, block), w * block + tirx.indexmod(inner, block))

    return [te.compute(node.outputs[0].shape, element, "space_to_depth")]


def _trilu(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    k = (node.parameter(1) or [0])[0]
    k = max(min(k, 1 << 30), -(1 << 30))
    upper = node.integer("upper", 1)

    def element(*index: Expr) -> Expr:
        distance = index[-1] - index[-2]
        return select(distance >= k if upper else distance <= k, x(*index), constant(0, dtype_of(x)))

    return [te.compute(node.outputs[0].shape, element, "trilu")]


def _reverse_sequence(node: Node, tensors: Inputs) -> Tensors:
    x, lengths = tensors
    batch, time = node.integer("batch_axis", 1), node.integer("time_axis", 0)

    def element(*index: Expr) -> Expr:
        length = lengths(index[batch]).astype("int32")
        position = select(index[time] < length, length - 1 - index[time], index[time])
        source = list(index)
        source[time] = tirx.max(tirx.min(position, extents(x)[time] - 1), 0)
        return x(*source)

    return [te.compute(node.outputs[0].shape, element, "reverse_sequence")]


def _dropout(node: Node, tensors: Inputs) -> Tensors:
    x = tensors[0]
    result = [te.compute(x.shape, lambda *i: x(*i), "dropout")]
    if len(node.outputs) > 1:
        result.append(te.compute(x.shape, lambda *i: constant(True, "bool"), "mask"))
    return result


def _refuse_training(node: Node) -> Reason | None:
    training = node.input(2)
    if training is None or (training.const is not None and not training.const.any()):
        return None
    ratio = node.input(1)
    if training.const is not None and ratio is not None and ratio.const is not None and float(ratio.const) == 0.0:
        return None
    return "tvm.training", "Dropout in training mode draws random numbers"


def _refuse_rank(rank: int):  # type: ignore[no-untyped-def]
    def refuse(node: Node) -> Reason | None:
        value = node.inputs[0]
        if value is not None and len(value.shape) != rank:
            return "tvm.rank", f"{node.op} has an input of rank {len(value.shape)}, not {rank}"
        return None

    return refuse


LOWERINGS: dict[str, Lowering] = {
    "Identity": unary(lambda x: x),
    "Reshape": Lowering(_view),
    "Flatten": Lowering(_view),
    "Squeeze": Lowering(_view),
    "Unsqueeze": Lowering(_view),
    "Transpose": Lowering(_transpose),
    "Concat": Lowering(_concat),
    "Split": Lowering(_split),
    "Slice": Lowering(_slice, constant_inputs(1, 2, 3, 4)),
    "Pad": Lowering(_pad, constant_inputs(1, 3)),
    "CenterCropPad": Lowering(_center_crop_pad),
    "Expand": Lowering(_expand),
    "Tile": Lowering(_tile),
    "DepthToSpace": Lowering(_depth_to_space, _refuse_rank(4)),
    "SpaceToDepth": Lowering(_space_to_depth, _refuse_rank(4)),
    "Trilu": Lowering(_trilu, constant_inputs(1)),
    "ReverseSequence": Lowering(_reverse_sequence),
    "Dropout": Lowering(_dropout, first_of(_refuse_training)),
}
