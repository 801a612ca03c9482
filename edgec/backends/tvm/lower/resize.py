"""Lowering of Resize, GridSample and AffineGrid.

Resize: every mode is, per axis, a table of the source elements of each output element with their weights. The tables
        are computed at build time; taps whose weight is 0 everywhere are left out. Two axes with two taps each meet in
        one expression; more taps go axis by axis.
Numerics: weights in float32, sums in float32 (float64 for float64 and wide integers); integers round half to even.
Source:   ONNX operators Resize, GridSample, AffineGrid, and onnx.reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np
from tvm import te, tirx

from edgec.backends.tvm.lower.grid import sampled
from edgec.backends.tvm.lower.rule import (
    Inputs,
    Lowering,
    Reason,
    Tensors,
    constant_inputs,
    dtype_name,
    extents,
    first_of,
    integers,
)
from edgec.backends.tvm.lower.shapes import Expr, constant, dtype_of, select
from edgec.backends.tvm.lower.tables import table
from edgec.ir.graph import Node

_UNROLLED = 8  # taps that are written out; more become a loop


# -- the tables of one axis -------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Axis:
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


def _axis_tables(node: Node, axis: int, out: int, extent: int, scale: float, roi: tuple[float, float]) -> _Axis:
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


def _packed(axis: int, sources: np.ndarray, weights: np.ndarray, outside: np.ndarray) -> _Axis:
    """The same with each row's taps of weight 0 moved to the end, and as few taps as the longest row has."""
    order = np.argsort(weights == 0, axis=1, kind="stable")
    count = max(1, int((weights != 0).sum(1).max()))
    sources = np.take_along_axis(sources, order, 1)[:, :count]
    return _Axis(axis, sources, np.take_along_axis(weights, order, 1)[:, :count], outside)


def _axes(node: Node) -> list[_Axis]:
    """Tables of the axes that change. Source: ONNX operator Resize, for scales, sizes, roi and axes."""
    x, out = node.operand(0), node.outputs[0]
    axes = [a % x.type.rank for a in integers(node, "axes") or range(x.type.rank)]
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


# -- expressions ------------------------------------------------------------------------------------------------------

