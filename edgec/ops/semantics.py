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
from edgec.ops.numpy_reference import NUMPY

_TO_ONNX = {d: getattr(TensorProto, {DType.FLOAT32: "FLOAT", DType.FLOAT64: "DOUBLE"}.get(d, d.name)) for d in DType}
_FROM_ONNX = {code: dtype for dtype, code in _TO_ONNX.items()}
_ML = "ai.onnx.ml"  # the domain of classic machine learning
_CONST_LIMIT = 1024  # elements; larger constants are never shapes or axes, so inference does not need their data


def onnx_dtype(dtype: DType) -> int:
    """Onnx's TensorProto.DataType code of an element type."""
    return int(_TO_ONNX[dtype])


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
    if isinstance(attr, DType):
        return helper.make_attribute(name, _TO_ONNX[attr])
    if isinstance(attr, np.ndarray):
        return helper.make_attribute(name, to_tensor_proto(attr))
    if isinstance(attr, tuple) and not attr:
        return helper.make_attribute(name, [], attr_type=onnx.AttributeProto.INTS)
    return helper.make_attribute(name, list(attr) if isinstance(attr, tuple) else attr)


class NoInference(ValueError):
    """Onnx does not know the op, or not enough to infer the types of its outputs; the node may be well formed."""


class NoTensor(NoInference):
    """An output of the op is a sequence, a map or an optional; the text says so to the user."""


def to_node_proto(node: Node, inputs: Sequence[str] | None = None,
                  outputs: Sequence[str] | None = None) -> onnx.NodeProto:
    """The node as onnx states it: captured values are no inputs, bodies name the outer values instead.

    inputs, outputs: names in place of the values' own, in the order of `node.inputs` and `node.outputs`. Names inside
    bodies may change, because onnx wants them to differ from all names around them.
    """
    given = ["" if v is None else v.name for v in node.inputs] if inputs is None else list(inputs)
    made = [v.name for v in node.outputs] if outputs is None else list(outputs)
    return _node_proto(node, given, made, {*given, *made})


def _node_proto(node: Node, inputs: list[str], outputs: list[str], taken: set[str]) -> onnx.NodeProto:
    formal = len(inputs) - node.captures
    proto = helper.make_node(node.op, inputs[:formal], outputs, name=node.name, domain=node.domain)
    for key, attr in sorted(node.attributes.items()):
        if isinstance(attr, Graph):
            proto.attribute.append(helper.make_attribute(key, _body_proto(attr, inputs[formal:], taken)))
        else:
            proto.attribute.append(_attribute(key, attr))
    return proto


def _body_proto(body: Graph, captured: list[str], taken: set[str]) -> onnx.GraphProto:
    formal = body.inputs[:len(body.inputs) - len(captured)]
    names = dict(zip(map(id, body.inputs[len(formal):]), captured, strict=True))
    for value in body.values():
        if id(value) not in names:
            names[id(value)] = name = _fresh(value.name, taken)
            taken.add(name)
    nodes = [(n, ["" if v is None else names[id(v)] for v in n.inputs], [names[id(v)] for v in n.outputs])
             for n in body.nodes]
    return helper.make_graph(
        [_node_proto(*node, taken) for node in nodes], body.name, [value_info(v, names[id(v)]) for v in formal],
        [value_info(v, names[id(v)]) for v in body.outputs],
        initializer=[to_tensor_proto(v.const, names[id(v)]) for v in body.constants() if v.const is not None])


def _fresh(wish: str, taken: set[str]) -> str:
    name, count = wish, 0
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    return name


def domain_opset(domain: str) -> int:
    """Version of an operator set that goes with `OPSET`. Of ai.onnx.ml it is the last one with all of its ensembles."""
    return {"": OPSET, _ML: 3}.get(domain, 1)


@lru_cache(maxsize=1)
def _opset_imports() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid(domain, domain_opset(domain)) for domain in ("", _ML)]


@lru_cache(maxsize=1 << 12)
def _type_proto(type_: TensorType) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(_TO_ONNX[type_.dtype], list(type_.shape))


