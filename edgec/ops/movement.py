"""Ops that move elements without arithmetic: what the compiler knows of them."""

from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole

_M, _V, _C = KernelRole.MOVEMENT, KernelRole.VIEW, QuantRole.COMMUTES

SPECS = (
    OpSpec("Identity", KernelRole.POINTWISE, _C, Coupling.SAME),
    OpSpec("Reshape", _V, _C, Coupling.RESHAPES, side_inputs=frozenset({1})),
    OpSpec("Flatten", _V, _C, Coupling.RESHAPES),
    OpSpec("Squeeze", _V, _C, Coupling.RESHAPES, side_inputs=frozenset({1})),
    OpSpec("Unsqueeze", _V, _C, Coupling.RESHAPES, side_inputs=frozenset({1})),
    OpSpec("Transpose", _M, _C, Coupling.RESHAPES),
    OpSpec("Concat", _M, QuantRole.UNIFIES, Coupling.CONCATENATES),
    OpSpec("Slice", _M, _C, Coupling.SPLITS, side_inputs=frozenset({1, 2, 3, 4})),
    OpSpec("Split", _M, _C, Coupling.SPLITS, side_inputs=frozenset({1})),
    OpSpec("Pad", _M, _C, Coupling.SAME, side_inputs=frozenset({1, 2, 3})),
    OpSpec("Expand", _M, _C, side_inputs=frozenset({1})),
)
