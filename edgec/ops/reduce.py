"""Reductions: what the compiler knows of them."""

from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_ANCHOR, _AXES, _REDUCES = KernelRole.ANCHOR, frozenset({1}), coupling.REDUCE
_COMMUTES = ("ReduceMax", "ReduceMin")
_REQUANTIZES = ("ReduceMean", "ReduceSum")
_FLOAT = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare")

SPECS = (
    *(OpSpec(name, _ANCHOR, QuantRole.COMMUTES, _REDUCES, side_inputs=_AXES) for name in _COMMUTES),
    *(OpSpec(name, _ANCHOR, QuantRole.REQUANTIZES, _REDUCES, side_inputs=_AXES) for name in _REQUANTIZES),
    *(OpSpec(name, _ANCHOR, QuantRole.FLOAT, _REDUCES, side_inputs=_AXES) for name in _FLOAT),
    OpSpec("ArgMax", _ANCHOR, QuantRole.NONE, coupling.SEARCH),
    OpSpec("ArgMin", _ANCHOR, QuantRole.NONE, coupling.SEARCH),
    OpSpec("CumSum", KernelRole.OPAQUE, QuantRole.FLOAT, side_inputs=_AXES),
)
