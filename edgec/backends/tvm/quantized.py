"""Quantized nodes as tensor expressions: the bits of `ir/interpret.py`, from integers of one byte to integers.

Within a kernel numbers are floats. `dequantized` reads them from stored integers, `quantized` brings them to a grid;
`exact_sums` and `moved` stay with integers where `ir/quantize.py` says so.
Numerics: formulas of `ir/quantize.py`; `exact.uncontracted` keeps their roundings apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import te, tirx

from edgec.backends.tvm.lower import pool
from edgec.backends.tvm.lower.rule import Inputs, Tensors, dtype_name
from edgec.backends.tvm.lower.shapes import Expr, at, bind, constant, element, select
from edgec.backends.tvm.lower.tables import table
from edgec.ir.graph import Node, Value
from edgec.ir.quantize import average_scale, bias_integers, bounds, quantize, spread
from edgec.ir.types import DType, Quant, TensorType
from edgec.ops import KernelRole, QuantRole
from edgec.ops import table as ops
from edgec.plan.plan import in_bytes, stored_dtype

Lower = Callable[[Node, Inputs], Tensors]
Read = Callable[[Sequence[Expr]], Expr]  # index of the value -> element


def parameter(array: np.ndarray, quant: Quant, shape: Sequence[int]) -> Read:
    """A scale or zero point of `quant` for an index of a value of `shape`."""
    if array.size == 1:
        number = constant(array.reshape(-1)[0], array.dtype.name)
        return lambda _index: number
    axis, block = (quant.axis or 0) % len(shape), quant.block
    tensor = table(array)
    if not block:
        return lambda index: tensor(index[axis])
    return lambda index: tensor(*[tirx.indexdiv(i, block) if d == axis else i for d, i in enumerate(index)])


def broadcast(array: np.ndarray) -> Read:
    """An array that broadcasts against what is indexed."""
    if array.size == 1:
        number = constant(array.reshape(-1)[0], array.dtype.name)
        return lambda _index: number
    tensor = table(array)
    return lambda index: at(tensor, index)


def steps(quant: Quant, shape: Sequence[int], kind: str = "int32") -> Callable[[Expr, Sequence[Expr]], Expr]:
    """(stored integer, index) -> integer without its zero point."""
    if not quant.zero_point.any():
        return lambda q, _index: q.astype(kind)
    zero = parameter(quant.zero_point.astype(np.int32), quant, shape)
    return lambda q, index: q.astype(kind) - zero(index).astype(kind)


def dequantized(quant: Quant, shape: Sequence[int]) -> Callable[[Expr, Sequence[Expr]], Expr]:
    """(stored integer, index) -> the float that it stands for."""
    without, scale = steps(quant, shape), parameter(quant.scale.astype(np.float32), quant, shape)
    return lambda q, index: without(q, index).astype("float32") * scale(index)


def rounded(quant: Quant, shape: Sequence[int]) -> Callable[[Expr, Sequence[Expr]], Expr]:
    """(x, index) -> the nearest number of the grid, counted in steps from its zero, as a float."""
    kind = "float64" if quant.dtype is DType.INT32 else "float32"
    scale = parameter(quant.scale.astype(kind), quant, shape)
    clamped = _clamped(quant, shape, kind)
    return lambda x, index: clamped(x.astype(kind) / scale(index), index)


def _clamped(quant: Quant, shape: Sequence[int], kind: str) -> Callable[[Expr, Sequence[Expr]], Expr]:
    """(steps, index) -> rounded half to even, within the type of `quant`; NaN becomes the lowest."""
    low, high = bounds(quant.dtype)
    zero = quant.zero_point.astype(np.int64)
    least, most = (parameter((edge - zero).astype(kind), quant, shape) for edge in (low, high))

    def clamp(x: Expr, index: Sequence[Expr]) -> Expr:
        x = bind(x)
        x = bind(select(x > least(index), x, least(index)))
        return tirx.nearbyint(select(x < most(index), x, most(index)))

    return clamp


def quantized(value: Value) -> Callable[[Expr, Sequence[Expr]], Expr]:
    """(x, index) -> what is stored for a result `x`: an integer, or a float on a grid of more than 8 bits."""
    quant = value.quant
    if quant is None:
        return lambda x, _index: x
    nearest = rounded(quant, value.shape)
    return lambda x, index: _stored(value, quant)(nearest(x, index), index)


def _stored(value: Value, quant: Quant) -> Callable[[Expr, Sequence[Expr]], Expr]:
    """(steps as a float, index) -> what is stored."""
    if not in_bytes(quant):
        scale = parameter(quant.scale.astype(np.float32), quant, value.shape)
        return lambda x, index: (x.astype("float32") * scale(index)).astype(dtype_name(value.dtype))
    name = dtype_name(stored_dtype(value))
    zero = parameter(quant.zero_point.astype(np.int32), quant, value.shape)
    return lambda x, index: (x.astype("int32") + zero(index)).astype(name)


# -- sums of integers -------------------------------------------------------------------------------------------------


def exact_sums(node: Node, scale: np.ndarray, stored: Callable[[Value], te.Tensor], lower: Lower) -> te.Tensor:
    """What is stored for the result of a node with exact sums. stored: the tensor of an operand in memory.

    Numerics: int32, int64 where sums could leave it.
    """
    kind = _accumulator(node, scale)
    product = average_scale(node) is None
    tensors: list[Any] = [_integers(v, stored(v), dtype_name(kind)) for v in node.input_values[:2 if product else 1]]
    inputs: list[Value | None] = [Value(v.name, TensorType(kind, v.type.shape))
                                  for v in node.input_values[:len(tensors)]]
    bias = node.input(2) if product else None
    if bias is not None and bias.const is not None:
        array = bias_integers(bias.const, scale).astype(kind.numpy)
        tensors.append(table(array))
        inputs.append(Value(bias.name, TensorType(kind, array.shape)))
    if node.op == "AveragePool":
        return _finished(node, scale, pool.window_sums(node, tensors[0]))
    if not product:
        return _finished(node, scale, _total(node, inputs, tensors, kind, lower))
    twin = Node(node.op, inputs, [Value("sums", TensorType(kind, node.outputs[0].type.shape))], node.attributes)
    return _finished(node, scale, lower(twin, tensors)[0])


def _total(node: Node, inputs: list[Value | None], tensors: list[Any], kind: DType, lower: Lower) -> te.Tensor:
    """Sums over the axes of a reduction or of a global pooling."""
    attributes = dict(node.attributes)
    axes = node.input(1)
    if node.op == "GlobalAveragePool":
        axes = Value.constant("axes", np.arange(2, node.operand(0).type.rank))
        attributes = {"keepdims": 1}
    twin = Node("ReduceSum", [*inputs, axes], [Value("sums", TensorType(kind, node.outputs[0].type.shape))], attributes)
    return lower(twin, [*tensors, None])[0]


def _integers(value: Value, tensor: te.Tensor, kind: str) -> te.Tensor:
    assert value.quant is not None  # of an operand of an exact sum
    without = steps(value.quant, value.shape, kind)
    return te.compute(value.shape, lambda *i: without(tensor(*i), i), "integers")


def _accumulator(node: Node, scale: np.ndarray) -> DType:
    """INT32, or INT64 if a sum could leave it."""
    largest = [float(np.abs(np.subtract.outer(bounds(v.quant.dtype), v.quant.zero_point.astype(np.int64))).max())
               for v in node.input_values[:2] if v.quant is not None]
    out, data = node.outputs[0], node.operand(0)
    if len(largest) < 2:
        windows = node.op == "AveragePool"
        terms = prod(node.integers("kernel_shape")) if windows else data.type.size // max(1, out.type.size)
        return DType.INT32 if largest[0] * float(terms) < 2 ** 31 else DType.INT64
    weight = node.operand(1)
    macs = max(1, ops.macs(node) // max(1, out.type.size)) if node.op != "ConvTranspose" else weight.type.size
    bound = largest[0] * largest[1] * float(macs)
    bias = node.input(2)
    if bias is not None and bias.const is not None:
        bound += float(np.abs(bias_integers(bias.const, scale)).max(initial=0))
    return DType.INT32 if bound < 2 ** 31 else DType.INT64


def _finished(node: Node, scale: np.ndarray, sums: te.Tensor) -> te.Tensor:
    """What is stored for sums: `ir.quantize.requantize`."""
    out = node.outputs[0]
    quant = out.quant
    if quant is None:
        factor = broadcast(scale.astype(np.float32))
        return te.compute(out.shape, lambda *i: (sums(*i).astype("float32") * factor(i)).astype(dtype_name(out.dtype)),
                          "scaled")
    factor = broadcast((scale / spread(quant.scale.astype(np.float64), quant, out.shape)).astype(np.float32))
    clamp, store = _clamped(quant, out.shape, "float32"), _stored(out, quant)

    def body(*index: Expr) -> Expr:
        return element(lambda: store(clamp(sums(*index).astype("float32") * factor(index), index), index))

    return te.compute(out.shape, body, "requantized")


# -- what needs no arithmetic -----------------------------------------------------------------------------------------


def moved(node: Node) -> Node | None:
    """The node on stored integers, if it only moves or selects elements of one grid; None otherwise."""
    spec, out = ops.find(node), node.outputs[0]
    if spec is None or spec.kernel not in (KernelRole.MOVEMENT, KernelRole.VIEW, KernelRole.ANCHOR):
        return None
    if spec.kernel is KernelRole.ANCHOR and (spec.quant is not QuantRole.COMMUTES or node.op == "Resize"):
        return None  # what is left selects elements: maxima
    if (len(node.outputs) != 1 and node.op != "Split") or not in_bytes(out.quant) or out.quant is None:
        return None
    if out.quant.axis is not None or any(v.quant != out.quant for v in node.outputs):
        return None
    inputs: list[Value | None] = []
    for index, value in enumerate(node.inputs):
        if value is None or not value.dtype.is_float:
            inputs.append(value)
        elif value.quant == out.quant and (index == 0 or node.op == "Concat"):
            inputs.append(Value(value.name, TensorType(stored_dtype(value), value.type.shape)))
        elif node.op == "Pad" and index == 2 and value.const is not None:
            inputs.append(Value.constant(value.name, quantize(value.const, out.quant)))
        else:
            return None
    if node.op == "Pad" and node.text("mode", "constant") == "constant":
        inputs += [None] * (3 - len(inputs))
        if inputs[2] is None:
            inputs[2] = Value.constant("zero", quantize(np.zeros((), np.float32), out.quant))
    outputs = [Value(v.name, TensorType(stored_dtype(v), v.type.shape)) for v in node.outputs]
    return Node(node.op, inputs, outputs, node.attributes)
