"""Operators that read and write integers, as the float operator between DequantizeLinear and QuantizeLinear.

`onnx_quant` then makes grids of the values from these, so that such models get the same kernels as those with pairs.
Formula: QOp(x, s_x, z_x, ..., s_y, z_y) = Q(Op(DQ(x, s_x, z_x), ...), s_y, z_y), the bias of a product has the scale
         s_x * s_w and no zero point. ONNX Runtime's own QuantizeLinear and DequantizeLinear, which its quantizer writes
         for 16 bits, compute what ONNX's do.
Source: ONNX operators QLinearConv (opset 10) and QLinearMatMul (opset 21); ONNX Runtime's documentation of its contrib
operators QuantizeLinear, DequantizeLinear, QGemm and QLinear*, which its quantizer writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edgec.ir.graph import Value

Steps = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]
_RUNTIME = "com.microsoft"
_OWN_ATTRIBUTES = frozenset({"channels_last", "opset"})


def expand(proto: onnx.NodeProto, inputs: Sequence[Value | None]) -> Steps | None:
    """Nodes of the graph's opset that compute what `proto` does, and new constants by name; None to leave it as it is.

    inputs: the node's, in order. Names of the result that are neither inputs nor outputs of `proto` are only unique
    within it. A node stays if scales that become those of a bias are computed, if operands have several scales where
    kernels want one, and if channels come last.
    """
    form = _FORMS.get((proto.domain, proto.op_type))
    channels_last = any(a.name == "channels_last" and a.i for a in proto.attribute)
    if form is None or channels_last or len(proto.output) != 1:
        return None
    return form(_Expansion(proto, inputs))


class _Expansion:
    """Steps that are being made for one node."""

    def __init__(self, proto: onnx.NodeProto, inputs: Sequence[Value | None]) -> None:
        self.proto, self.nodes, self.constants = proto, list[onnx.NodeProto](), dict[str, np.ndarray]()
        self._inputs = [*inputs, *[None] * 9]  # none of the operators with a fixed number has more
        self._names = [*proto.input, *[""] * 9]

    def scale(self, index: int) -> np.ndarray | None:
        """A scale among the inputs, if it is constant."""
        value = self._inputs[index]
        return None if value is None else value.const

    def has(self, index: int) -> bool:
        """True if that input is given."""
        return bool(self._names[index])

    def several(self, *indices: int) -> bool:
        """True if one of these inputs is not known to be a single number."""
        values = [self._inputs[i] for i in indices]
        return any(v is None or not v.type.is_static or v.type.size != 1 for v in values)

    def floats(self, index: int, scale: int, zero: int, axis: int | None = None) -> str:
        """The name of an input's numbers. axis: what its scales lie along, if there are several."""
        result = f"{self.proto.output[0]}/data_{index}"
        attributes = {} if axis is None else {"axis": axis}
        self._add("DequantizeLinear", [self._names[i] for i in (index, scale, zero)], result, attributes)
        return result

    def bias(self, index: int, scale: np.ndarray) -> str:
        """The name of the numbers of an int32 bias."""
        result, name = (f"{self.proto.output[0]}/{what}" for what in ("bias", "bias_scale"))
        self.constants[name] = scale.astype(np.float32)
        self._add("DequantizeLinear", [self._names[index], name], result, {"axis": 0})
        return result

    def compute(self, op: str, operands: Iterable[str], scale: int, zero: int, skip: frozenset[str] = frozenset()
                ) -> Steps:
        """All steps, with the operator itself, the attributes of the node but for `skip`, and what rounds its result.

        Without a scale the result is float.
        """
        result = f"{self.proto.output[0]}/result" if self.has(scale) else self.proto.output[0]
        self._add(op, operands, result, {})
        kept = [a for a in self.proto.attribute if a.name not in _OWN_ATTRIBUTES | skip]
        self.nodes[-1].attribute.extend(kept)
        self.nodes[-1].name = self.proto.name
        if self.has(scale):
            self._add("QuantizeLinear", [result, self._names[scale], self._names[zero]], self.proto.output[0], {})
        return self.nodes, self.constants

    def _add(self, op: str, operands: Iterable[str], result: str, attributes: Mapping[str, int]) -> None:
        names = list(operands)
        while names and not names[-1]:
            names.pop()
        self.nodes.append(helper.make_node(op, names, [result], **attributes))


def _conv(e: _Expansion) -> Steps | None:
    data, weight = e.scale(1), e.scale(4)
    if data is None or weight is None or e.several(1):
        return None
    operands = [e.floats(0, 1, 2), e.floats(3, 4, 5, axis=0 if weight.size > 1 else None)]
    if e.has(8):
        operands.append(e.bias(8, data.reshape(()) * weight))
    return e.compute("Conv", operands, 6, 7)


def _matmul(e: _Expansion) -> Steps | None:
    weight = e.scale(4)
    if e.several(1, 6) or weight is None or weight.ndim > 1:
        return None
    return e.compute("MatMul", [e.floats(0, 1, 2), e.floats(3, 4, 5, axis=-1 if weight.size > 1 else None)], 6, 7)


def _gemm(e: _Expansion) -> Steps | None:
    data, weight = e.scale(1), e.scale(4)
    if data is None or weight is None or e.several(1):
        return None
    flags = {a.name: a for a in e.proto.attribute}
    alpha = np.float32(flags["alpha"].f) if "alpha" in flags else np.float32(1)
    rows = 0 if "transB" in flags and flags["transB"].i else 1
    operands = [e.floats(0, 1, 2), e.floats(3, 4, 5, axis=rows if weight.size > 1 else None)]
    if e.has(6):
        operands.append(e.bias(6, data.reshape(()) * weight * alpha))
    return e.compute("Gemm", operands, 7, 8)


def _unary(op: str) -> Callable[[_Expansion], Steps | None]:
    return lambda e: e.compute(op, [e.floats(0, 1, 2)], 3, 4)


def _binary(op: str) -> Callable[[_Expansion], Steps | None]:
    return lambda e: e.compute(op, [e.floats(0, 1, 2), e.floats(3, 4, 5)], 6, 7)


def _concat(e: _Expansion) -> Steps | None:
    parts = range(2, len(e.proto.input), 3)
    return e.compute("Concat", [e.floats(i, i + 1, i + 2) for i in parts], 0, 1)


def _same(op: str) -> Callable[[_Expansion], Steps | None]:
    """ONNX's operator of that name in the place of ONNX Runtime's."""
    return lambda e: e.compute(op, e.proto.input, len(e.proto.input), len(e.proto.input))


def _softmax(e: _Expansion) -> Steps | None:
    """Before opset 13 it works on all axes from one on, and stays."""
    modern = any(a.name == "opset" and a.i >= 13 for a in e.proto.attribute)
    return _unary("Softmax")(e) if modern else None


_FORMS: Mapping[tuple[str, str], Callable[[_Expansion], Steps | None]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (_RUNTIME, "QuantizeLinear"): _same("QuantizeLinear"),
    (_RUNTIME, "DequantizeLinear"): _same("DequantizeLinear"),
    (_RUNTIME, "QGemm"): _gemm,
    (_RUNTIME, "QLinearAdd"): _binary("Add"),
    (_RUNTIME, "QLinearMul"): _binary("Mul"),
    (_RUNTIME, "QLinearAveragePool"): _unary("AveragePool"),
    (_RUNTIME, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (_RUNTIME, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (_RUNTIME, "QLinearSigmoid"): _unary("Sigmoid"),
    (_RUNTIME, "QLinearSoftmax"): _softmax,
    (_RUNTIME, "QLinearConcat"): _concat,
}
