"""Pooling: what the compiler knows of it."""

from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole

_ANCHOR, _OPAQUE, _SAME = KernelRole.ANCHOR, KernelRole.OPAQUE, Coupling.SAME

SPECS = (
    OpSpec("MaxPool", _ANCHOR, QuantRole.COMMUTES, _SAME),
    OpSpec("AveragePool", _ANCHOR, QuantRole.REQUANTIZES, _SAME),
    OpSpec("LpPool", _ANCHOR, QuantRole.FLOAT, _SAME),
    OpSpec("GlobalAveragePool", _ANCHOR, QuantRole.REQUANTIZES, _SAME),
    OpSpec("GlobalMaxPool", _ANCHOR, QuantRole.COMMUTES, _SAME),
    OpSpec("GlobalLpPool", _ANCHOR, QuantRole.FLOAT, _SAME),
    OpSpec("MaxUnpool", _OPAQUE, QuantRole.COMMUTES, _SAME, side_inputs=frozenset({2})),
    OpSpec("MaxRoiPool", _OPAQUE, QuantRole.FLOAT),
    OpSpec("RoiAlign", _OPAQUE, QuantRole.FLOAT),
)
