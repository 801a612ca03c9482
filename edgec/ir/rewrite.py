"""The one guard for rewrites: may a value disappear into its only user? Used by passes/ and plan/kernels.py."""

from __future__ import annotations

from edgec.ir.graph import Graph, Node, Value


def why_not_absorbed(graph: Graph, value: Value) -> tuple[str, str] | None:
    """(rule, text) if `value` must stay visible, None if its producer may be merged with its only user.

    Rules: `rewrite.output` it is a graph output; `rewrite.uses` it has more than one use, or none;
    `rewrite.quant` it lies on an integer grid of its own; `rewrite.sparsity` it carries a sparsity pattern.
    """
    if graph.is_output(value):
        return "rewrite.output", f"{value.name} is a graph output"
    if len(value.uses) != 1:
        return "rewrite.uses", f"{value.name} has {len(value.uses)} uses"
    if value.quant is not None:
        return "rewrite.quant", f"{value.name} is quantized"
    if value.sparsity is not None:
        return "rewrite.sparsity", f"{value.name} has a sparsity pattern"
    return None


def only_user(value: Value) -> Node | None:
    """The node that uses `value`, if exactly one input of one node does."""
    return value.uses[0][0] if len(value.uses) == 1 else None
