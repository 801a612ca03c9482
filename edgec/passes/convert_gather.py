"""Convert Gather with constant, evenly spaced indices to Slice, and a scalar index to Slice and Reshape.

Formula: gather(x, i) along axis a = x[..., i : i + 1, ...] without axis a;
         gather(x, [i, i + s, i + 2s ...]) = x[..., i : end : s, ...].
Shapes:  x [..., D, ...]; indices [] or [n] with n > 0; y without axis a, or with n in its place.
Fires when: (1) the indices are a constant of rank 0 or 1, evenly spaced with a step of at least 1
         (`convert_gather.indices`); (2) x is computed, and its axis a has a known extent.
Numerics: exact.
Source: ONNX operators Gather and Slice.
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import recompute
from edgec.ir.types import TensorType
from edgec.passes.contract import Options, Outcome, PassResult, rewrite
from edgec.passes.eliminate_reshapes import reshape

AFTER = {"fold_constants": "the indices must already be constants"}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` in which only data-dependent or irregular indices are gathered."""
    return rewrite(__name__, graph, options, _convert, ("Gather",))


def _convert(graph: Graph, node: Node, options: Options) -> Outcome:
    data, indices, result = node.operand(0), node.operand(1), node.outputs[0]
    if data.const is not None or indices.const is None or not data.type.is_static:  # (2)
        return None
    axis = node.integer("axis", 0) % data.type.rank
    extent = data.shape[axis]
    picks = np.where(indices.const < 0, indices.const + extent, indices.const).astype(np.int64)
    steps = np.diff(picks.reshape(-1))
    if picks.ndim > 1 or not picks.size or (steps.size and (steps[0] < 1 or (steps != steps[0]).any())):  # (1)
        return "convert_gather.indices", "the indices are not evenly spaced"
    start, step = int(picks.reshape(-1)[0]), int(steps[0]) if steps.size else 1
    bounds = [start, start + step * picks.size, axis, step]
    inputs = [data, *(Value.constant(graph.unique_name(f"{node.name}_{name}"), np.array([number], np.int64))
                      for name, number in zip(("start", "end", "axis", "step"), bounds, strict=True))]
    if picks.ndim == 1:
        recompute(graph, result, "Slice", inputs)
        return True
    shape = tuple(1 if i == axis else n for i, n in enumerate(data.shape))
    piece = Value(graph.unique_name(f"{result.name}_slice"), TensorType(data.dtype, shape), quant=result.quant)
    name = graph.unique_name(f"{node.name}_slice")
    graph.add(Node("Slice", inputs, [piece], name=name, source=node.source), before=node)
    reshape(graph, result, piece)
    return True
