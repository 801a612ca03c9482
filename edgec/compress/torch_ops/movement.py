"""Ops that copy or move elements, on torch tensors. Source: the ONNX operators of the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors, constant_inputs
from edgec.ir.graph import Node


def _view(node: Node, x: Inputs) -> Tensors:
    return [x[0].reshape(node.outputs[0].shape)]


def _dropout(node: Node, x: Inputs) -> Tensors:
    return [x[0], torch.ones_like(x[0], dtype=torch.bool)][:len(node.outputs)]


def _refuse_dropout(node: Node) -> Reason | None:
    mode = node.parameter(2)
    if node.input(2) is not None and (mode is None or mode[0]):
        return "torch.training_mode", "Dropout in training mode is random"
    return None


def _transpose(node: Node, x: Inputs) -> Tensors:
    return [x[0].permute(node.integers("perm", tuple(reversed(range(x[0].ndim)))))]


def _depth_to_space(node: Node, x: Inputs) -> Tensors:
    n, c, h, w = x[0].shape
    s = node.integer("blocksize", 1)
    if node.text("mode", "DCR") == "DCR":
        blocks = x[0].reshape(n, s, s, c // s ** 2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x[0].reshape(n, c // s ** 2, s, s, h, w).permute(0, 1, 4, 2, 5, 3)
    return [blocks.reshape(n, c // s ** 2, h * s, w * s)]


def _space_to_depth(node: Node, x: Inputs) -> Tensors:
    n, c, h, w = x[0].shape
    s = node.integer("blocksize", 1)
    blocks = x[0].reshape(n, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)
    return [blocks.reshape(n, c * s ** 2, h // s, w // s)]


def take(x: Any, axis: int, places: np.ndarray) -> Any:
    """The slices of `x` along `axis` at the given places, all known beforehand."""
    index = torch.from_numpy(np.ascontiguousarray(places, dtype=np.int64)).to(x.device)
    return x.index_select(axis, index)


def _slice(node: Node, x: Inputs) -> Tensors:
    starts, ends = node.parameter(1) or [], node.parameter(2) or []
    axes, steps = node.parameter(3), node.parameter(4)
    result = x[0]
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[place] if axes is not None else place) % result.ndim
        step = steps[place] if steps is not None else 1
        extent = result.shape[axis]
        low, high = (0, extent) if step > 0 else (-1, extent - 1)
        first = min(max(start + extent if start < 0 else start, 0), extent if step > 0 else extent - 1)
        last = min(max(end + extent if end < 0 else end, low), high)
        if step > 0:
            result = result[(slice(None),) * axis + (slice(first, last, step),)]
        else:
            result = take(result, axis, np.arange(first, last, step))
    return [result]


def _split(node: Node, x: Inputs) -> Tensors:
    axis = node.integer("axis", 0)
    return list(torch.split(x[0], [v.shape[axis] for v in node.outputs], axis))


def _pad(node: Node, x: Inputs) -> Tensors:
    axes = node.parameter(3)
    given = node.parameter(1) or []
    pads = [(0, 0)] * x[0].ndim
    for place, axis in enumerate(axes if axes is not None else range(x[0].ndim)):
        pads[axis] = given[place], given[place + len(given) // 2]
    mode, fill = node.text("mode", "constant"), node.input(2)
    if mode == "constant":
        value = 0.0 if fill is None or fill.const is None else fill.const.reshape(-1)[0].item()
        return [functional.pad(x[0], [n for pair in reversed(pads) for n in pair], value=value)]
    result = x[0]
    for axis, (before, after) in enumerate(pads):
        extent = result.shape[axis]
        places = np.arange(extent)[max(0, -before):extent - max(0, -after)]
        if before or after:
            result = take(result, axis, np.pad(places, (max(0, before), max(0, after)), mode=mode))  # type: ignore[call-overload]
    return [result]


def _center_crop_pad(node: Node, x: Inputs) -> Tensors:
    result = x[0]
    pads = []
    for extent, wanted in zip(x[0].shape, node.outputs[0].shape, strict=True):
        missing = wanted - extent
        before = missing // 2 if missing > 0 else -(-missing // 2)
        pads.append((before, missing - before))
    return [functional.pad(result, [n for pair in reversed(pads) for n in pair])]


def _trilu(node: Node, x: Inputs) -> Tensors:
    k = (node.parameter(1) or [0])[0]
    return [torch.triu(x[0], k) if node.integer("upper", 1) else torch.tril(x[0], k)]


def _reverse_sequence(node: Node, x: Inputs) -> Tensors:
    time, batch = node.integer("time_axis", 0), node.integer("batch_axis", 1)
    steps = torch.arange(x[0].shape[time], device=x[0].device).reshape(-1, 1)
    lengths = x[1].reshape(1, -1)
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)  # [time, batch]
    places = places if time < batch else places.transpose(0, 1)
    return [torch.gather(x[0], time, places.reshape(*places.shape, *[1] * (x[0].ndim - 2)).expand(x[0].shape))]


FORMS: dict[str, Form] = {
    "Identity": Form(lambda _node, x: [x[0]]),
    "Dropout": Form(_dropout, refuse=_refuse_dropout),
    "Reshape": Form(_view),
    "Flatten": Form(_view),
    "Squeeze": Form(_view),
    "Unsqueeze": Form(_view),
    "Transpose": Form(_transpose),
    "DepthToSpace": Form(_depth_to_space),
    "SpaceToDepth": Form(_space_to_depth),
    "Concat": Form(lambda node, x: [torch.cat(x, node.integer("axis", 0))]),
    "Slice": Form(_slice, refuse=constant_inputs(1, 2, 3, 4)),
    "Split": Form(_split),
    "Pad": Form(_pad, refuse=constant_inputs(1, 2, 3)),
    "CenterCropPad": Form(_center_crop_pad),
    "Expand": Form(lambda node, x: [torch.broadcast_to(x[0], node.outputs[0].shape)]),
    "Tile": Form(lambda node, x: [x[0].repeat(node.parameter(1) or ())], refuse=constant_inputs(1)),
    "Trilu": Form(_trilu, refuse=constant_inputs(1)),
    "ReverseSequence": Form(_reverse_sequence),
}
