"""Weights on integer grids: symmetric, one scale per output channel, or one per group of consecutive numbers."""

from __future__ import annotations

import numpy as np

from edgec.calibrate.grids import SMALLEST_SCALE
from edgec.errors import UserError
from edgec.ir.graph import Node, Value
from edgec.ir.quantize import bounds, output_axis, quantize_dequantize
from edgec.ir.types import DType, Quant, Sparsity

_BIAS = float(1 << 30)  # an int32 bias stays below it, so that the sums have as much room again
_FINE_BIAS = float(1 << 22)  # steps of the bias of a channel without weights: as fine as a float32
_STEP, _STEPS = 0.025, 17  # of the widest scale; a finer search gains less than 0.02 dB on normal numbers


def channel_grid(weight: np.ndarray, axis: int | None, dtype: DType = DType.INT8, bias: np.ndarray | None = None,
                 data_scale: float = 1.0) -> Quant:
    """The symmetric grid that just holds every channel of a weight; axis None: one scale for all.

    Formula: s[k] = max |w[k]| / qmax, at least |b[k]| / (data_scale * 2**30), so that the int32 bias holds b[k]; a
             channel that is all zero has s[k] = |b[k]| / (data_scale * 2**22), or 1 without a bias.
    Numerics: float64, rounded once to float32; never below the smallest normal float32.
    Raises: UserError if a weight is not finite.
    """
    if not np.isfinite(weight).all():
        raise UserError("a weight is NaN or infinite", expected="finite weights",
                        hint="the training has diverged, or the file is damaged")
    rest = tuple(i for i in range(weight.ndim) if axis is None or i != axis)
    largest = np.abs(weight).max(axis=rest, initial=0.0).astype(np.float64)
    scale = largest / bounds(dtype)[1]
    if bias is not None:
        size = np.abs(bias.astype(np.float64).reshape(-1)) / data_scale
        size = size.max(initial=0.0) if axis is None else size
        scale = np.where(largest > 0, np.maximum(scale, size / _BIAS), size / _FINE_BIAS)
    scale = np.where(scale > 0, np.maximum(scale, SMALLEST_SCALE), 1.0).astype(np.float32)
    return Quant(dtype, scale, np.zeros(scale.shape, dtype.numpy), axis)


def group_grid(weight: np.ndarray, axis: int, dtype: DType, size: int) -> Quant:
    """The symmetric grid of a weight with one scale for each `size` consecutive numbers along `axis`.

    Formula: s = max |w| / qmax of each group; 1 for a group of zeros. The last group may be shorter.
    Raises: UserError if a weight is not finite. ValueError for groups of less than one number.
    """
    if size < 1:
        raise ValueError(f"a group has at least one number, not {size}")
    if not np.isfinite(weight).all():
        raise UserError("a weight is NaN or infinite", expected="finite weights",
                        hint="the training has diverged, or the file is damaged")
    starts = np.arange(0, weight.shape[axis], size)
    scale = np.maximum.reduceat(np.abs(weight), starts, axis=axis).astype(np.float64) / bounds(dtype)[1]
    scale = np.where(scale > 0, np.maximum(scale, SMALLEST_SCALE), 1.0).astype(np.float32)
    return Quant(dtype, scale, np.zeros(scale.shape, dtype.numpy), axis, size)


def fitted_group_grid(weight: np.ndarray, axis: int, dtype: DType, size: int) -> Quant:
    """As `group_grid`, with each group's scale shrunk to where its squared error is least.

    With 15 levels it pays to cut off a lone large weight, and a scale that is 1/8 smaller reaches down to qmin.
    Numerics: tries s * f for f = 1, 0.975 ... 0.6; of equals, the largest.
    """
    widest = group_grid(weight, axis, dtype, size)
    starts = np.arange(0, weight.shape[axis], size)
    best, least = widest.scale, np.full(widest.scale.shape, np.inf)
    for step in range(_STEPS):
        scale = (widest.scale * np.float32(1 - step * _STEP)).astype(np.float32)
        quant = Quant(dtype, np.maximum(scale, SMALLEST_SCALE), widest.zero_point, axis, size)
        error = (quantize_dequantize(weight, quant).astype(np.float64) - weight) ** 2
        noise = np.add.reduceat(error, starts, axis=axis)
        best, least = np.where(noise < least, quant.scale, best), np.minimum(noise, least)
    return Quant(dtype, best, widest.zero_point, axis, size)


def product_grid(node: Node, data: Quant, dtype: DType = DType.INT8) -> Quant:
    """The grid of the weight of a product whose data lies on the grid `data`, one scale per output channel."""
    weight, bias = node.operand(1).const, node.input(2)
    assert weight is not None
    return channel_grid(weight, output_axis(node), dtype, None if bias is None else bias.const, float(data.scale))


def on_grid(name: str, weight: np.ndarray, quant: Quant, sparsity: Sparsity | None = None) -> Value:
    """A constant whose numbers are those of `weight`, rounded to the grid, and which says so.

    sparsity: the pattern of `weight`, which a grid with zero point 0 keeps.
    """
    return Value.constant(name, quantize_dequantize(weight, quant), quant, sparsity)
