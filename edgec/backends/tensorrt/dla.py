"""The rules of the DLA, checked here, since TensorRT's x86 library has none: layer by layer, with the reason.

Source: NvInfer.h of TensorRT 10.3 (limits of each layer) and NVIDIA's page on DLA.
Ranges hold for height and width alike. Static shapes are given: an engine has no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Union

import numpy as np

from edgec.errors import Refusal
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType

_BATCH, _SIZE = 4096, 8192  # largest batch and largest other dimension
_SOFTMAX_ALONE, _SOFTMAX = 8192, 1024  # elements on the axis, if all other dimensions are 1, and otherwise
_CLIPPED = 127.0  # largest upper bound of a clipped Relu. Source: NVIDIA's operator pages, Activation
_WEIGHT_BYTES, _TENSOR_BYTES = 512 << 20, 1 << 30  # per subgraph

Answer = Union[tuple[str, str], None]


def check(graph: Graph) -> list[Refusal]:
    """Why layers of `graph` cannot run on a DLA, one Refusal for each. Rules: `dla.*`, see the functions below."""
    refusals = []
    for node in graph.nodes:
        answer = refuse(node)
        if answer is not None:
            refusals.append(Refusal(node.name, f"dla.{answer[0]}", answer[1], node.source))
    weights = sum(v.type.nbytes for v in graph.constants())
    if weights >= _WEIGHT_BYTES:
        refusals.append(Refusal(graph.name, "dla.memory", f"{weights} bytes of weights; a DLA takes less than 512 MiB"))
    return refusals


def refuse(node: Node) -> Answer:
    """(rule, text) why the DLA cannot run `node`, None if it can."""
    if node.domain or node.op not in _LAYERS:
        return "layer", f"the DLA has no {node.op}"
    for value in (node.operand(0), *node.outputs):
        if value.dtype not in (DType.FLOAT32, DType.FLOAT16, DType.INT8):
            return "type", f"{value.name} is {value.dtype.value}; the DLA has float16 and int8"
        if answer := _dimensions(value):
            return answer
    return _LAYERS[node.op](node)


def _dimensions(value: Value) -> Answer:
    shape = value.shape
    if shape and shape[0] > _BATCH:
        return "batch", f"{value.name} has batch {shape[0]}; the DLA takes at most {_BATCH}"
    if any(d > _SIZE for d in shape[1:]):
        return "size", f"{value.name} is {list(shape)}; the DLA takes at most {_SIZE} per dimension"
    if value.type.nbytes >= _TENSOR_BYTES:
        return "memory", f"{value.name} has {value.type.nbytes} bytes; the DLA takes less than 1 GiB"
    return None


def _outside(what: str, numbers: Sequence[int], low: int, high: int) -> str:
    """A text if one of `numbers` is not in low..high, else empty."""
    wrong = [n for n in numbers if not low <= n <= high]
    return f"{what} {wrong[0]}; the DLA takes {low} to {high}" if wrong else ""


def _conv(node: Node) -> Answer:
    weight = node.operand(1)
    if node.operand(0).type.rank != 4:
        return "conv", f"convolution over {node.operand(0).type.rank - 2} dimensions; the DLA has 2"
    if weight.const is None:
        return "conv", "the weights are computed"
    window = node.integers("kernel_shape", weight.shape[2:])
    pads = _pads(node)
    text = (_outside("window of", window, 1, 32) or _outside("stride of", node.integers("strides", [1, 1]), 1, 8)
            or _outside("padding of", pads, 0, 31) or _outside("dilation of", node.integers("dilations", [1, 1]), 1, 32)
            or _outside("output channels:", [weight.shape[0]], 1, 8192)
            or _outside("groups:", [node.integer("group", 1)], 1, 8192))
    if not text and any(p >= w for p, w in zip(pads, (*window, *window), strict=True)):
        text = f"padding {list(pads)} is not below the window {list(window)}"
    return ("conv", text) if text else None


def _deconv(node: Node) -> Answer:
    weight = node.operand(1)
    if node.operand(0).type.rank != 4:
        return "deconv", "the DLA has transposed convolutions over 2 dimensions only"
    if weight.const is None:
        return "deconv", "the weights are computed"
    if node.integer("group", 1) != 1:
        return "deconv", f"{node.integer('group', 1)} groups; the DLA takes 1"
    if any(_pads(node)) or any(node.integers("output_padding")):
        return "deconv", "padding; the DLA takes none"
    long = [(1, n) for n in (64, 96, 128)] + [(n, 1) for n in (64, 96, 128)]
    for what, pair in (("window", node.integers("kernel_shape", weight.shape[2:])),
                       ("stride", node.integers("strides", [1, 1]))):
        if tuple(pair) not in long and (text := _outside(f"{what} of", pair, 1, 32)):
            return "deconv", text
    if any(d != 1 for d in node.integers("dilations")):
        return "deconv", "dilation; the DLA takes none"
    return None


def _pool(node: Node) -> Answer:
    if node.operand(0).type.rank != 4:
        return "pool", "the DLA has pooling over 2 dimensions only"
    if any(d != 1 for d in node.integers("dilations")):
        return "pool", "dilation; the DLA takes none"
    text = (_outside("window of", node.integers("kernel_shape"), 1, 8)
            or _outside("stride of", node.integers("strides", [1, 1]), 1, 16)
            or _outside("padding of", _pads(node), 0, 7))
    return ("pool", text) if text else _equal_ranges(node, "pool")


def _global_pool(node: Node) -> Answer:
    text = _outside("window of", node.operand(0).shape[2:], 1, 8)
    return ("pool", text) if text else _equal_ranges(node, "pool")


def _equal_ranges(node: Node, rule: str) -> Answer:
    """Int8 inputs and outputs must share one scale."""
    scales = [v.quant.scale for v in (*node.input_values, *node.outputs) if v.quant is not None]
    if len({s.tobytes() for s in scales}) > 1:
        return rule, f"the tensors of {node.op} have different int8 scales; the DLA wants one"
    return None


def _pads(node: Node) -> tuple[int, ...]:
    return node.integers("pads", [0, 0, 0, 0])


def _any(node: Node) -> Answer:
    return None


def _clip(node: Node) -> Answer:
    low, high = (v.const if v is not None else None for v in (node.input(1), node.input(2)))
    if low is None or high is None or float(low) != 0.0 or not 0.0 < float(high) <= _CLIPPED:
        return "activation", f"Clip between other bounds than 0 and at most {_CLIPPED:g}"
    return None


def _slope(node: Node) -> Answer:
    value = node.input(1)
    return ("activation", "the slope is computed") if value is None or value.const is None else None


def _elementwise(node: Node) -> Answer:
    if any(v.const is None and v.shape != node.outputs[0].shape for v in node.input_values):
        return "elementwise", f"{node.op} of tensors of different shapes"
    return _equal_ranges(node, "elementwise") if node.op != "Mul" else None


def _concat(node: Node) -> Answer:
    axis = node.integer("axis", 1) % node.outputs[0].type.rank
    return None if axis == 1 else ("concat", f"Concat on axis {axis}; the DLA joins channels only")


def _slice(node: Node) -> Answer:
    if node.operand(0).type.rank != 4:
        return "slice", "the DLA slices 4 dimensions only"
    steps, rank = node.parameter(4) or [1], node.operand(0).type.rank
    axes = node.parameter(3) or list(range(len(node.parameter(1) or ())))
    if any(s != 1 for s in steps):
        return "slice", f"a step of {steps}; the DLA takes 1"
    if any(a % rank == 0 and node.operand(0).shape[0] != node.outputs[0].shape[0] for a in axes):
        return "slice", "it cuts the batch"
    return None


def _split(node: Node) -> Answer:
    """TensorRT cuts with one Slice for each output."""
    rank = node.operand(0).type.rank
    if rank != 4:
        return "slice", "the DLA slices 4 dimensions only"
    return ("slice", "it cuts the batch") if node.integer("axis", 0) % rank == 0 else None


def _lrn(node: Node) -> Answer:
    size = node.integer("size", 0)
    return None if size in (3, 5, 7, 9) else ("lrn", f"a window of {size}; the DLA has 3, 5, 7 and 9")


def _softmax(node: Node) -> Answer:
    shape = node.operand(0).shape
    axis = node.integer("axis", -1) % len(shape)
    alone = all(d == 1 for i, d in enumerate(shape) if i != axis)
    limit = _SOFTMAX_ALONE if alone else _SOFTMAX
    return None if shape[axis] <= limit else ("softmax", f"{shape[axis]} elements on the axis; the DLA takes {limit}")


def _resize(node: Node) -> Answer:
    scales, mode = node.input(2), node.text("mode", "nearest")
    if scales is None or scales.const is None or not scales.const.size:
        return "resize", "it states output sizes; the DLA takes scales"
    factors = [float(s) for s in scales.const.reshape(-1)]
    if len(factors) != 4 or factors[:2] != [1.0, 1.0]:
        return "resize", f"scales {factors}; the DLA changes height and width of 4 dimensions"
    limit, where = {"nearest": 32, "linear": 4}.get(mode, 0), node.text("coordinate_transformation_mode", "half_pixel")
    if any(f != int(f) or not 1 <= f <= limit for f in factors[2:]):
        return "resize", f"scales {factors[2:]} in mode {mode}; the DLA takes whole numbers from 1 to {limit}"
    floor = node.text("nearest_mode", "round_prefer_floor") == "floor"
    if not (where == "half_pixel" or (mode == "nearest" and where == "asymmetric" and floor)):
        return "resize", f"coordinates {where}; the DLA has half_pixel, and asymmetric with floor for nearest"
    return None


def _reshape(node: Node) -> Answer:
    before, after = node.operand(0).shape, node.outputs[0].shape
    same_batch = bool(before) and bool(after) and before[0] == after[0]
    if same_batch and len(before) == 4 and len(after) <= 4:
        return None
    return "shuffle", f"{list(before)} becomes {list(after)}; the DLA starts from 4 dimensions and keeps the batch"


def _constant_axes(node: Node) -> Answer:
    scale = [v.const for v in node.input_values[1:]]
    return None if all(isinstance(s, np.ndarray) for s in scale) else ("scale", "its parameters are computed")


_LAYERS: dict[str, Callable[[Node], Answer]] = {
    "Conv": _conv, "ConvTranspose": _deconv, "MaxPool": _pool, "AveragePool": _pool,
    "GlobalAveragePool": _global_pool, "GlobalMaxPool": _global_pool,
    "Relu": _any, "Sigmoid": _any, "Tanh": _any, "Clip": _clip, "LeakyRelu": _any, "PRelu": _slope, "Abs": _any,
    "Add": _elementwise, "Sub": _elementwise, "Mul": _elementwise, "Max": _elementwise, "Min": _elementwise,
    "Concat": _concat, "Slice": _slice, "Split": _split, "LRN": _lrn, "Softmax": _softmax, "Resize": _resize,
    "Reshape": _reshape, "Flatten": _reshape, "BatchNormalization": _constant_axes, "Identity": _any,
}
