"""Eliminate chains of Reshape, Flatten, Squeeze and Unsqueeze: one Reshape, or nothing, does the same.

Formula: reshape(reshape(x, s1), s2) = reshape(x, s2), since both keep the row-major order of the elements.
Shapes:  all static.
Fires when: (1) two such nodes follow each other and all three shapes are static; (2) the value between carries the
         Quant and Sparsity of x, per-axis facts excepted (`rewrite.quant`, `rewrite.sparsity`).
         The value between may have other uses: its own node then stays.
Numerics: exact.
Source: ONNX operators Reshape, Flatten, Squeeze, Unsqueeze.
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import recompute, same_facts, substitute
from edgec.ops import KernelRole, table
from edgec.passes.contract import Options, Outcome, PassResult, rewrite

AFTER = {"fold_constants": "shapes computed at run time must already be constants"}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` in which no reshape reads a reshape."""
    return rewrite(__name__, graph, options, _eliminate)


def _eliminate(graph: Graph, node: Node, options: Options) -> Outcome:
    if table.role(node) is not KernelRole.VIEW:
        return None
    between, result = node.inputs[0], node.outputs[0]
    assert between is not None
    first = between.producer
    if first is None or table.role(first) is not KernelRole.VIEW:
        return None
    source = first.inputs[0]
    assert source is not None
    if not (source.type.is_static and between.type.is_static and result.type.is_static):  # (1)
        return None
    if not same_facts(source, between):  # (2)
        return "rewrite.quant", f"{source.name} and {between.name} are quantized differently"
    if between.sparsity is not None or (between.quant is not None and between.quant.axis is not None):
        return "rewrite.sparsity", f"{between.name} carries facts along an axis"
    if source.type == result.type and substitute(graph, result, source) is None:
        return True
    reshape(graph, result, source, like=node)
    return True


def reshape(graph: Graph, result: Value, source: Value, *, like: Node | None = None) -> Node:
    """Let `result` be a Reshape of `source` to its own, static shape."""
    target = Value.constant(graph.unique_name(f"{result.name}_shape"), np.array(result.shape, np.int64))
    allow_zero = {"allowzero": 1} if 0 in result.shape else None
    return recompute(graph, result, "Reshape", [source, target], allow_zero, like=like)
