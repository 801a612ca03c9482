"""Resampling on torch tensors.

Resize: per axis, each output element is a weighted sum of source elements; sources and weights are known beforehand.
Source: ONNX operators Resize (opset 19), GridSample, AffineGrid.
"""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from edgec.compress.torch_ops.movement import take
from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors, constant_inputs
from edgec.ir.graph import Node

_GRID_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic",
               "bicubic": "bicubic"}


def _scales(node: Node) -> list[float]:
    """The factor of each axis, 1 where the axis is not named."""
    data, out = node.operand(0).shape, node.outputs[0].shape
    axes = node.integers("axes", range(len(data)))
    result = [1.0] * len(data)
    given = node.input(2)
    if given is not None and given.const is not None and given.const.size:
        for axis, factor in zip(axes, given.const.reshape(-1), strict=True):
            result[axis] = float(factor)
        return result
    sizes = node.parameter(3) or list(out)
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    factors = [size / data[axis] for axis, size in zip(axes, sizes, strict=True)]
    if policy != "stretch":
        factors = [(min if policy == "not_larger" else max)(factors)] * len(factors)
    for axis, factor in zip(axes, factors, strict=True):
        result[axis] = factor
    return result


def _positions(node: Node, axis: int, scale: float) -> np.ndarray:
    """Where each output element lies on the source axis."""
    extent, out = node.operand(0).shape[axis], node.outputs[0].shape[axis]
    mode, y, length = node.text("coordinate_transformation_mode", "half_pixel"), np.arange(out), scale * extent
    if mode == "asymmetric":
        return y / scale
    if mode == "align_corners":
        return np.zeros(out) if length == 1 else y * (extent - 1) / (length - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return np.full(out, -0.5)
    shift = extent / 2 * (1 - out / length) if mode == "half_pixel_symmetric" else 0.0
    return shift + (y + 0.5) / scale - 0.5


def _nearest(position: float, how: str) -> int:
    down = floor(position)
    rest = position - down
    up = {"round_prefer_floor": rest > 0.5, "round_prefer_ceil": rest >= 0.5, "floor": False, "ceil": rest > 0}[how]
    return down + up


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel. Source: Keys 1981, doi:10.1109/TASSP.1981.1163711."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    result: np.ndarray = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return result


def _table(node: Node, axis: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Sources and weights [out, taps] of an axis."""
    extent, mode = node.operand(0).shape[axis], node.text("mode", "nearest")
    where = _positions(node, axis, scale)
    if mode == "nearest":
        how = node.text("nearest_mode", "round_prefer_floor")
        sources = np.array([[_nearest(float(p), how)] for p in where])
        return sources.clip(0, extent - 1), np.ones(sources.shape)
    width = 1.0 if mode == "linear" else 2.0
    shrink = min(1.0, scale) if node.integer("antialias", 0) else 1.0
    reach = int(np.ceil(width / shrink))
    sources = np.floor(where).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    distance = (sources - where[:, None]) * shrink
    weights = np.clip(1 - np.abs(distance), 0, None) if mode == "linear" else _cubic(
        distance, node.real("cubic_coeff_a", -0.75))
    if node.integer("exclude_outside", 0):
        weights = np.where((sources < 0) | (sources >= extent), 0.0, weights)
    if node.integer("exclude_outside", 0) or shrink < 1:
        weights = weights / weights.sum(1, keepdims=True)
    return sources.clip(0, extent - 1), weights


def _resize(node: Node, x: Inputs) -> Tensors:
    result = x[0]
    for axis, scale in enumerate(_scales(node)):
        extent = result.shape[axis]
        if scale == 1.0 and node.outputs[0].shape[axis] == extent:
            continue
        sources, weights = _table(node, axis, scale)
        taps = [t for t in range(sources.shape[1]) if weights[:, t].any()]
        if len(taps) == 1 and (weights[:, taps[0]] == 1).all():
            result = take(result, axis, sources[:, taps[0]])
            continue
        shape = [1] * result.ndim
        shape[axis] = -1
        total: Any = 0
        for tap in taps:
            factor = torch.from_numpy(weights[:, tap].copy()).to(result).reshape(shape)
            total = total + take(result, axis, sources[:, tap]) * factor
        result = total
    return [result]


def _refuse_resize(node: Node) -> Reason | None:
    if node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "torch.resize_mode", "Resize with tf_crop_and_resize"
    if not node.operand(0).dtype.is_float:
        return "torch.dtype", "Resize of integers"
    return constant_inputs(2, 3)(node)


def _grid_sample(node: Node, x: Inputs) -> Tensors:
    mode, padding = _GRID_MODES[node.text("mode", "linear")], node.text("padding_mode", "zeros")
    corners, grid = bool(node.integer("align_corners", 0)), x[1]
    if mode == "bicubic" and padding == "border":  # ONNX moves the places to the border, torch the taps around them
        limit = torch.tensor([1.0 if corners else 1 - 1 / n for n in reversed(x[0].shape[2:])]).to(grid)
        grid = torch.where(grid.abs() > 1, torch.sign(grid) * limit, grid)
    return [functional.grid_sample(x[0], grid, mode=mode, padding_mode=padding, align_corners=corners)]


def _refuse_grid(node: Node) -> Reason | None:
    rank = node.operand(0).type.rank
    if rank not in (4, 5) or (rank == 5 and "cubic" in node.text("mode", "linear")):
        return "torch.grid_rank", f"GridSample, mode {node.text('mode', 'linear')}, of {rank} axes"
    return None


def _affine_grid(node: Node, x: Inputs) -> Tensors:
    size, corners = node.parameter(1) or [], bool(node.integer("align_corners", 0))
    return [functional.affine_grid(x[0], size, align_corners=corners)]


FORMS: dict[str, Form] = {
    "Resize": Form(_resize, refuse=_refuse_resize),
    "GridSample": Form(_grid_sample, refuse=_refuse_grid),
    "AffineGrid": Form(_affine_grid, refuse=constant_inputs(1)),
}
