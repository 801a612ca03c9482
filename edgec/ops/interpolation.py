"""Resize as tables: per axis the source elements of each output element with their weights, and their sum on arrays.

The tables are computed at build time; taps whose weight is 0 everywhere are left out. Two axes with two taps each meet
in one expression; more taps go axis by axis, the axis with the smallest result first.
Numerics: weights in float32, products and sums in float32, in the order of the taps.
Source:   ONNX operator Resize, and onnx.reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose

import numpy as np

from edgec.ir.graph import Node


@dataclass(frozen=True)
class Axis:
    """sources, weights [out, taps]; outside [out]: the output is the extrapolation value there."""

    axis: int
    sources: np.ndarray
    weights: np.ndarray
    outside: np.ndarray

    @property
    def taps(self) -> int:
        """Source elements per output element."""
        return int(self.sources.shape[1])

    @property
    def is_choice(self) -> bool:
        """Each output element is a copy of one source element."""
        return self.taps == 1 and bool(np.all(self.weights == 1))

    def is_identity(self, extent: int) -> bool:
        """The axis stays as it is."""
        return (self.is_choice and not self.outside.any()
                and np.array_equal(self.sources[:, 0], np.arange(extent)))


def _coordinates(mode: str, out: int, extent: int, scale: float, roi: tuple[float, float]) -> np.ndarray:
    """Position of each output element on the source axis."""
    y, length = np.arange(out, dtype=np.float64), scale * extent
    if mode == "align_corners":
        return np.zeros(out) if length == 1 else y * (extent - 1) / (length - 1)
    if mode == "asymmetric":
        return y / scale
    if mode == "tf_crop_and_resize":
        span = (roi[1] - roi[0]) * (extent - 1)
        return (np.full(out, span / 2) if length == 1 else y * span / (length - 1)) + roi[0] * (extent - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return np.full(out, -0.5)
    shift = extent / 2 * (1 - out / length) if mode == "half_pixel_symmetric" else 0.0
    return shift + (y + 0.5) / scale - 0.5


def _nearest(ratio: np.ndarray, mode: str) -> np.ndarray:
    right = {"round_prefer_floor": ratio > 0.5, "round_prefer_ceil": ratio >= 0.5, "floor": ratio > 1,
             "ceil": ratio > 0}[mode] | (ratio == 1)
    return np.stack([~right, right], 1).astype(np.float64)


def _linear(ratio: np.ndarray, scale: float, antialias: bool) -> np.ndarray:
    if not antialias:
        return np.stack([1 - ratio, ratio], 1)
    scale = min(scale, 1.0)
    start = int(np.floor(-1 / scale) + 1)
    weights: np.ndarray = np.clip(1 - abs((np.arange(start, 2 - start) - ratio[:, None]) * scale), 0, 1)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _cubic(ratio: np.ndarray, scale: float, antialias: bool, a: float) -> np.ndarray:
    scale = min(scale, 1.0) if antialias else 1.0
    start = int(np.floor(-2 / scale) + 1)
    x = abs(scale * (np.arange(start, 2 - start) - ratio[:, None]))
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return np.asarray(weights / weights.sum(1, keepdims=True) if antialias else weights)


def _first_source(position: np.ndarray, taps: int) -> np.ndarray:
    """The first of the `taps` elements nearest to a position; of two that are equally near, the left one."""
    whole: np.ndarray = np.floor(position).astype(np.int64)
    fraction = position - whole
    if taps % 2 == 0:
        offset = np.where(fraction == 0, -(taps // 2), 1 - taps // 2)
    else:
        offset = (fraction > 0.5) - (taps - 1) // 2
    first: np.ndarray = whole + offset
    return first


def _axis_tables(node: Node, axis: int, out: int, extent: int, scale: float, roi: tuple[float, float]) -> Axis:
    mode, antialias = node.text("mode", "nearest"), bool(node.integer("antialias", 0))
    way = node.text("coordinate_transformation_mode", "half_pixel")
    position = _coordinates(way, out, extent, scale, roi)
    whole = np.floor(position)
    ratio = np.where(position == whole, 1.0, position - whole)
    if mode == "nearest":
        weights = _nearest(ratio, node.text("nearest_mode", "round_prefer_floor"))
    elif mode == "linear":
        weights = _linear(ratio, scale, antialias)
    else:
        weights = _cubic(ratio, scale, antialias, node.real("cubic_coeff_a", -0.75))
    sources = _first_source(position, weights.shape[1])[:, None] + np.arange(weights.shape[1])
    if node.integer("exclude_outside", 0):
        weights = np.where((sources < 0) | (sources >= extent), 0.0, weights)
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    outside = (position < 0) | (position > extent - 1) if way == "tf_crop_and_resize" else np.zeros(out, bool)
    return _packed(axis, np.clip(sources, 0, extent - 1), weights, outside)


def _packed(axis: int, sources: np.ndarray, weights: np.ndarray, outside: np.ndarray) -> Axis:
    """The same with each row's taps of weight 0 moved to the end, and as few taps as the longest row has."""
    order = np.argsort(weights == 0, axis=1, kind="stable")
    count = max(1, int((weights != 0).sum(1).max()))
    sources = np.take_along_axis(sources, order, 1)[:, :count]
    return Axis(axis, sources, np.take_along_axis(weights, order, 1)[:, :count], outside)


