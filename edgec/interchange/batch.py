"""The same graph for several samples at once, where no sample has a say in the others' results."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import TensorType
from edgec.ops import table
from edgec.ops.semantics import infer_types


def batched(graph: Graph, count: int) -> Graph | None:
    """A copy of `graph` that takes `count` samples along the first axis, None if that cannot be.

    Shapes that are written out with a batch of 1 grow; all types are inferred anew. It cannot be when: (1) an input
    has no first axis of 1; (2) a value that depends on an input does not keep its samples along the first axis, and
    its other axes as they are; (3) an output does not depend on an input.
    That samples stay apart is not proved here (Softmax along the first axis keeps all shapes): compare a few of them
    with what one at a time gives.
    """
    if not graph.inputs or any(not v.type.is_static or v.shape[:1] != (1,) for v in graph.inputs):  # (1)
        return None
    result = graph.copy()
    for value in result.inputs:
        value.type = TensorType(value.dtype, (count, *value.shape[1:]))
    wide = {v.name for v in result.inputs}
    for node in result.nodes:
        if any(v.name in wide for v in node.input_values):
            types = _widened(result, node, count)
            if types is None:  # (2)
                return None
            wide.update(types)
    return result if all(v.name in wide for v in result.outputs) else None  # (3)


def _widened(graph: Graph, node: Node, count: int) -> Mapping[str, TensorType] | None:
    """Give a node the parameters and types for `count` samples; the types, or None if they do not come out so."""
    if any(not v.type.is_static or v.shape[:1] != (1,) for v in node.outputs):
        return None
    for value in node.outputs:
        value.type = TensorType(value.dtype, (count, *value.shape[1:]))
    change = table.coupling(node).resize(node, lambda value, axis: np.arange(value.shape[axis]))
    for index, array in change.parameters.items():
        old = node.input(index)
        if old is not None and old.const is not None and not np.array_equal(old.const, array):
            graph.set_input(node, index, Value.constant(graph.unique_name(f"{old.name}_{count}"), array))
    try:
        types = infer_types(node)
    except ValueError:
        return None
    if any(t.shape != v.shape for t, v in zip(types, node.outputs, strict=True)):
        return None
    return {v.name: t for v, t in zip(node.outputs, types, strict=True)}
