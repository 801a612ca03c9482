"""Ops that copy or move elements without arithmetic: what the compiler knows of them."""

from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole

_M, _V, _C = KernelRole.MOVEMENT, KernelRole.VIEW, QuantRole.COMMUTES
_RESHAPES, _FIRST = Coupling.RESHAPES, frozenset({1})

SPECS = (
    OpSpec("Identity", KernelRole.POINTWISE, _C, Coupling.SAME),
    OpSpec("Dropout", KernelRole.POINTWISE, _C, Coupling.SAME, side_inputs=frozenset({1, 2})),  # drops nothing
    OpSpec("Reshape", _V, _C, _RESHAPES, side_inputs=_FIRST),
    OpSpec("Flatten", _V, _C, _RESHAPES),
    OpSpec("Squeeze", _V, _C, _RESHAPES, side_inputs=_FIRST),
    OpSpec("Unsqueeze", _V, _C, _RESHAPES, side_inputs=_FIRST),
    OpSpec("Transpose", _M, _C, _RESHAPES),
    OpSpec("DepthToSpace", _M, _C, _RESHAPES),
    OpSpec("SpaceToDepth", _M, _C, _RESHAPES),
    OpSpec("Concat", _M, QuantRole.UNIFIES, Coupling.CONCATENATES),
    OpSpec("Slice", _M, _C, Coupling.SPLITS, side_inputs=frozenset({1, 2, 3, 4})),
    OpSpec("Split", _M, _C, Coupling.SPLITS, side_inputs=_FIRST),
    OpSpec("Pad", _M, _C, Coupling.SAME, side_inputs=frozenset({1, 2, 3})),
    OpSpec("CenterCropPad", _M, _C, side_inputs=_FIRST),
    OpSpec("Expand", _M, _C, side_inputs=_FIRST),
    OpSpec("Tile", _M, _C, side_inputs=_FIRST),
    OpSpec("Trilu", _M, _C, side_inputs=_FIRST),
    OpSpec("ReverseSequence", _M, _C),
)
