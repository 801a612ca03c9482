"""The opset of an exported model: the oldest that means the same, since the reader on a board may be old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper, inliner

from edgec.ir.graph import OPSET, Graph, Node, Value
from edgec.ops.semantics import onnx_dtype

# From opset 21 to 24 ops gained attributes, inputs and element types. Two things changed their meaning, by the texts
# and defaults of onnx's schemas: windows of a pool with ceil_mode that start in the right padding (22), and what
# becomes of infinities in float8 (24).
# 21: ONNX Runtime 1.18 to 1.19, the last for Python 3.8 (JetPack 5). 23: 1.23, the last for Python 3.10 (JetPack 6).
_CANDIDATES = (21, 23, OPSET)
_CEIL_MODE = 22
_WRITTEN_OUT_ABOVE = 23  # functions newer than this are written out where ONNX gives them a body: Swish


def stamp(model: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """The model of `graph`, which states OPSET, with the oldest opset and file version that mean the same.

    Functions that are younger than most readers are written out.
    """
    young = sorted({node.op for node in _nodes(graph) if not node.domain and _is_young(node.op)})
    if young:
        model = inliner.inline_selected_functions(model, [("", op) for op in young], inline_schema_functions=True)
    opset = next(o for o in model.opset_import if o.domain == "")
    opset.version = next(v for v in _CANDIDATES if v == OPSET or all(_valid(node, v) for node in _nodes(graph)))
    model.ir_version = helper.find_min_ir_version_for([opset])
    return model


def _is_young(op: str) -> bool:
    return (not onnx.defs.has(op, _WRITTEN_OUT_ABOVE) and onnx.defs.has(op, OPSET)
            and onnx.defs.get_schema(op, OPSET).has_function)


def _valid(node: Node, version: int) -> bool:
    if node.domain or _is_young(node.op):
        return True
    if not onnx.defs.has(node.op, version) or (node.attributes.get("ceil_mode") and version < _CEIL_MODE):
        return False
    if any("float8" in v.dtype.value for v in (*node.input_values, *node.outputs)):
        return version >= OPSET
    schema = onnx.defs.get_schema(node.op, version)
    inputs = node.inputs[:len(node.inputs) - node.captures]
    if not set(node.attributes) <= set(schema.attributes) or len(inputs) > schema.max_input:
        return False
    return all(_takes(schema.inputs, i, value) for i, value in enumerate(inputs)) and all(
        _takes(schema.outputs, i, value) for i, value in enumerate(node.outputs))


def _takes(formal: Sequence[Any], index: int, value: Value | None) -> bool:
    """True if the schema's parameter `index` (the last one may stand for many) may have the value's element type."""
    if value is None:
        return True
    name = onnx.TensorProto.DataType.Name(onnx_dtype(value.dtype)).lower()
    return f"tensor({name})" in formal[min(index, len(formal) - 1)].types


def _nodes(graph: Graph) -> list[Node]:
    bodies = [a for node in graph.nodes for a in node.attributes.values() if isinstance(a, Graph)]
    return [*graph.nodes, *(node for body in bodies for node in _nodes(body))]
