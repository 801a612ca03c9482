"""Write a graph as an ONNX model: what ONNX Runtime and TensorRT read.

A Quant on a Value becomes a QuantizeLinear/DequantizeLinear pair, or, for a constant, integers and a DequantizeLinear.
Captured values of a subgraph (see ir.graph.Node) become references to the outer graph again, as ONNX wants them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgec.interchange.onnx_opset import stamp
from edgec.ir.graph import OPSET, Graph, Node, Value
from edgec.ir.quantize import quantize
from edgec.ir.types import DType
from edgec.ops.semantics import domain_opset, to_node_proto, to_tensor_proto, value_info

EXTERNAL_ABOVE = 1_500_000_000  # bytes of all constants; a protobuf message ends at 2 GiB
_INLINE_BELOW = 1024  # bytes; a smaller constant may be a shape, which readers want inside the model file
_ALIGNMENT = 4096  # bytes; a page, so that a reader can map the file


def to_model(graph: Graph, opset: int | None = None) -> onnx.ModelProto:
    """The graph as one ONNX model with all constants inside. Same graph, same model.

    opset: stated as it is, for a graph that was brought to it; otherwise the oldest that means the same.
    Raises ValueError (from protobuf, when serialized) if the constants exceed 2 GiB: use `write_model`.
    """
    return _model(graph, _Constants(), opset)


def write_model(graph: Graph, folder: Path, stem: str, external_above: int = EXTERNAL_ABOVE,
                opset: int | None = None, meaning: str = "model for ONNX Runtime") -> dict[str, str]:
    """Write `stem`.onnx into `folder`, and `stem`.onnx.data if the constants take more than `external_above` bytes.

    Returns the written files and their meaning; opset: as in `to_model`. The same graph gives the same bytes.
    Raises OSError if the files cannot be written.
    """
    files = {f"{stem}.onnx": meaning}
    total = sum(v.const.nbytes for v in graph.constants() if v.const is not None)
    if total <= external_above:
        model = to_model(graph, opset)
    else:
        files[f"{stem}.onnx.data"] = "constants of the model"
        with open(folder / f"{stem}.onnx.data", "wb") as data:
            model = _model(graph, _ExternalConstants(f"{stem}.onnx.data", data), opset)
    (folder / f"{stem}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return files


class _Constants:
    """Where the bytes of constants go: into the model itself."""

    def tensor(self, array: np.ndarray, name: str) -> TensorProto:
        return to_tensor_proto(array, name)


class _ExternalConstants(_Constants):
    """Where the bytes of constants go: into a file beside the model, each on a page of its own."""

    def __init__(self, name: str, file) -> None:  # type: ignore[no-untyped-def]
        self.name, self.file = name, file

    def tensor(self, array: np.ndarray, name: str) -> TensorProto:
        proto = to_tensor_proto(array, name)
        if array.nbytes < _INLINE_BELOW or not proto.HasField("raw_data"):
            return proto
        self.file.write(b"\0" * (-self.file.tell() % _ALIGNMENT))
        offset = self.file.tell()
        length = self.file.write(proto.raw_data)
        proto.ClearField("raw_data")
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.name), ("offset", offset), ("length", length)):
            proto.external_data.add(key=key, value=str(value))
        return proto


@dataclass
class _Scope:
    """One graph on its way out: names of its values, and what has been written."""

    prefix: str
    taken: set[str]
    names: dict[int, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    node_names: set[str] = field(default_factory=set)

    def fresh(self, wish: str) -> str:
        name, count = wish, 0
        while name in self.taken:
            count += 1
            name = f"{wish}_{count}"
        self.taken.add(name)
        return name

    def add(self, node: onnx.NodeProto) -> None:
        """Write a node; readers want its name to be its own within its graph."""
        name, count = node.name, 0
        while node.name in self.node_names:
            count += 1
            node.name = f"{name}_{count}"
        self.node_names.add(node.name)
        self.nodes.append(node)

    def name(self, value: Value) -> str:
        """The name of `value` in the model; values of the outermost graph keep theirs."""
        if id(value) not in self.names:
            self.names[id(value)] = self.fresh(self.prefix + value.name) if self.prefix else value.name
        return self.names[id(value)]


def _model(graph: Graph, constants: _Constants, opset: int | None) -> onnx.ModelProto:
    scope = _Scope("", {v.name for v in graph.values()})
    proto = _graph(graph, scope, constants)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, domain_opset(d)) for d in sorted(scope.domains))]
    return stamp(helper.make_model(proto, opset_imports=opsets, producer_name="edgec"), graph, opset)


def _graph(graph: Graph, scope: _Scope, constants: _Constants, captured: int = 0) -> onnx.GraphProto:
    written: set[int] = set()
    for node in graph.nodes:
        for value in node.input_values:
            if value.const is not None and id(value) not in written:
                written.add(id(value))
                _write_constant(value, scope, constants)
        _write_node(node, scope, constants)
    inputs = graph.inputs[:len(graph.inputs) - captured]
    return helper.make_graph(scope.nodes, graph.name, [value_info(v, scope.name(v)) for v in inputs],
                             [value_info(v, scope.name(v)) for v in graph.outputs], initializer=scope.initializers)


def _write_constant(value: Value, scope: _Scope, constants: _Constants) -> None:
    array = value.const
    assert array is not None
    if value.quant is None:
        scope.initializers.append(constants.tensor(array, scope.name(value)))
        return
    stored = scope.fresh(f"{scope.name(value)}.q")
    scope.initializers.append(constants.tensor(quantize(array, value.quant), stored))
    _dequantize(stored, scope.name(value), value, scope, constants)


def _write_node(node: Node, scope: _Scope, constants: _Constants) -> None:
    bodies = {k: a for k, a in node.attributes.items() if isinstance(a, Graph)}
    plain = Node(node.op, node.inputs, node.outputs, {k: a for k, a in node.attributes.items() if k not in bodies},
                 name=node.name, domain=node.domain)
    proto = to_node_proto(plain)
    kept = node.inputs[:len(node.inputs) - node.captures]
    raw = {id(v): scope.fresh(f"{scope.name(v)}.raw") for v in node.outputs if v.quant is not None}
    del proto.input[:], proto.output[:]
    proto.input.extend("" if v is None else scope.name(v) for v in kept)
    proto.output.extend(raw.get(id(v)) or (scope.name(v) if v.name else "") for v in node.outputs)
    for key, body in sorted(bodies.items()):
        inner = _Scope(f"{scope.prefix}{node.name}/{key}/", scope.taken, domains=scope.domains)
        outer = node.inputs[len(kept):]
        for inside, outside in zip(body.inputs[len(body.inputs) - node.captures:], outer, strict=True):
            assert outside is not None
            inner.names[id(inside)] = scope.name(outside)
        proto.attribute.append(helper.make_attribute(key, _graph(body, inner, constants, node.captures)))
    scope.add(proto)
    if node.domain:
        scope.domains.add(node.domain)
    for value in node.outputs:
        if value.quant is not None:
            integers = scope.fresh(f"{scope.name(value)}.q")
            scale, zero, attributes = _parameters(value, scope, constants)
            scope.add(helper.make_node("QuantizeLinear", [raw[id(value)], scale, zero], [integers],
                                       name=f"{scope.name(value)}.quantize", **attributes))
            scope.add(helper.make_node("DequantizeLinear", [integers, scale, zero], [scope.name(value)],
                                       name=f"{scope.name(value)}.dequantize", **attributes))


def _dequantize(integers: str, name: str, value: Value, scope: _Scope, constants: _Constants) -> None:
    scale, zero, attributes = _parameters(value, scope, constants)
    quant = value.quant
    assert quant is not None
    inputs = [integers, scale] if quant.dtype is DType.INT32 else [integers, scale, zero]  # int32 has no zero point
    scope.add(helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.dequantize", **attributes))


def _parameters(value: Value, scope: _Scope, constants: _Constants) -> tuple[str, str, dict[str, int]]:
    """Names of the scale and zero point of `value`, and the attributes of its Q and DQ nodes."""
    quant = value.quant
    assert quant is not None
    scale, zero = scope.fresh(f"{scope.name(value)}.scale"), scope.fresh(f"{scope.name(value)}.zero_point")
    scope.initializers.append(constants.tensor(quant.scale.astype(value.dtype.numpy), scale))
    if quant.dtype is not DType.INT32:
        scope.initializers.append(constants.tensor(quant.zero_point.astype(quant.dtype.numpy), zero))
    attributes = {} if quant.axis is None else {"axis": quant.axis}
    if quant.block:
        attributes["block_size"] = quant.block
    return scale, zero, attributes
