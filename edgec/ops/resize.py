"""Resampling of images: what the compiler knows of it."""

from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole

SPECS = (
    OpSpec("Resize", KernelRole.ANCHOR, QuantRole.COMMUTES, Coupling.SAME, side_inputs=frozenset({1, 2, 3})),
    OpSpec("GridSample", KernelRole.OPAQUE, QuantRole.FLOAT),
    OpSpec("AffineGrid", KernelRole.OPAQUE, QuantRole.FLOAT, side_inputs=frozenset({1})),
    OpSpec("ImageDecoder", KernelRole.OPAQUE, QuantRole.NONE),
)
