"""Normalization and softmax: what the compiler knows of them."""

from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_ANCHOR, _FLOAT = KernelRole.ANCHOR, QuantRole.FLOAT

SPECS = (
    OpSpec("BatchNormalization", KernelRole.POINTWISE, _FLOAT, coupling.PER_CHANNEL),  # in inference form
    OpSpec("InstanceNormalization", _ANCHOR, _FLOAT, coupling.INSTANCE),
    OpSpec("GroupNormalization", _ANCHOR, _FLOAT, coupling.GROUPED_NORM),
    OpSpec("LayerNormalization", _ANCHOR, _FLOAT, coupling.LAYER_NORM),
    OpSpec("RMSNormalization", _ANCHOR, _FLOAT, coupling.LAYER_NORM),
    OpSpec("MeanVarianceNormalization", _ANCHOR, _FLOAT, coupling.UNKNOWN),
    OpSpec("LpNormalization", _ANCHOR, _FLOAT, coupling.along(-1)),
    OpSpec("LRN", _ANCHOR, _FLOAT),
    OpSpec("Softmax", _ANCHOR, _FLOAT, coupling.along(-1)),
    OpSpec("LogSoftmax", _ANCHOR, _FLOAT, coupling.along(-1)),
    OpSpec("Hardmax", KernelRole.OPAQUE, _FLOAT, coupling.along(-1)),
)
