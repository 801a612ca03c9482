"""The same graph for several samples at once, where no sample has a say in the others' results."""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Value
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import infer_types


def batched(graph: Graph, count: int) -> Graph | None:
    """A copy of `graph` that takes `count` samples along the first axis, None if that cannot be.

    Shapes that are written out with a batch of 1 grow; all types are inferred anew. It cannot be when: (1) an input
    has no first axis of 1; (2) a node has a body, or types do not follow any more; (3) an output does not grow.
    That samples stay apart is not proved here: compare a few of them with what one at a time gives.
    """
    if any(v.type.rank < 1 or v.type.shape[0] != 1 for v in (*graph.inputs, *graph.outputs)):  # (1)
        return None
    if any(isinstance(a, Graph) for n in graph.nodes for a in n.attributes.values()):  # (2)
        return None
    graph = graph.copy()
    for value in graph.inputs:
        value.type = TensorType(value.dtype, (count, *value.type.shape[1:]))
    for node in graph.nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and node.op in ("Reshape", "Expand") and index == 1:
                grown = _grown(value, node.outputs[0], count, graph)
                if grown is not None:
                    graph.set_input(node, index, grown)
        try:
            types = infer_types(node)
        except ValueError:  # (2)
            return None
        for value, type_ in zip(node.outputs, types, strict=True):
            value.type = type_
    return graph if all(v.type.shape[:1] == (count,) for v in graph.outputs) else None  # (3)


def _grown(shape: Value, output: Value, count: int, graph: Graph) -> Value | None:
    """The constant shape with `count` in front instead of 1; None if it does not begin with 1."""
    array = shape.const
    if array is None or shape.dtype is not DType.INT64 or not array.size or array[0] != 1:
        return None
    if output.type.rank != array.size:
        return None
    return Value.constant(graph.unique_name(f"{shape.name}_{count}"), np.concatenate([[count], array[1:]]))
