"""Integer grids as an engine stores them: in one signedness, and floats at its borders.

Numbers never change: UINT8 with zero point z and INT8 with zero point z - 128 are the same grid, counted differently.
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, Quant
from edgec.plan.plan import Kernel, in_bytes

_SHIFT = 128  # between the integers of UINT8 and INT8


def settle(graph: Graph, kernels: list[Kernel], *, signed: bool) -> list[Kernel]:
    """The kernels with 8-bit grids in one representation, and with conversions at the borders. Changes `graph`.

    (1) Activations are INT8 if `signed` (dot products and widening multiplies of Arm take two signed factors), else
    UINT8 (VNNI's first factor); constants are INT8. (2) A graph input or output has no grid of at most 8 bits: one
    Identity node quantizes or dequantizes it, whose inner side carries the grid. Their names stay.
    Grids of fewer bits keep their type.
    """
    first = [_enter(graph, kernels, v) for v in graph.inputs if in_bytes(v.quant)]
    last = [_leave(graph, kernels, v) for v in graph.outputs if in_bytes(v.quant)]
    for value in graph.values():
        if value.quant is not None:
            value.quant = recounted(value.quant, signed=signed or value.const is not None)
    return [*first, *kernels, *last]


def recounted(quant: Quant, *, signed: bool) -> Quant:
    """The same grid as INT8 or UINT8; other types stay as they are."""
    wanted = DType.INT8 if signed else DType.UINT8
    if quant.dtype not in (DType.INT8, DType.UINT8) or quant.dtype is wanted:
        return quant
    zero = quant.zero_point.astype(np.int32) + (-_SHIFT if signed else _SHIFT)
    return Quant(wanted, quant.scale, zero.astype(wanted.numpy), quant.axis, quant.block)


def _enter(graph: Graph, kernels: list[Kernel], value: Value) -> Kernel:
    """Readers of a graph input read its quantized copy."""
    inner = Value(graph.unique_name(f"{value.name}_grid"), value.type, quant=value.quant)
    value.quant = None
    _read_instead(graph, kernels, value, inner)
    return _conversion(graph, value, inner, graph.nodes[0] if graph.nodes else None)


def _leave(graph: Graph, kernels: list[Kernel], value: Value) -> Kernel:
    """The producer of a graph output writes its quantized copy, which all readers read."""
    inner = Value(graph.unique_name(f"{value.name}_grid"), value.type, quant=value.quant)
    node = value.producer
    assert node is not None  # graph outputs are produced by nodes
    node.outputs = tuple(inner if v is value else v for v in node.outputs)
    inner.producer, value.producer, value.quant = node, None, None
    _read_instead(graph, kernels, value, inner)
    for kernel in kernels:
        kernel.outputs = [inner if v is value else v for v in kernel.outputs]
    return _conversion(graph, inner, value, None)


def _read_instead(graph: Graph, kernels: list[Kernel], old: Value, new: Value) -> None:
    for node, index in list(old.uses):
        graph.set_input(node, index, new)
    for kernel in kernels:
        kernel.inputs = [new if v is old else v for v in kernel.inputs]


def _conversion(graph: Graph, source: Value, result: Value, before: Node | None) -> Kernel:
    node = graph.add(Node("Identity", [source], [result], name=graph.unique_name(result.name)), before)
    return Kernel(node.name, [node], None, [source], [], [result])
