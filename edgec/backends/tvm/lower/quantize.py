"""Lowerings of the conversions between floats and integer grids.

Numerics: quotients and products in the type of the scale, round half to even, then clamp: the bits of onnx.reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from edgec.backends.tvm.lower.reduce import MINIMUM, largest
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, dtype_name, extents
from edgec.backends.tvm.lower.shapes import Expr, constant, dtype_of, element, reduced, select
from edgec.ir.graph import Node


def parameter_of(node: Node, tensor: Any) -> Callable[[Sequence[Expr]], Expr]:
    """Reads a scale or zero point for an index of x: one number, one per index of an axis, or one per block."""
    shape = extents(tensor)
    rank = node.operand(0).type.rank
    axis, block = node.integer("axis", 1), node.integer("block_size", 0)
    if len(shape) <= 1 and (not shape or shape[0] == 1):
        return lambda _index: tensor(*[0] * len(shape))
    if len(shape) == 1:
        return lambda index: tensor(index[axis % rank])
    return lambda index: tensor(*[tirx.indexdiv(i, block) if d == axis % rank else i for d, i in enumerate(index)])


def saturated(value: Expr, dtype: str) -> Expr:
    """A float that is a whole number as an integer of type `dtype`."""
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    kind = dtype_of(value)
    value = select(value < constant(low, kind), constant(low, kind), value)
    return select(value > constant(high, kind), constant(high, kind), value).astype(dtype)


def _quantize(node: Node, tensors: Inputs) -> Tensors:
    """saturate(round(x / scale) + zero_point)."""
    x: Any = tensors[0]
    scale = parameter_of(node, tensors[1])
    zero = parameter_of(node, tensors[2]) if len(tensors) > 2 and tensors[2] is not None else None
    out = node.outputs[0]
    kind = _precision(node)

    def body(*index: Expr) -> Expr:
        steps = tirx.nearbyint(x(*index).astype(kind) / scale(index).astype(kind))
        if zero is not None:
            steps = steps + zero(index).astype(kind)
        return saturated(steps, dtype_name(out.dtype))

    return [te.compute(out.shape, body, "quantize_linear")]


def _precision(node: Node) -> str:
    scale = dtype_name(node.operand(1).dtype)
    return "float64" if node.operand(0).dtype.value == "float64" else scale


def _dequantize(node: Node, tensors: Inputs) -> Tensors:
    """(x - zero_point) * scale; the difference is exact."""
    x: Any = tensors[0]
    scale = parameter_of(node, tensors[1])
    zero = parameter_of(node, tensors[2]) if len(tensors) > 2 and tensors[2] is not None else None
    out = node.outputs[0]
    kind = dtype_name(node.operand(1).dtype)

    def body(*index: Expr) -> Expr:
        steps = x(*index).astype("int32")
        if zero is not None:
            steps = steps - zero(index).astype("int32")
        return (steps.astype(kind) * scale(index)).astype(dtype_name(out.dtype))

    return [te.compute(out.shape, body, "dequantize_linear")]


def _dynamic_quantize(node: Node, tensors: Inputs) -> Tensors:
    """Scale and zero point from the range of x, which always holds 0; then as QuantizeLinear."""
    x: Any = tensors[0]
    shape = extents(x)
    axes = list(range(len(shape)))
    zero, steps = constant(0, "float32"), constant(255, "float32")
    high = largest(x, axes)
    low = reduced(shape, axes, lambda i: x(*i), MINIMUM, "float32", "smallest")

    def width() -> Expr:
        top, bottom = tirx.max(high(), zero), tirx.min(low(), zero)
        return select(tirx.EQ(top, bottom), constant(1, "float32"), top - bottom) / steps

    scale = te.compute((), lambda: element(width), "scale")

    def origin() -> Expr:
        start = zero - tirx.min(low(), zero) / scale()
        return saturated(tirx.nearbyint(tirx.max(tirx.min(start, steps), zero)), "uint8")

    point = te.compute((), origin, "zero_point")
    y = te.compute(shape, lambda *i: saturated(tirx.nearbyint(x(*i) / scale()) + point().astype("float32"), "uint8"),
                   "dynamic_quantize_linear")
    return [y, scale, point]


def _refuse(node: Node) -> Reason | None:
    for value in (*node.input_values[1:], *node.outputs):
        if dtype_name(value.dtype) not in ("int8", "uint8", "int16", "uint16", "int32", "float32", "float64"):
            return "tvm.dtype", f"{node.op} with {value.name} of type {dtype_name(value.dtype)}"
    if node.integer("precision", 0) not in (0, 1):
        return "tvm.no_lowering", f"{node.op} computes in the type of its scale, not in another precision"
    if 0 in node.operand(0).shape:
        return "tvm.empty", f"{node.op} of an empty tensor"
    return None


LOWERINGS: dict[str, Lowering] = {
    "QuantizeLinear": Lowering(_quantize, _refuse),
    "DequantizeLinear": Lowering(_dequantize, _refuse),
    "DynamicQuantizeLinear": Lowering(_dynamic_quantize, _refuse),
}
