"""Run a graph with onnx's reference implementation: slow, plain, and the meaning that every backend must meet.

A value with a Quant is rounded to its grid. Products of quantized values (Conv, ConvTranspose, Gemm, MatMul) and means
of them (AveragePool, GlobalAveragePool, ReduceMean, ReduceSum) are exact: integers, int32 bias, one float32 multiply,
round half to even, clamp; `ir/quantize.py` has the formulas. In a graph with quantized activations, elementary
functions and Resize are computed operation by operation as CPU engines do, so that what is rounded to a grid has their
bits. A node in float16 is computed in float32, and each of its outputs rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import (
    average_scale,
    bias_integers,
    dequantize,
    product_scale,
    quantize,
    quantize_dequantize,
    requantize,
)
from edgec.ir.types import Quant
from edgec.ops import QuantRole, table
from edgec.ops.elementary import evaluate_rounded
from edgec.ops.interpolation import resize
from edgec.ops.semantics import evaluate

__all__ = ["interpret", "quantize_dequantize"]


def interpret(graph: Graph, feeds: Mapping[str, np.ndarray], taps: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Outputs of `graph` by name, for inputs by name; the values that `taps` names come with them.

    Raises KeyError for a missing input or an unknown tap, ValueError for a feed of a wrong shape or element type and
    for a node whose result is not what the graph states, NotImplementedError for an op without reference.
    """
    wanted = dict.fromkeys((*(v.name for v in graph.outputs), *taps))
    unknown = sorted(wanted.keys() - {v.name for v in graph.values()})
    if unknown:
        raise KeyError(f"no value is called {unknown[0]!r}")
    results = {v.name: v.const for v in graph.constants() if v.name in wanted and v.const is not None}
    known: dict[int, np.ndarray] = {}
    last = {id(v): index for index, node in enumerate(graph.nodes) for v in node.input_values}

    rounded = any(v.quant is not None and v.const is None for v in graph.values())

    def read(value: Value) -> np.ndarray:
        return known[id(value)] if value.const is None else value.const

    def store(value: Value, array: np.ndarray) -> None:
        known[id(value)] = array
        if value.name in wanted:
            results[value.name] = array

    for value in graph.inputs:
        array = np.asarray(feeds[value.name])
        _check(value, array, f"input {value.name!r}")
        store(value, array if value.quant is None else quantize_dequantize(array, value.quant))
    for index, node in enumerate(graph.nodes):
        arrays = [None if v is None else read(v) for v in node.inputs]
        for value, array in zip(node.outputs, _run(node, arrays, rounded), strict=True):
            _check(value, array, f"{node.where}: output {value.name!r}")
            store(value, array)
        for operand in node.input_values:
            if last[id(operand)] == index:
                known.pop(id(operand), None)  # nobody reads it again
    return {name: results[name] for name in wanted}


def _evaluate(node: Node, arrays: Sequence[np.ndarray | None], rounded: bool) -> list[np.ndarray]:
    """The outputs of a node in float. rounded: elementary functions and interpolation as CPU engines round them."""
    data = arrays[0] if rounded and arrays else None
    if data is not None and data.dtype == np.float32:
        if node.op == "Resize" and not node.domain and data.size:
            return [resize(node, data)]
        exact = evaluate_rounded(node, data)
        if exact is not None:
            return [exact]
    if any(a is not None and a.dtype == np.float16 for a in arrays) and not any(
            isinstance(a, Graph) for a in node.attributes.values()):
        arrays = [a.astype(np.float32) if a is not None and a.dtype == np.float16 else a for a in arrays]
    return evaluate(node, arrays)


def _run(node: Node, arrays: Sequence[np.ndarray | None], rounded: bool) -> list[np.ndarray]:
    """The outputs of a node, on their grids."""
    if any(_has_quant(a) for a in node.attributes.values() if isinstance(a, Graph)):
        raise NotImplementedError(f"{node.where}: quantized values inside a body")
    spec = table.find(node)
    if spec is not None and spec.quant in (QuantRole.COMPUTE, QuantRole.REQUANTIZES):
        exact = _run_exact(node, arrays) if spec.quant is QuantRole.COMPUTE else _run_average(node, arrays)
        if exact is not None:
            return [exact]
    results = []
    for value, array in zip(node.outputs, _evaluate(node, arrays, rounded), strict=True):
        with np.errstate(over="ignore"):  # too large for float16: infinity
            array = array.astype(value.dtype.numpy, copy=False)  # some are computed in more bits
        results.append(array if value.quant is None else quantize_dequantize(array, value.quant))
    return results


def _run_exact(node: Node, arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The output of a product in integer arithmetic, None if the node has no such form."""
    scale = product_scale(node)
    if scale is None:
        return None
    integers: list[np.ndarray | None] = []
    for value, array in zip(node.inputs[:2], arrays[:2], strict=True):
        assert value is not None
        assert value.quant is not None
        assert array is not None
        one = Quant(value.quant.dtype, np.ones_like(value.quant.scale), value.quant.zero_point, value.quant.axis)
        integers.append(dequantize(quantize(array, value.quant), one).astype(np.float64))
    for bias in arrays[2:]:
        integers.append(None if bias is None else bias_integers(bias, scale))
    output = node.outputs[0]
    return requantize(evaluate(node, integers)[0], scale, output.quant).astype(output.dtype.numpy)


def _run_average(node: Node, arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The output of a mean or sum in integer arithmetic, None if the node has no such form."""
    scale, data = average_scale(node), node.operand(0)
    if scale is None or data.quant is None or arrays[0] is None:
        return None
    one = Quant(data.quant.dtype, np.float32(1), data.quant.zero_point)
    steps = dequantize(quantize(arrays[0], data.quant), one).astype(np.float64)
    counts = np.rint(data.quant.scale.astype(np.float64) / scale)
    sums = np.rint(evaluate(node, [steps, *arrays[1:]])[0] * counts)
    return requantize(sums, scale, node.outputs[0].quant).astype(node.outputs[0].dtype.numpy)


def _has_quant(body: Graph) -> bool:
    inner = (a for n in body.nodes for a in n.attributes.values() if isinstance(a, Graph))
    return any(v.quant is not None for v in body.values()) or any(map(_has_quant, inner))


def _check(value: Value, array: np.ndarray, what: str) -> None:
    stated = value.type.shape
    if len(stated) != array.ndim or any(d not in (None, e) for d, e in zip(stated, array.shape, strict=True)):
        raise ValueError(f"{what} has shape {array.shape}, expected {stated}")
    if array.dtype != value.dtype.numpy:
        raise ValueError(f"{what} has element type {array.dtype}, expected {value.dtype.value}")
