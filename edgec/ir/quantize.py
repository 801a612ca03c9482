"""The arithmetic of integer grids: what a Quant means in numbers, and what a quantized product is, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgec.ir.graph import Node
from edgec.ir.types import DType, Quant

_NARROW = {DType.INT4, DType.UINT4, DType.INT8, DType.UINT8}


def bounds(dtype: DType) -> tuple[int, int]:
    """Smallest and largest integer of an element type. Raises ValueError for a type that is not an integer."""
    name = dtype.value
    if not dtype.is_integer:
        raise ValueError(f"{name} is not an integer type")
    bits = int(name.removeprefix("u").removeprefix("int"))
    return (0, (1 << bits) - 1) if name.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)


def spread(parameter: np.ndarray, quant: Quant, shape: Sequence[int]) -> np.ndarray:
    """A scale or zero point of `quant`, shaped so that it broadcasts against an array of `shape`."""
    if quant.axis is None:
        return parameter.reshape(())
    axis = quant.axis % len(shape)
    if quant.block:  # the last block may be shorter
        return parameter.repeat(quant.block, axis=axis).take(range(shape[axis]), axis=axis)
    return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def quantize(array: np.ndarray, quant: Quant) -> np.ndarray:
    """The integers of `quant` nearest to `array`, in the numpy type of `quant.dtype`.

    Formula: clamp(round_half_even(x / scale) + zero_point)
    Numerics: one float32 division (float64 for int32, which float32 cannot count); the rest is exact.
    Source: ONNX operator QuantizeLinear, opset 21.
    """
    wide = np.float64 if quant.dtype is DType.INT32 else np.float32
    scale = spread(quant.scale.astype(wide), quant, array.shape)
    with np.errstate(all="ignore"):
        steps: np.ndarray = array.astype(wide) / scale
        if not quant.dtype.is_integer:
            return steps.astype(quant.dtype.numpy)
        grid = np.rint(steps).astype(np.float64) + spread(quant.zero_point.astype(np.float64), quant, array.shape)
        return _saturate(grid, quant.dtype)


def dequantize(integers: np.ndarray, quant: Quant) -> np.ndarray:
    """The float32 numbers that integers of `quant` stand for: float32(q - zero_point) * scale.

    Source: ONNX operator DequantizeLinear, opset 21.
    """
    steps: np.ndarray = integers.astype(np.float32)
    if quant.dtype.is_integer:
        zero = spread(quant.zero_point.astype(np.int64), quant, integers.shape)
        steps = (integers.astype(np.int64) - zero).astype(np.float32)
    result: np.ndarray = steps * spread(quant.scale.astype(np.float32), quant, integers.shape)
    return result


def quantize_dequantize(array: np.ndarray, quant: Quant) -> np.ndarray:
    """`array` rounded to the grid of `quant`, in the array's type."""
    return dequantize(quantize(array, quant), quant).astype(array.dtype)


def _saturate(grid: np.ndarray, dtype: DType) -> np.ndarray:
    """Whole numbers in float64 as integers of `dtype`; NaN becomes the lowest, as a maximum with it gives."""
    low, high = bounds(dtype)
    inside: np.ndarray = np.clip(np.nan_to_num(grid, nan=low), low, high)
    return inside.astype(np.int64).astype(dtype.numpy)


def product_scale(node: Node) -> np.ndarray | None:
    """Scale of the int32 sums of a quantized Conv, ConvTranspose, Gemm or MatMul, as it broadcasts against the output.

    None if the node has no exact integer form. It has one when: (1) data and weight lie on grids of at most 8 bits;
    (2) the data has one scale; (3) the weight has one scale, or one per output channel; (4) Gemm scales nothing.
    Numerics: float64. Formula: scale_x * scale_w[k]
    """
    data, weight = node.operand(0), node.operand(1)
    x, w = data.quant, weight.quant
    if x is None or w is None or x.dtype not in _NARROW or w.dtype not in _NARROW:  # (1)
        return None
    if x.axis is not None or w.block:  # (2)
        return None
    if node.attributes.get("alpha", 1.0) != 1.0 or node.attributes.get("beta", 1.0) != 1.0:  # (4)
        return None
    scales = x.scale.astype(np.float64).reshape(()) * w.scale.astype(np.float64)
    if w.axis is None:
        return scales.reshape(())
    if w.axis % weight.type.rank != output_axis(node):  # (3)
        return None
    spatial = node.outputs[0].type.rank - 2 if node.op.startswith("Conv") else 0
    return scales.reshape(-1, *[1] * spatial)