def axes_of(node: Node) -> list[Axis]:
    """Tables of the axes that change. Source: ONNX operator Resize, for scales, sizes, roi and axes."""
    x, out = node.operand(0), node.outputs[0]
    axes = [a % x.type.rank for a in node.integers("axes") or range(x.type.rank)]
    given = [None if v is None or v.const is None or v.const.size == 0 else v.const for v in map(node.input, (1, 2, 3))]
    roi, scales, sizes = given
    if sizes is not None:
        factors = [int(s) / x.shape[a] for a, s in zip(axes, sizes, strict=True)]
        policy = node.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(axes)
    else:
        assert scales is not None
        factors = [float(s) for s in scales]
    crop = node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    result = []
    for position, (axis, scale) in enumerate(zip(axes, factors, strict=True)):
        part = (float(roi[position]), float(roi[len(axes) + position])) if crop and roi is not None else (0.0, 1.0)
        whole = isclose(part[0], 0.0) and isclose(part[1], 1.0)
        if isclose(scale, 1.0) and out.shape[axis] == x.shape[axis] and whole:
            continue
        tables = _axis_tables(node, axis, out.shape[axis], x.shape[axis], scale, part)
        if not tables.is_identity(x.shape[axis]):
            result.append(tables)
    return result


def stages_of(node: Node) -> list[list[Axis]]:
    """The tables in the order in which they are applied, those of one stage at once."""
    extents = node.operand(0).shape
    axes = sorted(axes_of(node), key=lambda a: a.sources.shape[0] / extents[a.axis])  # the smallest result first
    if (all(a.taps <= 2 for a in axes) and len(axes) <= 2) or all(a.taps == 1 for a in axes):
        return [axes] if axes else []
    return [[a] for a in axes]


def resize(node: Node, x: np.ndarray) -> np.ndarray:
    """The result of a Resize of float32, each operation rounded, as the CPU engine orders them."""
    for stage in stages_of(node):
        total = _weighted(x, stage)
        for a in stage:
            if a.outside.any():
                where = a.outside.reshape([-1 if d == a.axis else 1 for d in range(x.ndim)])
                total = np.where(where, np.float32(node.real("extrapolation_value", 0.0)), total)
        x = total
    return x


def _weighted(x: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """Sums over the taps of the first axis of the sums over those of the next ones."""
    if not axes:
        return x
    axis, total = axes[0], None
    for tap in range(axis.taps):
        inner = _weighted(np.take(x, axis.sources[:, tap], axis=axis.axis), axes[1:])
        if not axis.is_choice:
            shape = [-1 if d == axis.axis else 1 for d in range(x.ndim)]
            inner = inner * axis.weights[:, tap].astype(np.float32).reshape(shape)
        total = inner if total is None else total + inner
    assert total is not None  # an axis has a tap
    return total
