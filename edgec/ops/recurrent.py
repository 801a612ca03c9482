"""Recurrent nets: what the compiler knows of them."""

from __future__ import annotations

from edgec.ir.graph import Node
from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole


def recurrent_macs(node: Node) -> int:
    """Multiply-adds: in every step each weight meets each row of the batch.

    Shapes: X [steps, batch, I] or [batch, steps, I]; W [directions, gates * H, I]; R [directions, gates * H, H].
    """
    data, weight, recurrence = (node.operand(i) for i in range(3))
    return data.shape[0] * data.shape[1] * (weight.type.size + recurrence.type.size)


SPECS = tuple(
    OpSpec(name, KernelRole.OPAQUE, QuantRole.FLOAT, coupling.RECURRENT, recurrent_macs, side_inputs=frozenset({4}))
    for name in ("LSTM", "GRU", "RNN")
)
