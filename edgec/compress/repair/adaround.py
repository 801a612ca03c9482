"""AdaRound: each weight is rounded up or down as the results of its layer want it, not to the nearest number.

Formula: w(V) = s * clamp(floor(w / s) + h(V)), h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1);
         minimize sum_i a[i] mean (g(f(x, w(V)) + c) - g(f(x, w)))^2 / r + lambda * mean (1 - |2 h(V) - 1|^beta) over
         samples i, beta falling from 20 to 2; g: the activation behind the product (section 4.2 of the paper: what Relu
         cuts off need not be right), if it is the only reader; c[k] = -mean (f(x, w(V)) - f(x, w))[k] where the bias is
         corrected afterwards, else 0; a[i] = 1 / (p[i] + median p), p[i] the mean square of what nearest rounding does
         in sample i; r: the first sum with nearest rounding.
By r, the error that is to shrink, both terms have one size on every grid. By the power of the results, the second one
would outweigh the first on 8 bits, where it is a thousand times smaller, and nearest rounding would come out.
x is the data of the float graph, as in `correct_bias`: with the data that all roundings before make, weights would
chase the errors of the data, which on 8 bits are the larger part, most of all those of a few loud samples, whose ends
are cut off: of DS-CNN-S the results of nearly all layers came nearer, and the outputs lost 2 dB.
A layer keeps its nearest numbers unless its error falls on samples that it was not learned from, by more than the
standard error of that. A weight of 0 stays 0, so sparsity patterns stay.
Source: Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization, arXiv:2004.10568, equations 21
to 25 without the data of equation 26; the schedule is that of its section 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from edgec.compress import torch_ops
from edgec.compress.quantize.annotate import Numbers, bias_place
from edgec.compress.quantize.observe import Feeds
from edgec.compress.quantize.outputs import affordable
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.taps import Taps
from edgec.compress.torch_ops.rule import to_tensor
from edgec.ir.graph import Node
from edgec.ir.quantize import bounds, quantize_dequantize, spread
from edgec.ir.types import Quant
from edgec.progress import Progress, silent

_STEPS = 400
_LEAST = 16  # samples, however large the graph is
_CHECKED = 4  # every so many samples, one is not learned from
_BATCH = 8  # samples of one step; more where a sample has few positions
_POSITIONS = 2048  # of one step, if there are so many: means of channels are taken over them
_RATE = 3e-2
_PULL = 8.0  # lambda; errors of layers of ResNet-8 and DS-CNN-S fall by 3.3 dB with it, and by 1.5 dB with 0.5
_WARM = 0.2  # share of the steps without the regularizer
_BETA = (20.0, 2.0)
_LOW, _HIGH = -0.1, 1.1  # of the stretched sigmoid


@dataclass(frozen=True)
class RoundedWeight:
    """One product. error: what rounding weights adds to its results, as a share of their power, on samples that it was
    not learned from, with nearest and learned rounding; moved: share of the weights that are not rounded to the nearest
    number; taken: the learned ones are used.
    """

    product: str
    error: tuple[float, float]
    moved: float
    taken: bool


@dataclass(frozen=True)
class RoundedWeights:
    """numbers: for `Prepared`, those that were given included; rows: of all products."""

    numbers: Mapping[str, Numbers]
    rows: tuple[RoundedWeight, ...]


def learn_rounding(prepared: Prepared, samples: Sequence[Feeds], *, centered: bool = False, steps: int = _STEPS,
                   threads: int = 1, progress: Progress = silent) -> RoundedWeights:
    """Learned rounding for the weights of all products on grids. The same samples give the same numbers.

    samples: every fourth one says which layers have gained; large graphs take fewer. With less than four nothing is
    learned. centered: biases are corrected afterwards, so that only what varies about the mean of a channel counts.
    """
    numbers = dict(prepared.numbers)
    products = prepared.placement.products
    samples = samples[:affordable(prepared.graph, len(products), least=_LEAST, most=max(len(samples), 1))]
    held = range(_CHECKED - 1, len(samples), _CHECKED)
    if not held:
        return RoundedWeights(numbers, ())
    rows: list[RoundedWeight] = []
    nodes = {n.name: n for n in prepared.graph.nodes}
    grids = {n.name: n.operand(1).quant for n in prepared.annotated().nodes if n.name in products}
    with _threads(threads):
        for index, name in enumerate(products):
            progress("repair", index / len(products), f"rounding of {name}")
            node, quant = nodes[name], grids[name]
            assert quant is not None
            taps = Taps(prepared.graph, [node.operand(0).name], 1, threads)
            data = np.stack([array for _, array, _ in taps.run(samples)])
            layer = _Layer(node, quant, data, centered and bias_place(node) is not None)
            learned = layer.learn(steps, index, [i for i in range(len(samples)) if i not in held])
            (before, nearest_share), (after, share) = (layer.shares(w, held) for w in (layer.nearest, learned))
            taken = _is_sure(before - after)
            if taken:
                numbers[name] = replace(numbers.get(name, Numbers()), weight=learned)
            rows.append(RoundedWeight(name, (nearest_share, share), float((learned != layer.nearest).mean()), taken))
    return RoundedWeights(numbers, tuple(rows))


def _is_sure(gain: np.ndarray) -> bool:
    """True if the mean of gains of samples is larger than its standard error."""
    return bool(gain.mean() > gain.std() / math.sqrt(max(gain.size - 1, 1)))


class _Layer:
    """One product with the data that it reads. data: [samples, ...]; centered: the mean of a channel's error is 0.

    Squares are taken of results by a power of two near their size: exact, and they stay within float32.
    """

    def __init__(self, node: Node, quant: Quant, data: np.ndarray, centered: bool) -> None:
        weight = node.operand(1).const
        assert weight is not None
        self._node, self._quant, self._weight, self._centered = node, quant, weight, centered
        self._activation = _activation(node)
        self._data = to_tensor(data)
        self.nearest = quantize_dequantize(weight, quant)
        every = list(range(len(data)))
        bias = None if node.input(2) is None else node.operand(2).const
        with torch.no_grad():
            self._made = self._run(every, to_tensor(weight), None if bias is None else to_tensor(bias))
        power = float(self._activate(self._made).double().square().mean())
        self._unit = 2.0 ** -round(math.log2(power) / 2) if power > 0 else 1.0
        self._power = max(power * self._unit**2, 1e-30)
        noise = torch.from_numpy(self.noise(self.nearest, every))
        usual = float(noise.median())
        self._trust = (1 / (noise + usual) if usual > 0 else torch.ones_like(noise)).float()
        self._nearest_error = float((self._trust * noise).mean())

    def noise(self, weight: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
        """The mean square of what rounding adds to the results of each chosen sample."""
        with torch.no_grad():
            found: np.ndarray = self._noise(to_tensor(weight - self._weight), chosen).numpy()
        return found

    def shares(self, weight: np.ndarray, chosen: Sequence[int]) -> tuple[np.ndarray, float]:
        """(errors of the chosen samples as they count in the sum that is minimized, their noise by the power)."""
        noise = self.noise(weight, chosen)
        return self._trust[list(chosen)].numpy() * noise, float(noise.mean()) / self._power

    def learn(self, steps: int, seed: int, samples: Sequence[int]) -> np.ndarray:
        """The weight, rounded as the results of some of the samples want it."""
        if not self._nearest_error:
            return self.nearest
        low, high = bounds(self._quant.dtype)
        scale = np.broadcast_to(spread(self._quant.scale, self._quant, self._weight.shape), self._weight.shape)
        steps_of = self._weight.astype(np.float64) / scale
        floor = np.floor(steps_of)
        share = np.clip((steps_of - floor - _LOW) / (_HIGH - _LOW), 1e-3, 1 - 1e-3)
        free = to_tensor((self._weight != 0).astype(np.float32))
        below, wide, exact = (to_tensor(np.ascontiguousarray(a, np.float32)) for a in (floor, scale, self._weight))
        logits = torch.tensor(np.log(share / (1 - share)).astype(np.float32), requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=_RATE)
        random = torch.Generator().manual_seed(seed)
        batch = max(_BATCH, _POSITIONS * self._made.shape[self._axis] * len(self._data) // self._made.numel())
        for step in range(steps):
            chosen = [samples[i] for i in torch.randperm(len(samples), generator=random)[:batch].tolist()]
            up = _rectified(logits) * free
            noise = self._noise(wide * torch.clamp(below + up, low, high) - exact, chosen)
            loss = (self._trust[chosen] * noise).mean() / self._nearest_error
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

    @property
    def _axis(self) -> int:
        """Of the channels of the results."""
        return 1 if self._node.op.startswith("Conv") else self._made.dim() - 1

    def _noise(self, change: Any, chosen: Sequence[int]) -> Any:
        """Of each chosen sample, what a change of the weight does to the results."""
        off = self._run(chosen, change, None)
        if self._centered:
            off = off - off.mean(dim=[d for d in range(off.dim()) if d != self._axis], keepdim=True)
        if self._activation is not None:
            made = self._of(self._made, chosen)
            off = self._activate(made + off) - self._activate(made)
        return (off * self._unit).square().reshape(len(chosen), -1).mean(dim=1)

    def _run(self, chosen: Sequence[int], weight: Any, bias: Any) -> Any:
        data = self._data[list(chosen)]
        return torch_ops.FORMS[self._node.op].run(self._node, [data.reshape(-1, *data.shape[2:]), weight, bias])[0]

    def _of(self, made: Any, chosen: Sequence[int]) -> Any:
        """The results of some of the samples."""
        rows = made.reshape(len(self._data), -1, *made.shape[1:])[list(chosen)]
        return rows.reshape(-1, *made.shape[1:])

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


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads of torch, as long as it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
