"""Puts small graphs on integer grids, plainly: ranges come from the graph's own numbers, nothing is optimized."""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.interpret import interpret
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import DType, Quant
from edgec.plan.kernels import group


def per_tensor(low: float, high: float, dtype: DType = DType.UINT8) -> Quant:
    """A grid of 256 steps from `low` to `high`, with any zero point."""
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-3)
    scale = np.float32((high - low) / 255)
    zero = round(-low / float(scale)) - (128 if dtype is DType.INT8 else 0)
    return Quant(dtype, scale, np.asarray(zero, dtype.numpy))


def per_channel(array: np.ndarray, axis: int, dtype: DType = DType.INT8) -> Quant:
    """Symmetric grids, one per index of `axis`."""
    others = tuple(d for d in range(array.ndim) if d != axis)
    scale = np.maximum(np.abs(array).max(axis=others), 1e-6).astype(np.float32) / np.float32(127)
    zero = np.full(scale.shape, 128 if dtype is DType.UINT8 else 0, dtype.numpy)
    return Quant(dtype, scale, zero, axis)


def weight_on_grid(node: Node, index: int, quant: Quant) -> None:
    """Let a constant operand lie on a grid."""
    value = node.operand(index)
    assert value.const is not None
    value.const, value.quant = quantize_dequantize(value.const, quant), quant


def entrance(graph: Graph, value: Value, quant: Quant) -> Value:
    """The quantized copy of a graph input, which all nodes read from now on."""
    inner = Value(graph.unique_name(f"{value.name}_on_grid"), value.type, quant=quant)
    for node, index in list(value.uses):
        graph.set_input(node, index, inner)
    graph.add(Node("Identity", [value], [inner]), graph.nodes[0])
    return inner


def on_grids(graph: Graph, feeds: dict[str, np.ndarray], dtype: DType = DType.UINT8,
             weights: DType = DType.INT8, skip: tuple[str, ...] = ()) -> Graph:
    """A copy with every float result of a kernel, every input and every weight on a grid. skip: ops that stay float."""
    graph = graph.copy()
    ends = [v for kernel in group(graph) for v in kernel.outputs
            if v.dtype is DType.FLOAT32 and kernel.nodes[-1].op not in skip]
    ranges = interpret(graph, feeds, [v.name for v in (*ends, *graph.inputs)])
    for value in ends:
        value.quant = per_tensor(float(ranges[value.name].min()), float(ranges[value.name].max()), dtype)
    for node in list(graph.nodes):
        if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.operand(1).const is not None:
            axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op, 0 if node.integer("transB", 0) else 1)
            array = node.operand(1).const
            assert array is not None
            if node.op == "ConvTranspose" and node.integer("group", 1) != 1:
                weight_on_grid(node, 1, Quant(weights, np.float32(np.abs(array).max() / 127),
                                              np.asarray(128 if weights is DType.UINT8 else 0, weights.numpy)))
            else:
                weight_on_grid(node, 1, per_channel(array, axis % array.ndim, weights))
    for value in graph.inputs:
        if value.dtype is DType.FLOAT32:
            entrance(graph, value, per_tensor(float(feeds[value.name].min()), float(feeds[value.name].max()), dtype))
    return graph


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal numbers for every input."""
    rng = np.random.default_rng(seed)
    return {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
