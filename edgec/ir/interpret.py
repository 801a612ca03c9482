"""Run a graph with onnx's reference implementation: slow, plain, and the meaning that every backend must meet.

A value with a Quant is rounded to its grid: scale * (clamp(round_half_even(x / scale) + zero_point) - zero_point).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgec.ir.graph import Graph, Value
from edgec.ir.types import Quant
from edgec.ops.semantics import evaluate


def quantize_dequantize(array: np.ndarray, quant: Quant) -> np.ndarray:
    """`array` rounded to the grid of `quant`, in float32 arithmetic. Source: ONNX QuantizeLinear, opset 21."""
    bounds = (np.iinfo if quant.dtype.numpy.kind in "iu" else _int4_bounds)(quant.dtype.numpy)
    scale, zero = quant.scale.astype(np.float32), quant.zero_point.astype(np.int32)
    if quant.axis is not None:
        if quant.block:
            scale, zero = (np.repeat(p, quant.block, axis=quant.axis) for p in (scale, zero))
        elif scale.ndim == 1:
            shape = [1] * array.ndim
            shape[quant.axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
    steps = np.clip(np.rint(array.astype(np.float32) / scale) + zero, bounds.min, bounds.max)
    return ((steps - zero) * scale).astype(array.dtype)


class _int4_bounds:
    def __init__(self, dtype: np.dtype) -> None:
        self.min, self.max = (0, 15) if dtype.name.startswith("u") else (-8, 7)


def interpret(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of `graph` by name, for inputs by name.

    Raises KeyError for a missing input, ValueError for a wrong shape, NotImplementedError for an op without reference.
    """
    known: dict[int, np.ndarray] = {}

    def read(value: Value | None) -> np.ndarray | None:
        if value is None:
            return None
        return known[id(value)] if value.const is None else value.const

    def store(value: Value, array: np.ndarray) -> None:
        known[id(value)] = quantize_dequantize(array, value.quant) if value.quant is not None else array

    for value in graph.inputs:
        array = np.asarray(feeds[value.name])
        if tuple(array.shape) != value.type.shape:
            raise ValueError(f"input {value.name!r} has shape {array.shape}, expected {value.type.shape}")
        store(value, array)
    for node in graph.nodes:
        for value, array in zip(node.outputs, evaluate(node, [read(v) for v in node.inputs]), strict=True):
            store(value, array)
    results = {}
    for value in graph.outputs:
        array = read(value)
        assert array is not None
        results[value.name] = array
    return results
