"""Ops that copy or move elements without arithmetic: what the compiler knows of them."""

from edgec.ops import coupling
from edgec.ops import coupling_moves as moves
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_M, _V, _C = KernelRole.MOVEMENT, KernelRole.VIEW, QuantRole.COMMUTES
_FIRST = frozenset({1})

SPECS = (
    OpSpec("Identity", KernelRole.POINTWISE, _C, coupling.SAME),
    OpSpec("Dropout", KernelRole.POINTWISE, _C, coupling.SAME, side_inputs=frozenset({1, 2})),  # drops nothing
    OpSpec("Reshape", _V, _C, moves.RESHAPE, side_inputs=_FIRST),
    OpSpec("Flatten", _V, _C, moves.VIEW),
    OpSpec("Squeeze", _V, _C, moves.VIEW, side_inputs=_FIRST),
    OpSpec("Unsqueeze", _V, _C, moves.VIEW, side_inputs=_FIRST),
    OpSpec("Transpose", _M, _C, moves.TRANSPOSE),
    OpSpec("DepthToSpace", _M, _C, moves.BLOCKS),
    OpSpec("SpaceToDepth", _M, _C, moves.BLOCKS),
    OpSpec("Concat", _M, QuantRole.UNIFIES, moves.CONCAT),
    OpSpec("Slice", _M, _C, moves.SLICE, side_inputs=frozenset({1, 2, 3, 4})),
    OpSpec("Split", _M, _C, moves.SPLIT, side_inputs=_FIRST),
    OpSpec("Pad", _M, _C, coupling.PADDED, side_inputs=frozenset({1, 2, 3})),
    OpSpec("CenterCropPad", _M, _C, side_inputs=_FIRST),
    OpSpec("Expand", _M, _C, moves.EXPAND, side_inputs=_FIRST),
    OpSpec("Tile", _M, _C, moves.TILE, side_inputs=_FIRST),
    OpSpec("Trilu", _M, _C, coupling.TRIANGLE, side_inputs=_FIRST),
    OpSpec("ReverseSequence", _M, _C),
)
