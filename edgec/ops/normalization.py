"""Normalization and softmax: what the compiler knows of them."""

from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole

_ANCHOR, _FLOAT, _PER_CHANNEL = KernelRole.ANCHOR, QuantRole.FLOAT, Coupling.PER_CHANNEL

SPECS = (
    OpSpec("BatchNormalization", KernelRole.POINTWISE, _FLOAT, _PER_CHANNEL),  # in inference form
    OpSpec("InstanceNormalization", _ANCHOR, _FLOAT, _PER_CHANNEL),
    OpSpec("GroupNormalization", _ANCHOR, _FLOAT, Coupling.PER_GROUP),
    OpSpec("LayerNormalization", _ANCHOR, _FLOAT, _PER_CHANNEL),  # the channels are the axes of its parameters
    OpSpec("RMSNormalization", _ANCHOR, _FLOAT, _PER_CHANNEL),
    OpSpec("MeanVarianceNormalization", _ANCHOR, _FLOAT, Coupling.REDUCES),
    OpSpec("LpNormalization", _ANCHOR, _FLOAT),
    OpSpec("LRN", _ANCHOR, _FLOAT),
    OpSpec("Softmax", _ANCHOR, _FLOAT),
    OpSpec("LogSoftmax", _ANCHOR, _FLOAT),
    OpSpec("Hardmax", KernelRole.OPAQUE, _FLOAT),
)
