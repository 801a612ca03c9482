"""State float16 in the graph itself, for TensorRT's strongly typed builds and for the CPU engine: types of values and
constants, and Casts.

What stays float32: graph inputs and outputs; operators that add up or raise powers (normalizations, reductions, Exp
...), because their inner sums leave float16's range; nodes with a constant that float16 cannot hold (above 65504, or
rounded away to 0); and quantized layers whose scales are too small for float16's normal numbers (below 6.1e-5).
Numerics: a node in float16 means what ONNX says of it; what is rounded inside of it is its engine's.
Source: IEEE 754 binary16; NVIDIA's guide on strongly typed networks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.ops import KernelRole, table
from edgec.ops.semantics import make_node

_LARGEST, _SMALLEST = 65504.0, 2.0 ** -14  # largest finite and smallest normal number of float16
_WIDE = frozenset({
    "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Log", "LogSoftmax",
    "LpNormalization", "MeanVarianceNormalization", "Pow", "Reciprocal", "Softplus"})
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_ROLES = (KernelRole.ANCHOR, KernelRole.POINTWISE, KernelRole.MOVEMENT, KernelRole.VIEW)


def to_half(graph: Graph, takes: Callable[[Node], bool] = lambda _: True) -> list[Node]:
    """Change the float32 graph into a typed float16 one; the nodes that compute in float16.

    takes: whether the engine has float16 for a node.
    """
    half: set[int] = set()
    for node in graph.nodes:
        if _may_be_half(node, half) and takes(node):
            half.add(id(node))
    casts: dict[tuple[int, DType], Value] = {}
    chosen = []
    for node in list(graph.nodes):
        narrow = id(node) in half
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (DType.FLOAT32, DType.FLOAT16):
                continue
            wanted = DType.FLOAT16 if narrow and not _is_parameter(node, index) else DType.FLOAT32
            if value.dtype is not wanted:
                graph.set_input(node, index, _cast(graph, value, wanted, node, casts))
        if narrow:
            chosen.append(node)
            for value in node.outputs:
                if value.dtype is DType.FLOAT32:
                    value.type = TensorType(DType.FLOAT16, value.type.shape)
    _widen_outputs(graph)
    return chosen


def in_half(graph: Graph) -> Graph:
    """A copy with float16 between its inputs and outputs, for the CPU engine; what lies on integer grids stays."""
    own = graph.copy()
    to_half(own, lambda node: all(v.quant is None for v in (*node.input_values, *node.outputs)))
    return own


def _is_parameter(node: Node, index: int) -> bool:
    """True for inputs whose type the operator fixes, such as the scales of Resize."""
    if node.op in _PAIR:
        return False
    formal = onnx.defs.get_schema(node.op).inputs
    return "tensor(float16)" not in formal[min(index, len(formal) - 1)].types


def _may_be_half(node: Node, half: set[int]) -> bool:
    if node.domain or table.role(node) not in _ROLES or node.op in _WIDE or node.op.startswith("Reduce"):
        return False
    if not any(v.dtype is DType.FLOAT32 for v in node.outputs) and node.op != "QuantizeLinear":
        return False
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype is not DType.FLOAT32:
            continue
        if value.const is not None and not _is_parameter(node, index) and not _fits(value.const, node.op in _PAIR):
            return False
        producer = value.producer
        if producer is not None and producer.op == "DequantizeLinear" and id(producer) not in half:
            return False  # a Cast between the pair and the product would keep TensorRT from fusing them
    if node.op in _PAIR:
        return True
    schema = onnx.defs.get_schema(node.op)
    tied = {schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i, v in enumerate(node.inputs)
            if v is not None and v.dtype is DType.FLOAT32 and not _is_parameter(node, i)}
    return bool(tied) and all(schema.outputs[min(i, len(schema.outputs) - 1)].type_str in tied
                              for i, v in enumerate(node.outputs) if v.dtype is DType.FLOAT32)


def _fits(array: np.ndarray, is_scale: bool) -> bool:
    """True if float16 holds every number: none too large, and none that matters is lost (for scales: all normal)."""
    size = np.abs(array.astype(np.float64))
    largest = float(size.max(initial=0.0))
    if not np.isfinite(size).all():
        return bool(np.isinf(array).any() and not np.isnan(array).any())  # infinities stay what they are
    if is_scale:
        return largest <= _LARGEST and float(size.min(initial=1.0)) >= _SMALLEST
    return largest <= _LARGEST and (largest == 0.0 or largest >= _SMALLEST)


def _cast(graph: Graph, value: Value, dtype: DType, before: Node, casts: dict[tuple[int, DType], Value]) -> Value:
    key = (id(value), dtype)
    if key not in casts:
        if value.const is not None:
            wish = f"{value.name}.{'half' if dtype is DType.FLOAT16 else 'single'}"
            casts[key] = Value.constant(graph.unique_name(wish), value.const.astype(dtype.numpy), value.quant,
                                        value.sparsity)
        else:
            casts[key] = make_node(graph, "Cast", [value], {"to": dtype}, name=f"{value.name}.cast",
                                   source=before.source, before=before).outputs[0]
    return casts[key]


def _widen_outputs(graph: Graph) -> None:
    """Graph outputs stay float32, under their names."""
    for index, value in enumerate(graph.outputs):
        if value.dtype is not DType.FLOAT16:
            continue
        name = value.name
        value.name = graph.unique_name(f"{name}.half")
        wide = Value(name, TensorType(DType.FLOAT32, value.type.shape))
        source = value.producer.source if value.producer is not None else ""
        graph.add(Node("Cast", [value], [wide], {"to": DType.FLOAT32}, name=f"{name}.cast", source=source))
        graph.outputs[index] = wide
