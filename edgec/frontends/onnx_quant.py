"""Turn QuantizeLinear/DequantizeLinear pairs into Quants on values: quantization is a fact about a value.

Source: ONNX operators QuantizeLinear and DequantizeLinear, opset 21.
"""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import dequantize
from edgec.ir.rewrite import replace_node
from edgec.ir.types import DType, Quant, TensorType
from edgec.ops import KernelRole, QuantRole, table

_GRIDS = frozenset({DType.INT4, DType.UINT4, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32})
_BYTES = frozenset({DType.INT8, DType.UINT8})


def fold_quantization(graph: Graph) -> None:
    """Annotate what lies on an integer grid and remove the nodes that said so. Changes `graph`.

    (1) DequantizeLinear of a constant becomes a float constant with a Quant.
    (2) What only moves integers of one grid (Reshape, MaxPool) moves the floats, between a pair of its own.
    (3) QuantizeLinear whose every use is a DequantizeLinear with the same parameters: the float value gets the Quant;
        if that value has other uses, or is a graph input or output, an Identity carries the Quant.
    (4) The result of a DequantizeLinear that is left, as of a graph input, lies on its grid: it gets the Quant.
    Everything else stays as nodes: integers that other operators read, parameters that are computed, float8 grids, and
    pairs with different parameters.
    """
    for node in list(graph.nodes):
        if node.op == "DequantizeLinear" and not node.domain:
            _fold_constant(graph, node)
    for node in list(graph.nodes):
        _move_floats(graph, node)
    for node in list(graph.nodes):
        if node.op == "QuantizeLinear" and not node.domain:
            _fold_pair(graph, node)
    for node in graph.nodes:
        if node.op == "DequantizeLinear" and not node.domain and node.outputs[0].dtype is DType.FLOAT32:
            _annotate_result(node)


def quant_of(node: Node) -> Quant | None:
    """The grid of a Q or DQ node, None if it is computed, not positive, or of a type that has no integer grid."""
    scale, zero = node.input(1), node.input(2)
    if scale is None or scale.const is None or (zero is not None and zero.const is None) or not scale.dtype.is_float:
        return None
    integers = (node.outputs[0] if node.op == "QuantizeLinear" else node.input_values[0]).dtype
    steps = scale.const.astype(np.float32)
    if integers not in _GRIDS or not bool(np.all(steps > 0) and np.all(np.isfinite(steps))):
        return None
    zeros = zero.const if zero is not None and zero.const is not None else np.zeros(steps.shape, integers.numpy)
    if zeros.shape != steps.shape:
        return None
    block = node.attributes.get("block_size", 0)
    axis = node.attributes.get("axis", 1)
    if not isinstance(block, int) or not isinstance(axis, int):
        return None
    if steps.size == 1 and not block:
        return Quant(integers, steps.reshape(()), zeros.reshape(()))
    shape = node.outputs[0].type.shape
    if not -len(shape) <= axis < len(shape) or block < 0:
        return None
    axis %= len(shape)
    extent = shape[axis]
    if block:
        expected = (*shape[:axis], None if extent is None else -(-extent // block), *shape[axis + 1 :])
        return Quant(integers, steps, zeros, axis, block) if steps.shape == expected else None
    return Quant(integers, steps, zeros, axis) if steps.shape == (extent,) else None


def _fold_constant(graph: Graph, node: Node) -> None:
    source, result = node.input_values[0], node.outputs[0]
    quant = quant_of(node)
    if source.const is None or quant is None:
        return
    floats = dequantize(source.const, quant).astype(result.dtype.numpy)
    constant = Value.constant(graph.unique_name(f"{source.name}_dequantized"), floats, quant)
    _replace(graph, result, constant)
    if not graph.is_output(result):
        graph.remove(node)


def _move_floats(graph: Graph, node: Node) -> None:
    """(2): the integers come from a QuantizeLinear with one scale, directly or through nodes of this kind."""
    spec = table.find(node)
    if spec is None or spec.quant is not QuantRole.COMMUTES or not (
            spec.kernel in (KernelRole.MOVEMENT, KernelRole.VIEW) or node.op == "MaxPool"):
        return
    data, rest = node.input_values[0], node.input_values[1:]
    source = data.producer
    if source is None or source.op != "QuantizeLinear" or source.domain or data.dtype not in _BYTES:
        return
    quant = quant_of(source)
    fills = node.op == "Pad" and node.text("mode", "constant") == "constant"  # with the integer 0 or another one
    if quant is None or quant.axis is not None or fills or any(v.dtype in _BYTES for v in rest):
        return
    if any(v.dtype is not data.dtype for v in node.outputs):
        return
    kind, parameters = source.input_values[0].dtype, list(source.inputs[1:])
    floats = Value(graph.unique_name(f"{data.name}_dequantized"), TensorType(kind, data.type.shape))
    moved = [Value(graph.unique_name(f"{v.name}_dequantized"), TensorType(kind, v.type.shape)) for v in node.outputs]
    replace_node(graph, node, [
        Node("DequantizeLinear", [data, *parameters], [floats], name=floats.name, source=node.source),
        Node(node.op, [floats, *node.inputs[1:]], moved, node.attributes, name=node.name, source=node.source),
        *(Node("QuantizeLinear", [f, *parameters], [old], name=f"{f.name}_quantize", source=node.source)
          for f, old in zip(moved, node.outputs, strict=True))])


def _annotate_result(node: Node) -> None:
    """(4)"""
    quant = quant_of(node)
    if quant is not None and quant.axis is None and quant.dtype in _BYTES:
        node.outputs[0].quant = quant


def _fold_pair(graph: Graph, node: Node) -> None:
    value, integers = node.input_values[0], node.outputs[0]
    quant = quant_of(node)
    readers = [user for user, _ in integers.uses]
    if quant is None or not readers or graph.is_output(integers):
        return
    if any(
        r.op != "DequantizeLinear"
        or r.domain
        or r.input(0) is not integers
        or quant_of(r) != quant
        or r.outputs[0].dtype is not value.dtype
        for r in readers
    ):
        return
    if (
        value.const is None
        and value.producer is not None
        and len(value.uses) == 1
        and not graph.is_output(value)
        and value.quant is None
    ):
        value.quant = quant
        carrier = value
    else:
        carrier = Value(graph.unique_name(f"{value.name}_quantized"), value.type, quant=quant)
        graph.add(Node("Identity", [value], [carrier], name=carrier.name, source=node.source), before=node)
    for reader in readers:
        _replace(graph, reader.outputs[0], carrier)
        if not graph.is_output(reader.outputs[0]):
            graph.remove(reader)
    graph.remove(node)


def _replace(graph: Graph, old: Value, new: Value) -> None:
    """Let the uses of `old` read `new`; a graph output stays, computed by an Identity with the same Quant."""
    node = old.producer
    assert node is not None
    for user, index in list(old.uses):
        graph.set_input(user, index, new)
    if graph.is_output(old):
        for index in range(len(node.inputs)):
            graph.set_input(node, index, None)
        node.op, node.attributes = "Identity", {}
        node.inputs = ()
        graph.set_input(node, 0, new)
        old.quant = new.quant
