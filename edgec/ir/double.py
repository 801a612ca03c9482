"""The same graph in double precision: what the model means, without the rounding of float32."""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph
from edgec.ir.types import DType, TensorType


def in_double_precision(graph: Graph) -> Graph:
    """A copy in which every float32 is a float64: types, constants, element types of casts, bodies of If and Loop.

    Raises ValueError for a graph with quantized values: their grids are part of the meaning, and stated in float32.
    """
    twin = graph.copy()
    _widen(twin)
    return twin


def _widen(graph: Graph) -> None:
    for value in graph.values():
        if value.quant is not None:
            raise ValueError(f"{value.name} is quantized")
        if value.dtype is DType.FLOAT32:
            value.type = TensorType(DType.FLOAT64, value.type.shape)
            if value.const is not None:
                value.const = value.const.astype(np.float64)
    for node in graph.nodes:
        for name, attribute in node.attributes.items():
            if attribute is DType.FLOAT32:
                node.attributes[name] = DType.FLOAT64
            elif isinstance(attribute, Graph):
                _widen(attribute)
