"""Convolutions: what the compiler knows of them."""

from __future__ import annotations

from edgec.ir.graph import Node
from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole


def conv_macs(node: Node) -> int:
    """Multiply-adds: every output element takes C/g * R * S products; w [K, C/g, R, S]."""
    weight = node.inputs[1]
    assert weight is not None
    per_output = 1
    for extent in weight.shape[1:]:
        per_output *= extent
    return node.outputs[0].type.size * per_output


def conv_transpose_macs(node: Node) -> int:
    """Multiply-adds: every input element meets K/g * R * S weights; w [C, K/g, R, S]."""
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None and weight is not None
    per_input = 1
    for extent in weight.shape[1:]:
        per_input *= extent
    return data.type.size * per_input


SPECS = (
    OpSpec("Conv", KernelRole.ANCHOR, QuantRole.COMPUTE, Coupling.PRODUCES_GROUPED, conv_macs),
    OpSpec("ConvTranspose", KernelRole.ANCHOR, QuantRole.COMPUTE, Coupling.PRODUCES_GROUPED, conv_transpose_macs),
)
