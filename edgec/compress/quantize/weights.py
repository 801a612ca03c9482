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
    """The grid with a scale and a zero point for each `size` numbers along `axis` that has the least squared error.

    With 16 levels it pays to use those of both signs fully, and to cut off a lone large weight.
    Formula: s = f * (max(w, 0) - min(w, 0)) / (qmax - qmin), f = 1, 0.975 ... 0.6; z as the lowest number asks, and one
             more and less; or the symmetric grid of `group_grid`, if none is better.
    Raises: as `group_grid`.
    """
    plain = group_grid(weight, axis, dtype, size)
    low_q, high_q = bounds(dtype)
    starts = np.arange(0, weight.shape[axis], size)
    high = np.maximum(np.maximum.reduceat(weight, starts, axis=axis), 0).astype(np.float64)
    low = np.minimum(np.minimum.reduceat(weight, starts, axis=axis), 0).astype(np.float64)
    scales, zeros = plain.scale, plain.zero_point.astype(np.int64)
    least = _noise(weight, plain, starts)
    for step in range(_STEPS):
        share = 1 - step * _STEP
        scale = ((high - low) * share / (high_q - low_q)).astype(np.float32)
        scale = np.where(high > low, np.maximum(scale, SMALLEST_SCALE), np.float32(1)).astype(np.float32)
        for offset in (0, -1, 1):
            zero = np.clip(np.rint(low_q - low * share / scale) + offset, low_q, high_q).astype(np.int64)
            quant = Quant(dtype, scale, zero.astype(dtype.numpy), axis, size)
            noise = _noise(weight, quant, starts)
            better = noise < least
            scales, zeros = np.where(better, scale, scales), np.where(better, zero, zeros)
            least = np.minimum(noise, least)
    return Quant(dtype, scales.astype(np.float32), zeros.astype(dtype.numpy), axis, size)


def _noise(weight: np.ndarray, quant: Quant, starts: np.ndarray) -> np.ndarray:
    """The squared error of each group."""
    error = (quantize_dequantize(weight, quant).astype(np.float64) - weight) ** 2
    noise: np.ndarray = np.add.reduceat(error, starts, axis=quant.axis or 0)
    return noise


def product_grid(node: Node, data: Quant, dtype: DType = DType.INT8, per_channel: bool = True) -> Quant:
    """The grid of the weight of a product whose data lies on the grid `data`.

    per_channel: one scale for each output channel, or one for all.
    """
    weight, bias = node.operand(1).const, node.input(2)
    assert weight is not None
    axis = output_axis(node) if per_channel else None
    return channel_grid(weight, axis, dtype, None if bias is None else bias.const, float(data.scale))


def on_grid(name: str, weight: np.ndarray, quant: Quant, sparsity: Sparsity | None = None) -> Value:
    """A constant whose numbers are those of `weight`, rounded to the grid, and which says so.

    sparsity: the pattern of `weight`, which a grid with zero point 0 keeps.
    """
    return Value.constant(name, quantize_dequantize(weight, quant), quant, sparsity)
