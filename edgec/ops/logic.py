"""Comparisons, boolean and bitwise ops, selection, conversion: what the compiler knows of them."""

from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_P, _NONE, _SAME = KernelRole.POINTWISE, QuantRole.NONE, coupling.SAME
_COMMUTATIVE = ("And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
_ORDERED = ("Not", "BitwiseNot", "BitShift")
_FLOAT = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf")  # compare numbers, not grids

SPECS = (
    *(OpSpec(name, _P, _NONE, _SAME, commutative=True) for name in _COMMUTATIVE),
    *(OpSpec(name, _P, _NONE, _SAME) for name in _ORDERED),
    *(OpSpec(name, _P, QuantRole.FLOAT, _SAME) for name in _FLOAT),
    OpSpec("Where", _P, QuantRole.UNIFIES, _SAME),
    OpSpec("Cast", _P, QuantRole.FLOAT, _SAME),
    OpSpec("CastLike", _P, QuantRole.FLOAT, _SAME),
)
