"""Convolutions: what the compiler knows of them."""

from __future__ import annotations

from math import prod

from edgec.ir.graph import Node
from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole


def conv_macs(node: Node) -> int:
    """Multiply-adds: every output element takes C/g * R * S products; w [K, C/g, R, S]."""
    weight = node.operand(3 if node.op == "QLinearConv" else 1)
    return node.outputs[0].type.size * prod(weight.shape[1:])


def conv_transpose_macs(node: Node) -> int:
    """Multiply-adds: every input element meets K/g * R * S weights; w [C, K/g, R, S]."""
    return node.operand(0).type.size * prod(node.operand(1).shape[1:])


_ANCHOR, _CONV = KernelRole.ANCHOR, coupling.CONV

SPECS = (
    OpSpec("Conv", _ANCHOR, QuantRole.COMPUTE, _CONV, conv_macs),
    OpSpec("ConvTranspose", _ANCHOR, QuantRole.COMPUTE, _CONV, conv_transpose_macs),
    OpSpec("ConvInteger", _ANCHOR, QuantRole.NONE, coupling.UNKNOWN, conv_macs, side_inputs=frozenset({2, 3})),
    OpSpec("QLinearConv", _ANCHOR, QuantRole.NONE, coupling.UNKNOWN, conv_macs,
           side_inputs=frozenset({1, 2, 4, 5, 6, 7})),
    OpSpec("DeformConv", KernelRole.OPAQUE, QuantRole.FLOAT, coupling.UNKNOWN, conv_macs),
    OpSpec("Col2Im", KernelRole.OPAQUE, side_inputs=frozenset({1, 2})),
)
