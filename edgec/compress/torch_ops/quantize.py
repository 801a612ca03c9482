"""Numbers on integer grids: fake quantization with a straight-through gradient, and DequantizeLinear.

Source: Bengio et al. 2013, arXiv:1308.3432 (straight-through estimator); ONNX operator DequantizeLinear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors
from edgec.ir.graph import Node
from edgec.ir.quantize import bounds, spread
from edgec.ir.types import DType, Quant

_FLOATS = {DType.FLOAT8E4M3FN: torch.float8_e4m3fn, DType.FLOAT8E5M2: torch.float8_e5m2,
           DType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz, DType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
           DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}


def why_no_grid(quant: Quant) -> Reason | None:
    """(rule, text) if torch cannot round to this grid, None if it can."""
    if quant.dtype.is_integer or quant.dtype in _FLOATS:
        return None
    return "torch.quant", f"rounding to {quant.dtype.name.lower()}"


class FakeQuant(nn.Module):  # type: ignore[misc]
    """Rounds to the grid of a Quant; the gradient passes through unchanged inside the range, and is 0 outside.

    Formula: scale * (clamp(round_half_even(x / scale) + zero_point) - zero_point), as `ir.quantize.quantize_dequantize`
    """

    scale: Any
    zero: Any

    def __init__(self, quant: Quant, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dtype = quant.dtype
        self.low, self.high = bounds(quant.dtype) if quant.dtype.is_integer else (0, 0)
        for name, array in (("scale", quant.scale.astype(np.float32)), ("zero", quant.zero_point.astype(np.float32))):
            self.register_buffer(name, torch.from_numpy(np.array(spread(array, quant, shape))), persistent=False)

    def forward(self, x: Any) -> Any:
        """`x` on the grid, in the same shape and type."""
        if not self.dtype.is_integer:
            grid = (x / self.scale).to(_FLOATS[self.dtype]).to(x.dtype) * self.scale
            return grid.detach() + (x - x.detach())
        steps = torch.clamp(torch.round(x / self.scale) + self.zero, self.low, self.high) - self.zero
        inside = torch.clamp(x, (self.low - self.zero) * self.scale, (self.high - self.zero) * self.scale)
        return (steps * self.scale).to(x.dtype).detach() + (inside - inside.detach())


def _dequantize(node: Node, x: Inputs) -> Tensors:
    axis, scale = node.integer("axis", 1), x[1]
    zero = x[2] if len(x) > 2 else None
    if scale.ndim == 1 and x[0].ndim > 1:
        shape = [1] * x[0].ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), None if zero is None else zero.reshape(shape)
    steps = x[0].to(scale.dtype)
    return [(steps if zero is None else steps - zero.to(scale.dtype)) * scale]


def _refuse(node: Node) -> Reason | None:
    return ("torch.quant", "DequantizeLinear in blocks") if node.integer("block_size", 0) else None


FORMS: dict[str, Form] = {"DequantizeLinear": Form(_dequantize, refuse=_refuse)}
