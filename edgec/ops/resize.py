"""Resampling of images: what the compiler knows of it."""

from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

SPECS = (
    OpSpec("Resize", KernelRole.ANCHOR, QuantRole.COMMUTES, coupling.RESAMPLED, side_inputs=frozenset({1, 2, 3})),
    OpSpec("GridSample", KernelRole.OPAQUE, QuantRole.FLOAT),
    OpSpec("AffineGrid", KernelRole.OPAQUE, QuantRole.FLOAT, side_inputs=frozenset({1})),
    OpSpec("ImageDecoder", KernelRole.OPAQUE, QuantRole.NONE),
)
