"""ONNX's own library as the meaning of ops: type inference and reference evaluation of one node.

This file and frontends/onnx.py are the only places that translate between a Node and onnx's protobufs for reading;
`backends/onnxruntime` and `backends/tensorrt` export whole graphs with `to_node_proto` and `to_model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgec.ir.graph import OPSET, Attr, Graph, Node, Value
from edgec.ir.types import DType, TensorType

_TO_ONNX = {d: getattr(TensorProto, {DType.FLOAT32: "FLOAT", DType.FLOAT64: "DOUBLE"}.get(d, d.name)) for d in DType}
_FROM_ONNX = {code: dtype for dtype, code in _TO_ONNX.items()}
_CONST_LIMIT = 1024  # elements; larger constants are never shapes or axes, so inference does not need their data


def onnx_dtype(dtype: DType) -> int:
    """Onnx's TensorProto.DataType code of an element type."""
    return _TO_ONNX[dtype]


def dtype_from_onnx(code: int) -> DType:
    """The element type of a TensorProto.DataType code. Raises KeyError for one that edgec has no name for."""
    return _FROM_ONNX[code]


def to_tensor_proto(array: np.ndarray, name: str = "") -> TensorProto:
    """An onnx tensor with the array's data."""
    return numpy_helper.from_array(np.asarray(array), name)


def value_info(value: Value, name: str | None = None) -> onnx.ValueInfoProto:
    """Name and type of a value, as onnx states them."""
    return helper.make_tensor_value_info(name or value.name, _TO_ONNX[value.dtype], list(value.type.shape))


def _attribute(name: str, attr: Attr) -> onnx.AttributeProto:
    if isinstance(attr, Graph):
        return helper.make_attribute(name, to_graph_proto(attr))
    if isinstance(attr, DType):
        return helper.make_attribute(name, _TO_ONNX[attr])
    if isinstance(attr, np.ndarray):
        return helper.make_attribute(name, to_tensor_proto(attr))
    return helper.make_attribute(name, list(attr) if isinstance(attr, tuple) else attr)


def to_node_proto(node: Node) -> onnx.NodeProto:
    """The node as onnx states it; captured values appear as inputs (see ir.graph.Node)."""
    proto = helper.make_node(node.op, [v.name if v is not None else "" for v in node.inputs],
                             [v.name for v in node.outputs], name=node.name, domain=node.domain)
    proto.attribute.extend(_attribute(k, a) for k, a in sorted(node.attributes.items()))
    return proto


def to_graph_proto(graph: Graph) -> onnx.GraphProto:
    """The graph as onnx states it, constants as initializers."""
    return helper.make_graph(
        [to_node_proto(n) for n in graph.nodes], graph.name, [value_info(v) for v in graph.inputs],
        [value_info(v) for v in graph.outputs],
        initializer=[to_tensor_proto(v.const, v.name) for v in graph.constants() if v.const is not None])


@lru_cache(maxsize=1)
def _opset_imports() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", OPSET)]


def infer_types(node: Node) -> list[TensorType]:
    """Output types of a node from its inputs' types and small constants.

    Raises ValueError with onnx's own text if the node is malformed, or if an output is not a tensor.
    """
    schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
    types = {v.name: helper.make_tensor_type_proto(_TO_ONNX[v.dtype], list(v.type.shape)) for v in node.input_values}
    data = {v.name: to_tensor_proto(v.const, v.name) for v in node.input_values
            if v.const is not None and v.const.size <= _CONST_LIMIT}
    try:
        inferred = onnx.shape_inference.infer_node_outputs(schema, to_node_proto(node), types, data, opset_imports=_opset_imports())
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ValueError(str(error).strip()) from error
    result = []
    for value in node.outputs:
        proto = inferred.get(value.name)
        if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
            raise ValueError(f"onnx cannot infer the type of output {value.name!r} of {node.op}")
        dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in proto.tensor_type.shape.dim)
        result.append(TensorType(_FROM_ONNX[proto.tensor_type.elem_type], dims))
    return result


def make_node(graph: Graph, op: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attr] | None = None, *,
              outputs: int = 1, name: str = "", source: str = "", before: Node | None = None) -> Node:
    """Create a node with inferred output types and add it to `graph`. Raises ValueError as `infer_types` does."""
    stem = graph.unique_name(name or op.lower())
    blank = TensorType(DType.FLOAT32, ())
    values = [Value(stem if i == 0 else graph.unique_name(f"{stem}_{i}"), blank) for i in range(outputs)]
    node = Node(op, inputs, values, attributes, name=stem, source=source)
    for value, type_ in zip(values, infer_types(node), strict=True):
        value.type = type_
    return graph.add(node, before)


def evaluate(node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Run one node on numpy arrays with onnx's reference implementation.

    Raises NotImplementedError for an op that the reference lacks, ValueError for arrays that do not fit.
    """
    from onnx.reference import ReferenceEvaluator

    proto = to_node_proto(node)
    names = [f"in{i}" if v is not None else "" for i, v in enumerate(node.inputs)]
    del proto.input[:]
    proto.input.extend(names)
    feeds: dict[str, Any] = {n: a for n, a in zip(names, arrays, strict=True) if n and a is not None}
    inputs = [helper.make_tensor_value_info(n, _TO_ONNX[DType.of(a)], a.shape) for n, a in feeds.items()]
    outputs = [helper.make_value_info(v.name, onnx.TypeProto()) for v in node.outputs]
    graph = helper.make_graph([proto], "node", inputs, outputs)
    session = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, OPSET)]))
    results = session.run(None, feeds)
    return [np.asarray(r) for r in results]
