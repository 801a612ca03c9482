"""AdaRound: each weight is rounded up or down as the results of its layer want it, not to the nearest number.

Formula: w(V) = s * clamp(floor(w / s) + h(V)), h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1);
         minimize mean (g(f(x_grid, w(V)) + c) - g(f(x, w)))^2 + lambda * sum (1 - |2 h(V) - 1|^beta), beta falling
         from 20 to 2; c: the correction of the bias that is there already; g: the activation behind the product
         (section 4.2 of the paper: what Relu cuts off need not be right), if it is the only reader.
Products are taken in the order of the graph: x_grid is what the layer reads once all before it are rounded. A layer
whose error on all samples does not fall keeps its nearest numbers. A weight of 0 stays 0, so sparsity patterns stay.
Source: Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization, arXiv:2004.10568,
equations 21 to 25; the weights of the regularizer and its schedule are those of its section 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from edgec.compress import torch_ops
from edgec.compress.quantize.annotate import Numbers, bias_place
from edgec.compress.quantize.observe import Feeds
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.taps import Taps
from edgec.compress.torch_ops.rule import to_tensor
from edgec.ir.graph import Node
from edgec.ir.quantize import bounds, quantize_dequantize, spread
from edgec.ir.types import Quant
from edgec.progress import Progress, silent

_STEPS = 400
_BATCH = 4  # samples of one step
_RATE = 1e-2
_PULL = 0.01  # lambda, for an error that is relative to the power of the layer's results
_WARM = 0.2  # share of the steps without the regularizer
_BETA = (20.0, 2.0)
_LOW, _HIGH = -0.1, 1.1  # of the stretched sigmoid


@dataclass(frozen=True)
class RoundedWeight:
    """One product. error: squared error of its results relative to their square, with nearest and learned rounding;
    moved: share of the weights that are not rounded to the nearest number. Equal errors: nothing was taken over.
    """

    product: str
    error: tuple[float, float]
    moved: float


@dataclass(frozen=True)
class RoundedWeights:
    """numbers: for `Prepared`, those that were given included; rows: of all products."""

    numbers: Mapping[str, Numbers]
    rows: tuple[RoundedWeight, ...]


def learn_rounding(prepared: Prepared, samples: Sequence[Feeds], *, steps: int = _STEPS, threads: int = 1,
                   progress: Progress = silent) -> RoundedWeights:
    """Learned rounding for the weights of all products on grids. The same samples give the same numbers."""
    numbers = dict(prepared.numbers)
    rows: list[RoundedWeight] = []
    nodes = {n.name: n for n in prepared.graph.nodes}
    for index, name in enumerate(prepared.placement.products):
        progress("repair", index / len(prepared.placement.products), f"rounding of {name}")
        node = nodes[name]
        annotated = replace(prepared, numbers=numbers).annotated()
        twin = next(n for n in annotated.nodes if n.name == name)
        quant = twin.operand(1).quant
        assert quant is not None
        data = _watched(Taps(annotated, [twin.operand(0).name], 1, threads), samples)
        wanted = _watched(Taps(prepared.graph, [node.outputs[0].name], 1, threads), samples)
        layer = _Layer(node, twin, quant, data, wanted, numbers.get(name, Numbers()).bias)
        learned = layer.learn(steps, index)
        before, after = layer.error(layer.nearest), layer.error(learned)
        moved = float((learned != layer.nearest).mean())
        if after < before:
            numbers[name] = replace(numbers.get(name, Numbers()), weight=learned)
        rows.append(RoundedWeight(name, (before, min(before, after)), moved if after < before else 0.0))
    return RoundedWeights(numbers, tuple(rows))


class _Layer:
    """One product with its data on grids and the results that it should have. data, wanted: [samples * first, ...];
    shift: what is added to its bias already, one number for each channel.
    """

    def __init__(self, node: Node, twin: Node, quant: Quant, data: np.ndarray, wanted: np.ndarray,
                 shift: np.ndarray | None = None) -> None:
        weight = node.operand(1).const
        assert weight is not None
        self._node, self._quant, self._weight = node, quant, weight
        self.nearest = quantize_dequantize(weight, quant)
        bias = twin.input(2)
        self._bias = None if bias is None or bias.const is None else to_tensor(bias.const)
        self._shift = None  # the bias of a Conv or Gemm has it already
        if shift is not None and bias_place(node) != (node, 2):
            self._shift = to_tensor(shift.astype(np.float32))
        self._activation = _activation(node)
        self._data, self._wanted = to_tensor(data), self._activate(to_tensor(wanted))
        self._power = max(float(self._wanted.double().square().mean()), 1e-30)
        self._first = node.operand(0).shape[0], node.outputs[0].shape[0]  # rows of one sample

    def error(self, weight: np.ndarray) -> float:
        """Of all samples, relative to the power of the results."""
        with torch.no_grad():
            off = self._run(self._data, to_tensor(weight)) - self._wanted
        return float(off.double().square().mean()) / self._power

    def learn(self, steps: int, seed: int) -> np.ndarray:
        """The weight, rounded as the results want it."""
        low, high = bounds(self._quant.dtype)
        scale = np.broadcast_to(spread(self._quant.scale, self._quant, self._weight.shape), self._weight.shape)
        steps_of = self._weight.astype(np.float64) / scale
        floor = np.floor(steps_of)
        share = np.clip((steps_of - floor - _LOW) / (_HIGH - _LOW), 1e-3, 1 - 1e-3)
        free = to_tensor((self._weight != 0).astype(np.float32))
        below, wide = to_tensor(floor.astype(np.float32)), to_tensor(np.ascontiguousarray(scale))
        logits = torch.tensor(np.log(share / (1 - share)).astype(np.float32), requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=_RATE)
        count = self._data.shape[0] // self._first[0]
        random = torch.Generator().manual_seed(seed)
        for step in range(steps):
            chosen = torch.randperm(count, generator=random)[:_BATCH]
            up = _rectified(logits) * free
            weight = wide * torch.clamp(below + up, low, high)
            off = self._run(self._rows(self._data, chosen, 0), weight) - self._rows(self._wanted, chosen, 1)
            loss = off.square().mean() / self._power
            done = step / steps
            if done > _WARM:
                beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 + math.cos(math.pi * (done - _WARM) / (1 - _WARM))) / 2
                loss = loss + _PULL * (1 - (2 * up - 1).abs().pow(beta)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        up = ((_rectified(logits) * free).detach().numpy() >= 0.5).astype(np.float64)
        rounded = np.clip(floor + up, low, high) * scale
        return quantize_dequantize(rounded.astype(np.float32), self._quant)

    def _rows(self, tensor: Any, chosen: Any, which: int) -> Any:
        """What belongs to some of the samples."""
        size = self._first[which]
        return tensor.reshape(-1, size, *tensor.shape[1:])[chosen].reshape(-1, *tensor.shape[1:])

    def _run(self, data: Any, weight: Any) -> Any:
        made = torch_ops.FORMS[self._node.op].run(self._node, [data, weight, self._bias])[0]
        return self._activate(made if self._shift is None else made + self._shift)

    def _activate(self, made: Any) -> Any:
        if self._activation is None:
            return made
        others = [None if v is None or v.const is None else to_tensor(v.const) for v in self._activation.inputs[1:]]
        return torch_ops.FORMS[self._activation.op].run(self._activation, [made, *others])[0]


def _activation(node: Node) -> Node | None:
    """The only reader of a product's result, if it cuts off what the result need not be right about."""
    result = node.outputs[0]
    if len(result.uses) != 1 or result.uses[0][1] != 0:
        return None
    reader = result.uses[0][0]
    known = reader.op in ("Relu", "Clip") and all(v is None or v.const is not None for v in reader.inputs[1:])
    return reader if known and not reader.domain else None


def _rectified(logits: Any) -> Any:
    return torch.clamp(torch.sigmoid(logits) * (_HIGH - _LOW) + _LOW, 0, 1)


def _watched(taps: Taps, samples: Sequence[Feeds]) -> np.ndarray:
    return np.concatenate([array for _, array, _ in taps.run(samples)])
