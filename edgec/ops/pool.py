"""Pooling: what the compiler knows of it."""

from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole

SPECS = (
    OpSpec("MaxPool", KernelRole.ANCHOR, QuantRole.COMMUTES, Coupling.SAME),
    OpSpec("AveragePool", KernelRole.ANCHOR, QuantRole.REQUANTIZES, Coupling.SAME),
    OpSpec("LpPool", KernelRole.ANCHOR, QuantRole.FLOAT, Coupling.SAME),
    OpSpec("GlobalAveragePool", KernelRole.ANCHOR, QuantRole.REQUANTIZES, Coupling.SAME),
    OpSpec("GlobalMaxPool", KernelRole.ANCHOR, QuantRole.COMMUTES, Coupling.SAME),
)
