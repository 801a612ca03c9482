"""Lowering of Resize, GridSample and AffineGrid.

Resize: the tables of `ops/interpolation.py`, which the interpreter of quantized graphs sums in the same order.
Numerics: weights in float32, sums in float32 (float64 for float64 and wide integers); integers round half to even.
Source:   ONNX operators Resize, GridSample, AffineGrid, and onnx.reference.
"""

from __future__ import annotations

from collections.abc import Sequence
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
)
from edgec.backends.tvm.lower.shapes import Expr, constant, dtype_of, select
from edgec.backends.tvm.lower.tables import table
from edgec.ir.graph import Node
from edgec.ops.interpolation import Axis, stages_of

_UNROLLED = 8  # taps that are written out; more become a loop


# -- expressions ------------------------------------------------------------------------------------------------------

class _Reader:
    """Reads the tables of an axis within expressions."""

    def __init__(self, tables: Axis, dtype: str) -> None:
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
    stages = stages_of(node)
    kind = dtype if all(a.is_choice for stage in stages for a in stage) else _sums(dtype)
    for stage in stages:
        x = _stage(x, stage, kind, value, dtype if stage is stages[-1] else kind)
    return [x if stages else te.compute(x.shape, lambda *i: x(*i), "resize")]


def _stage(x: Any, axes: Sequence[Axis], kind: str, extrapolated: float, dtype: str) -> te.Tensor:
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