def infer_types(node: Node) -> list[TensorType]:
    """Output types of a node from its inputs' types and small constants.

    Raises ValueError with onnx's own text if the node is malformed, NoInference (a ValueError) if onnx does not know
    the op or cannot infer an output, or if an output is not a tensor.
    """
    types = {v.name: _type_proto(v.type) for v in node.input_values}
    data = {v.name: to_tensor_proto(v.const, v.name) for v in node.input_values
            if v.const is not None and v.const.size <= _CONST_LIMIT}
    try:
        schema = onnx.defs.get_schema(node.op, domain_opset(node.domain), node.domain)
    except onnx.defs.SchemaError as error:
        raise NoInference(str(error).strip()) from error
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, to_node_proto(node), types, data, opset_imports=_opset_imports())
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, KeyError) as error:
        raise ValueError(str(error).strip()) from error
    result = []
    for value in node.outputs:
        proto = inferred.get(value.name)
        if _has_body_only(schema) and node.inputs[0] is not None:
            result.append(node.inputs[0].type)
            continue
        if proto is not None and proto.WhichOneof("value") not in (None, "tensor_type"):
            raise NoTensor(f"its output {value.name!r} is a {proto.WhichOneof('value').removesuffix('_type')}, and an "
                           "engine gives tensors only")
        if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
            if node.domain == _ML:
                return _types_by_trial(node)
            raise NoInference(f"onnx cannot infer the type of output {value.name!r} of {node.op}")
        dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in proto.tensor_type.shape.dim)
        result.append(TensorType(_FROM_ONNX[proto.tensor_type.elem_type], dims))
    return result


def _has_body_only(schema: onnx.defs.OpSchema) -> bool:
    """True for GroupNormalization and MeanVarianceNormalization: ONNX gives them a function body, and no inference.

    Their output has the type of their first input.
    """
    has_body = bool(schema.has_function or schema.has_context_dependent_function)
    return schema.domain == "" and has_body and not schema.has_type_and_shape_inference_function


def _types_by_trial(node: Node) -> list[TensorType]:
    """Types of what the reference gives for zeros: for operators of ai.onnx.ml, whose types depend on no number.

    Raises NoInference for an unknown shape, an output that is no tensor, and where the reference fails.
    """
    if any(None in v.type.shape for v in node.input_values):
        raise NoInference(f"the shape of an input of {node.op} is not known")
    zeros = [None if v is None else np.zeros(v.type.dims, v.dtype.numpy) for v in node.inputs]
    try:
        return [TensorType(DType.of(a), a.shape) for a in evaluate_reference(node, zeros)]
    except (NotImplementedError, ValueError, KeyError) as error:
        raise NoInference(str(error)) from error


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
    """Run one node on numpy arrays with onnx's reference implementation, or with an equal and faster one of ours.

    Raises NotImplementedError for an op that the reference lacks, ValueError for arrays that do not fit the node.
    """
    faster = NUMPY.get(node.op) if node.domain == "" else None
    results = faster(node, arrays) if faster is not None else None
    return results if results is not None else evaluate_reference(node, arrays)


def evaluate_reference(node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """`evaluate` with onnx's reference implementation, always."""
    from onnx.reference import ReferenceEvaluator

    if node.op == "Loop" and not node.domain and arrays[1] is None:  # the reference would not begin such a loop
        arrays = [arrays[0], np.array(True), *arrays[2:]]
    names = [f"in{i}" if a is not None else "" for i, a in enumerate(arrays)]
    outputs = [f"out{i}" for i in range(len(node.outputs))]
    feeds: dict[str, Any] = {n: a for n, a in zip(names, arrays, strict=True) if n and a is not None}
    graph = helper.make_graph(
        [to_node_proto(node, names, outputs)], "node",
        [helper.make_tensor_value_info(n, _TO_ONNX[DType.of(a)], a.shape) for n, a in feeds.items()],
        [helper.make_value_info(name, onnx.TypeProto()) for name in outputs])
    opsets = [helper.make_opsetid(domain, domain_opset(domain)) for domain in sorted({"", node.domain})]
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
    except NotImplementedError as error:
        raise NotImplementedError(f"{node.where}: {error}") from error
    except Exception as error:  # the reference raises whatever numpy does
        raise ValueError(f"{node.where}: {type(error).__name__}: {error}") from error
    for value, result in zip(node.outputs, results, strict=True):
        if isinstance(result, list):
            raise ValueError(f"{node.where}: output {value.name!r} is a sequence, not a tensor")
    return [np.asarray(r) for r in results]
