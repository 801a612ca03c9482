"""Pooling: what the compiler knows of it."""

from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_ANCHOR, _OPAQUE, _WINDOW = KernelRole.ANCHOR, KernelRole.OPAQUE, coupling.WINDOW

SPECS = (
    OpSpec("MaxPool", _ANCHOR, QuantRole.COMMUTES, _WINDOW),
    OpSpec("AveragePool", _ANCHOR, QuantRole.REQUANTIZES, _WINDOW),
    OpSpec("LpPool", _ANCHOR, QuantRole.FLOAT, _WINDOW),
    OpSpec("GlobalAveragePool", _ANCHOR, QuantRole.REQUANTIZES, _WINDOW),
    OpSpec("GlobalMaxPool", _ANCHOR, QuantRole.COMMUTES, _WINDOW),
    OpSpec("GlobalLpPool", _ANCHOR, QuantRole.FLOAT, _WINDOW),
    OpSpec("MaxUnpool", _OPAQUE, QuantRole.COMMUTES, coupling.UNKNOWN, side_inputs=frozenset({2})),
    OpSpec("MaxRoiPool", _OPAQUE, QuantRole.FLOAT),
    OpSpec("RoiAlign", _OPAQUE, QuantRole.FLOAT),
)