def output_axis(node: Node) -> int | None:
    """The axis of the second operand of a Conv, ConvTranspose, Gemm or MatMul that becomes the output's channels.

    None if there is no such axis: a MatMul with a vector, a ConvTranspose with groups.
    """
    rank = node.operand(1).type.rank
    if node.op == "MatMul":
        return rank - 1 if rank >= 2 else None
    if node.op == "Gemm":
        return 0 if node.attributes.get("transB", 0) else 1
    if node.op == "ConvTranspose":
        return 1 if node.attributes.get("group", 1) == 1 else None
    return 0


def average_scale(node: Node) -> np.ndarray | None:
    """Scale of the integer sums of a quantized mean or sum: pooling by averages, and reductions that requantize.

    Formula: scale_x / count, count = elements that a mean is over; it broadcasts against the output, float64.
    None if the node has no exact integer form. It has one when: (1) the data lies on one grid of at most 8 bits;
    (2) axes are constant; (3) windows are whole (no ceil_mode) and hold an element each.
    """
    if node.op not in ("ReduceMean", "ReduceSum") and not node.op.endswith("AveragePool"):
        return None
    data = node.operand(0)
    if data.quant is None or data.quant.dtype not in _NARROW or data.quant.axis is not None:  # (1)
        return None
    if not data.type.is_static or 0 in data.shape:
        return None
    counts: np.ndarray | None
    if node.op == "AveragePool":
        counts = _window_counts(node)
    elif node.op == "GlobalAveragePool":
        counts = np.asarray(prod(data.shape[2:]))
    else:
        axes = node.parameter(1)
        if axes is None and node.input(1) is not None:  # (2)
            return None
        if not axes:
            axes = [] if node.integer("noop_with_empty_axes", 0) else list(range(len(data.shape)))
        counts = np.asarray(1 if node.op == "ReduceSum" else prod(data.shape[a] for a in axes))
    if counts is None or not counts.all():  # (3)
        return None
    scale: np.ndarray = data.quant.scale.astype(np.float64).reshape(()) / counts
    return scale


def _window_counts(node: Node) -> np.ndarray | None:
    """Elements under each window of an AveragePool, [1, 1, ...]; None with ceil_mode.

    Source: ONNX operator AveragePool, opset 22, attributes auto_pad and count_include_pad.
    """
    extents, sizes, out = node.operand(0).shape[2:], node.integers("kernel_shape"), node.outputs[0].shape[2:]
    if node.integer("ceil_mode", 0) or len(out) != len(extents):
        return None
    ones, mode = (1,) * len(extents), node.text("auto_pad", "NOTSET")
    strides, dilations = node.integers("strides", ones), node.integers("dilations", ones)
    pads = node.integers("pads", (0,) * 2 * len(extents)) if mode == "NOTSET" else (0,) * 2 * len(extents)
    result: np.ndarray = np.ones((1, 1))
    for axis, (extent, size, o, s, d) in enumerate(zip(extents, sizes, out, strides, dilations, strict=True)):
        before, after = pads[axis], pads[axis + len(extents)]
        if mode.startswith("SAME"):
            total = max(0, (o - 1) * s + (size - 1) * d + 1 - extent)
            before = total // 2 if mode == "SAME_UPPER" else total - total // 2
            after = total - before
        low, high = (-before, extent + after) if node.integer("count_include_pad", 0) else (0, extent)
        places = np.arange(o)[:, None] * s - before + np.arange(size) * d
        result = result[..., None] * ((places >= low) & (places < high)).sum(axis=1)
    return result


def bias_integers(bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The int32 bias (as float64) of a product whose sums have `scale`.

    Formula: clamp(round_half_even(bias / scale)), in float64.
    """
    low, high = bounds(DType.INT32)
    integers: np.ndarray = np.rint(bias.astype(np.float64) / (scale.reshape(-1) if scale.ndim else scale))
    return integers.clip(low, high)


def requantize(sums: np.ndarray, scale: np.ndarray, quant: Quant | None) -> np.ndarray:
    """The float32 result of a product from its exact int32 sums (given as float64).

    Formula: quantized: clamp(round_half_even(float32(sum) * m) + zero_point) with m = float32(scale / scale_y);
             not quantized: float32(sum) * float32(scale)
    """
    single: np.ndarray = sums.astype(np.float32)
    if quant is None or not quant.dtype.is_integer:
        plain: np.ndarray = single * scale.astype(np.float32)
        return plain if quant is None else quantize_dequantize(plain, quant)
    factor = (scale / spread(quant.scale.astype(np.float64), quant, sums.shape)).astype(np.float32)
    zero = spread(quant.zero_point.astype(np.float64), quant, sums.shape)
    return dequantize(_saturate(np.rint(single * factor).astype(np.float64) + zero, quant.dtype), quant)
