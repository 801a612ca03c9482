"""Conversion between floats and integer grids: what the compiler knows of it.

Frontends turn QuantizeLinear and DequantizeLinear into Quant annotations where both belong together; the others stay.
"""

from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

SPECS = (
    OpSpec("QuantizeLinear", KernelRole.POINTWISE, QuantRole.NONE, coupling.UNKNOWN, side_inputs=frozenset({1, 2})),
    OpSpec("DequantizeLinear", KernelRole.POINTWISE, QuantRole.NONE, coupling.UNKNOWN, side_inputs=frozenset({1, 2})),
    OpSpec("DynamicQuantizeLinear", KernelRole.OPAQUE, QuantRole.NONE),
)
