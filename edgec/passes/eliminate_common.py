"""Eliminate nodes and constants that compute the same as an earlier one.

Fires when: (1) two nodes agree in op, domain, attributes and inputs, and their outputs in type, Quant and Sparsity; or
         two constants agree in type, bytes, Quant and Sparsity; (2) the op gives the same result at every run and has
         no subgraph; (3) not both are graph outputs (`rewrite.output`).
         The first in topological order stays, so the result does not depend on hashing.
Numerics: exact.
Source: common subexpression elimination, Cocke 1970, "Global common subexpression elimination".
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import numpy as np

from edgec.errors import Refusal
from edgec.ir.graph import OPSET, Attr, Graph, Node, Value
from edgec.ir.rewrite import substitute
from edgec.passes.contract import Options, PassReport, PassResult

AFTER = {"fold_constants": "expressions of constants become equal constants"}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` that computes and stores everything once."""
    report = PassReport("eliminate_common")
    graph = graph.copy()
    _merge_constants(graph, report)
    first: dict[Hashable, Node] = {}
    for node in list(graph.nodes):
        key = _key(node)
        if key is None:
            continue
        same = first.setdefault(key, node)
        if same is not node:
            report.matched += 1
            refusal = _merge(graph, node, same)
            if refusal is None:
                report.applied += 1
            else:
                report.refused.append(Refusal(node.name, *refusal, node.source))
    return PassResult(graph, report)


def _merge_constants(graph: Graph, report: PassReport) -> None:
    groups: dict[Hashable, list[Value]] = {}
    for value in graph.constants():
        groups.setdefault((value.type, value.quant, value.sparsity), []).append(value)
    for values in groups.values():
        first: dict[bytes, Value] = {}
        for value in values if len(values) > 1 else ():
            same = first.setdefault(_digest(value.const), value)
            if same is not value:
                graph.replace_uses(value, same)
                report.matched += 1
                report.applied += 1


def _digest(array: np.ndarray | None) -> bytes:
    assert array is not None
    if array.dtype == object:
        return repr(array.tolist()).encode()
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b"").digest()


def _merge(graph: Graph, node: Node, same: Node) -> tuple[str, str] | None:
    pairs = list(zip(node.outputs, same.outputs, strict=True))
    for old, new in pairs:  # (3)
        if graph.is_output(old) and graph.is_output(new):
            return "rewrite.output", f"graph outputs {old.name} and {new.name} would be one value"
    for old, new in pairs:
        if old.uses or graph.is_output(old):
            refusal = substitute(graph, old, new)
            if refusal is not None:
                return refusal
    return None


def _key(node: Node) -> Hashable | None:
    if any(isinstance(a, Graph) for a in node.attributes.values()):  # (2)
        return None
    if node.domain == "":
        import onnx

        schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
        if schema.node_determinism == onnx.defs.OpSchema.NodeDeterminism.NonDeterministic:  # (2)
            return None
    else:  # an op of another domain may have state
        return None
    inputs = tuple(id(v) if v is not None else None for v in node.inputs)
    attributes = tuple((k, _frozen(a)) for k, a in sorted(node.attributes.items()))
    outputs = tuple((v.type, v.quant, v.sparsity) for v in node.outputs)
    return node.op, inputs, attributes, outputs


def _frozen(attr: Attr) -> Hashable:
    if isinstance(attr, np.ndarray):
        return attr.dtype.str, attr.shape, attr.tobytes()
    return type(attr).__name__, attr  # type: ignore[return-value]
