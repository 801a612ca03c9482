"""Attention: what the compiler knows of it."""

from __future__ import annotations

from edgec.ir.graph import Node
from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole


def attention_macs(node: Node) -> int:
    """Multiply-adds of Q K^T and of the product with V, without a discount for causal masks.

    Formula: batch * Lq * (Lpast + Lkv) * heads * (D + Dv)
    Shapes: Q [batch, heads, Lq, D] or [batch, Lq, heads * D]; K, V likewise with Lkv; past_key [.., Lpast, D].
    """
    q, k, v, past = node.operand(0), node.operand(1), node.operand(2), node.input(4)
    keys = k.shape[-2] + (past.shape[-2] if past is not None else 0)
    width = q.shape[1] * (q.shape[3] + v.shape[3]) if q.type.rank == 4 else q.shape[2] + node.outputs[0].shape[2]
    return q.shape[0] * q.shape[-2] * keys * width


SPECS = (
    OpSpec("Attention", KernelRole.OPAQUE, QuantRole.FLOAT, coupling.ATTENTION, attention_macs,
           side_inputs=frozenset({6})),
    OpSpec("RotaryEmbedding", KernelRole.OPAQUE, QuantRole.FLOAT, coupling.UNKNOWN),
)
