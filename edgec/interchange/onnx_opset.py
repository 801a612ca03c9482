"""The opset of an exported model: the oldest that means the same, since the reader on a board may be old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper, inliner

from edgec.ir.graph import OPSET, Graph, Node, Value
from edgec.ir.types import DType
from edgec.ops.semantics import onnx_dtype

# From opset 20 to 24 ops gained attributes, inputs and element types. Three things changed their meaning, by the texts
# and defaults of onnx's schemas: what GroupNormalization scales (21), windows of a pool with ceil_mode that start in
# the right padding (22), and what becomes of infinities in float8 (24).
# 20: below 21 QuantizeLinear has no output_dtype. From there on ONNX Runtime (1.32) states it on nodes that it moves,
# then makes int8 to uint8 and leaves the statement: it refuses its own graph (microsoft/onnxruntime#25526).
# 21: ONNX Runtime 1.18 to 1.19, the last for Python 3.8 (JetPack 5). 23: 1.23, the last for Python 3.10 (JetPack 6).
_CANDIDATES = (20, 21, 23, OPSET)
_GROUP_SCALES = 21
_CEIL_MODE = 22
_GRIDS = 21
_OLD_GRIDS = frozenset({DType.INT8, DType.UINT8, DType.INT32})  # what Q and DQ have below opset 21, without blocks
_WRITTEN_OUT_ABOVE = 23  # functions newer than this are written out where ONNX gives them a body: Swish


def stamp(model: onnx.ModelProto, graph: Graph, opset: int | None = None) -> onnx.ModelProto:
    """The model of `graph`, which states OPSET, with the oldest opset and file version that mean the same.

    Functions that are younger than most readers are written out. A given `opset` is stated as it is: the caller has
    brought every node to it (`is_valid`).
    """
    if opset is not None:
        return _state(model, opset)
    young = sorted({node.op for node in _nodes(graph) if not node.domain and _is_young(node.op)})
    if young:
        model = inliner.inline_selected_functions(model, [("", op) for op in young], inline_schema_functions=True)
    nodes = _nodes(graph)
    old_grids = all(v.quant is None or (v.quant.dtype in _OLD_GRIDS and not v.quant.block)
                    for node in nodes for v in (*node.input_values, *node.outputs))
    return _state(model, next(v for v in _CANDIDATES if v == OPSET or ((old_grids or v >= _GRIDS) and all(
        is_valid(node, v) or _is_young(node.op) for node in nodes))))


def _state(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    opset = next(o for o in model.opset_import if o.domain == "")
    opset.version = version
    model.ir_version = helper.find_min_ir_version_for([opset])
    return model


def _is_young(op: str) -> bool:
    return (not onnx.defs.has(op, _WRITTEN_OUT_ABOVE) and onnx.defs.has(op, OPSET)
            and onnx.defs.get_schema(op, OPSET).has_function)


def is_valid(node: Node, version: int) -> bool:
    """True if the node's operator, attributes and types are in an opset (13 to OPSET) and mean there what they mean in
    a Graph. Operators of other domains count as valid.

    One change of meaning is not looked at: how GridSample calls its modes (20).
    """
    if node.domain:
        return True
    if not onnx.defs.has(node.op, version) or (version < _CEIL_MODE and not _same_windows(node)):
        return False
    if node.op == "GroupNormalization" and version < _GROUP_SCALES:
        return False
    if any("float8" in v.dtype.value for v in (*node.input_values, *node.outputs)):
        return version >= OPSET
    schema = onnx.defs.get_schema(node.op, version)
    inputs = node.inputs[:len(node.inputs) - node.captures]
    if not set(node.attributes) <= set(schema.attributes) or len(inputs) > schema.max_input:
        return False
    return all(_takes(schema.inputs, i, value) for i, value in enumerate(inputs)) and all(
        _takes(schema.outputs, i, value) for i, value in enumerate(node.outputs))


def _same_windows(node: Node) -> bool:
    """False if a pool with ceil_mode has a window that would start in the padding on the right, which newer opsets
    leave out.
    """
    if not node.attributes.get("ceil_mode") or node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return True
    window = node.integers("kernel_shape")
    rank = len(window)
    stride, dilation = (node.integers(name, [1] * rank) for name in ("strides", "dilations"))
    pads, shape = node.integers("pads", [0] * 2 * rank), node.operand(0).type.shape[2:]
    for axis, size in enumerate(shape):
        if size is None:
            return False
        covered = size + pads[axis] + pads[axis + rank] - dilation[axis] * (window[axis] - 1) - 1
        if -(-covered // stride[axis]) * stride[axis] >= size + pads[axis]:
            return False
    return True


def _takes(formal: Sequence[Any], index: int, value: Value | None) -> bool:
    """True if the schema's parameter `index` (the last one may stand for many) may have the value's element type."""
    if value is None:
        return True
    name = onnx.TensorProto.DataType.Name(onnx_dtype(value.dtype)).lower()
    return f"tensor({name})" in formal[min(index, len(formal) - 1)].types


def _nodes(graph: Graph) -> list[Node]:
    bodies = [a for node in graph.nodes for a in node.attributes.values() if isinstance(a, Graph)]
    return [*graph.nodes, *(node for body in bodies for node in _nodes(body))]
