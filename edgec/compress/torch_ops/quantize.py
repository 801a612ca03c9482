"""Numbers on integer grids: fake quantization with a straight-through gradient, exact products, DequantizeLinear.

Source: Bengio et al. 2013, arXiv:1308.3432 (straight-through estimator); ONNX operator DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors
from edgec.ir.graph import Node
from edgec.ir.quantize import bounds, product_scale, spread
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

    learn: the scale trains too, with the gradient that rounding and clamping leave it, divided by sqrt(count * steps).
    Formula: scale * (clamp(round_half_even(x / scale), low - zero_point, high - zero_point)),
             as `ir.quantize.quantize_dequantize`
    Source: LSQ, Esser et al. 2020, arXiv:1902.08153, equations 1 to 3 and section 2.2.
    """

    scale: Any
    zero: Any

    def __init__(self, quant: Quant, shape: tuple[int, ...], learn: bool = False) -> None:
        super().__init__()
        self.quant, self.shape = quant, shape
        self.low, self.high = bounds(quant.dtype) if quant.dtype.is_integer else (0, 0)
        scale, zero = (torch.from_numpy(np.array(spread(a.astype(np.float32), quant, shape)))
                       for a in (quant.scale, quant.zero_point))
        learns = learn and quant.dtype.is_integer and not quant.block
        self.scale = nn.Parameter(scale, requires_grad=learns)
        self.register_buffer("zero", zero, persistent=False)

    @property
    def learns(self) -> bool:
        """True if the scale trains."""
        return bool(self.scale.requires_grad)

    def forward(self, x: Any) -> Any:
        """`x` on the grid, in the same shape and type."""
        if not self.quant.dtype.is_integer:
            return straight((x / self.scale).to(_FLOATS[self.quant.dtype]).to(x.dtype) * self.scale, x)
        scale = self.scale
        if self.learns:
            count = x.numel() / max(1, scale.numel())
            scale = straight(scale, scale * (count * max(self.high, 1)) ** -0.5)
        return self.rounded(x / scale, scale, x.dtype)

    def rounded(self, steps: Any, scale: Any, dtype: Any) -> Any:
        """The grid point at round(steps); steps: x / scale, however it was computed."""
        inside = torch.clamp(steps, self.low - self.zero, self.high - self.zero)
        return (straight(torch.round(inside), inside) * scale).to(dtype)

    def learned(self) -> Quant:
        """The Quant with the scale as it is now."""
        if not self.learns:
            return self.quant
        scale = self.scale.detach().numpy().reshape(self.quant.scale.shape)
        return replace(self.quant, scale=np.array(scale, np.float32))


def exact_product(node: Node, run: Callable[[Node, Inputs], Tensors], tensors: Inputs,
                  grid: FakeQuant | None) -> Any | None:
    """The output of a quantized product as every engine computes it, None if the node has no such form.

    run: the product itself; grid: that of the output. Numerics: whole numbers in float64, then as
    `ir.quantize.requantize`; the gradient is that of the product of the numbers on their grids.
    """
    scale = product_scale(node)
    if scale is None:
        return None
    factors = [_whole(t, v.quant) for t, v in zip(tensors[:2], node.input_values[:2], strict=True)]
    low, high = bounds(DType.INT32)
    wide = torch.from_numpy(np.array(scale)).to(factors[0].device)
    for bias in tensors[2:]:
        steps = None if bias is None else bias.double() / (wide.reshape(-1) if wide.ndim else wide)
        factors.append(None if steps is None else straight(torch.clamp(torch.round(steps), low, high), steps))
    sums = run(node, factors)[0].float()
    plain = sums * wide.float()
    quant = node.outputs[0].quant
    if grid is None or quant is None:
        return plain
    if not quant.dtype.is_integer:
        return grid(plain)
    factor = (scale / spread(quant.scale.astype(np.float64), quant, node.outputs[0].shape)).astype(np.float32)
    return grid.rounded(sums * torch.from_numpy(np.array(factor)).to(sums.device), grid.scale, plain.dtype)


def _whole(x: Any, quant: Quant | None) -> Any:
    """Numbers on the grid as whole numbers q - zero_point, in float64."""
    assert quant is not None
    scale, zero = (torch.from_numpy(np.array(spread(a.astype(np.float64), quant, tuple(x.shape)))).to(x.device)
                   for a in (quant.scale, quant.zero_point))
    steps, (low, high) = x.double() / scale, bounds(quant.dtype)
    return straight(torch.clamp(torch.round(steps) + zero, low, high) - zero, steps)


def straight(value: Any, slope: Any) -> Any:
    """The numbers of `value` with the gradient of `slope`."""
    return value.detach() + (slope - slope.detach())


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