class _Reader:
    """Reads the tables of an axis within expressions."""

    def __init__(self, tables: _Axis, dtype: str) -> None:
        self._tables = tables
        out = tables.sources.shape[0]
        factor = max(1, out // max(1, int(tables.sources.max()) + 1))
        self._factor = factor if np.array_equal(tables.sources[:, 0], np.arange(out) // factor) else 0
        self._sources = None if self._factor and tables.taps == 1 else table(tables.sources.T.astype(np.int32))
        self._weights = None if tables.is_choice else table(tables.weights.T.astype(dtype))
        self._outside = table(tables.outside.astype(np.int8)) if tables.outside.any() else None

    def source(self, i: Expr, tap: Expr) -> Expr:
        """Index of a source element of output element `i`; repeated elements need no table."""
        return tirx.indexdiv(i, self._factor) if self._sources is None else self._sources(tap, i)

    def weighted(self, value: Expr, i: Expr, tap: Expr) -> Expr:
        """`value`, an element of tap `tap`, times its weight."""
        return value if self._weights is None else value * self._weights(tap, i)

    def checked(self, value: Expr, i: Expr, extrapolated: float) -> Expr:
        """`value`, or the extrapolation value where the source lies outside."""
        if self._outside is None:
            return value
        return select(self._outside(i) != 0, constant(extrapolated, dtype_of(value)), value)


def _sums(dtype: str) -> str:
    return "float32" if dtype in ("float32", "int8", "uint8", "int16", "uint16", "bool") else "float64"


def _finished(value: Expr, dtype: str) -> Expr:
    """A sum in the type of the output."""
    if dtype_of(value) == dtype:
        return value
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    value = tirx.nearbyint(value)
    kind = dtype_of(value)
    return tirx.max(tirx.min(value, constant(high, kind)), constant(low, kind)).astype(dtype)


def _resize(node: Node, tensors: Inputs) -> Tensors:
    x: Any = tensors[0]
    dtype, value = dtype_of(x), node.real("extrapolation_value", 0.0)
    axes = sorted(_axes(node), key=lambda a: a.sources.shape[0] / extents(x)[a.axis])  # the smallest result first
    kind = dtype if all(a.is_choice for a in axes) else _sums(dtype)
    if (all(a.taps <= 2 for a in axes) and len(axes) <= 2) or all(a.taps == 1 for a in axes):
        stages = [axes] if axes else []
    else:
        stages = [[a] for a in axes]
    for stage in stages:
        x = _stage(x, stage, kind, value, dtype if stage is stages[-1] else kind)
    return [x if stages else te.compute(x.shape, lambda *i: x(*i), "resize")]


def _stage(x: Any, axes: Sequence[_Axis], kind: str, extrapolated: float, dtype: str) -> te.Tensor:
    """Resize along `axes` at once. kind: element type of the sum; dtype: of the result."""
    readers = [_Reader(a, kind) for a in axes]
    shape = list(extents(x))
    for a in axes:
        shape[a.axis] = a.sources.shape[0]

    def taps(index: list[Expr], depth: int) -> Expr:
        if depth == len(axes):
            return x(*index).astype(kind)
        axis, reader, place = axes[depth].axis, readers[depth], index[axes[depth].axis]
        total: Expr = None
        for tap in range(axes[depth].taps):
            inner = list(index)
            inner[axis] = reader.source(place, tap)
            product = reader.weighted(taps(inner, depth + 1), place, tap)
            total = product if total is None else total + product
        return total

    def finished(total: Expr, index: Sequence[Expr]) -> Expr:
        for a, reader in zip(axes, readers, strict=True):
            total = reader.checked(total, index[a.axis], extrapolated)
        return _finished(total, dtype)

    if max(a.taps for a in axes) <= _UNROLLED:
        return te.compute(shape, lambda *i: finished(taps(list(i), 0), i), "resize")
    axis, reader = axes[0].axis, readers[0]
    tap = te.reduce_axis((0, axes[0].taps), "tap")

    def product(*index: Expr) -> Expr:
        inner = list(index)
        inner[axis] = reader.source(index[axis], tap)
        return te.sum(reader.weighted(x(*inner).astype(kind), index[axis], tap), axis=[tap])

    sums = te.compute(shape, product, "resize_sum")
    return te.compute(shape, lambda *i: finished(sums(*i), i), "resize")


def _affine_grid(node: Node, tensors: Inputs) -> Tensors:
    """out[n, i.., k] = theta[n, k] . (x, y, .., 1) of the centre (or corner) of element i.."""
    theta: Any = tensors[0]
    out = node.outputs[0]
    spatial, dtype = out.shape[1:-1], dtype_of(theta)
    corners = bool(node.integer("align_corners", 0))

    def coordinate(i: Expr, extent: int) -> Expr:
        step = (2 / (extent - 1) if extent > 1 else 0.0) if corners else 2 / extent
        return i.astype(dtype) * constant(step, dtype) + constant(-1.0 if corners else -1 + step / 2, dtype)

    def body(*index: Expr) -> Expr:
        n, *places, k = index
        result = theta(n, k, len(spatial))
        for position, (place, extent) in enumerate(zip(places, spatial, strict=True)):
            result = result + theta(n, k, len(spatial) - 1 - position) * coordinate(place, extent)
        return result

    return [te.compute(out.shape, body, "affine_grid")]


def _refuse_resize(node: Node) -> Reason | None:
    if 0 in (*node.operand(0).shape, *node.outputs[0].shape):
        return "tvm.empty", "Resize of an empty tensor"
    if node.text("mode", "nearest") == "nearest" and node.integer("antialias", 0):
        return "tvm.no_lowering", "Resize has antialias with mode nearest, which ONNX does not define"
    return None


def _refuse_grid(node: Node) -> Reason | None:
    if 0 in (*node.operand(0).shape, *node.outputs[0].shape):
        return "tvm.empty", "GridSample of an empty tensor"
    if not all(v.dtype.is_float for v in node.input_values):
        return "tvm.dtype", f"GridSample is computed on floats, not {dtype_name(node.operand(0).dtype)}"
    return None


LOWERINGS: dict[str, Lowering] = {
    "Resize": Lowering(_resize, first_of(constant_inputs(1, 2, 3), _refuse_resize)),
    "GridSample": Lowering(sampled, _refuse_grid),
    "AffineGrid": Lowering(_affine_grid, constant_inputs(1)),
}
