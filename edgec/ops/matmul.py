"""Matrix products: what the compiler knows of them."""

from __future__ import annotations

from edgec.ir.graph import Node
from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole


def matmul_macs(node: Node) -> int:
    """Multiply-adds: output elements times the length of the reduction axis of the first input."""
    data = node.inputs[0]
    assert data is not None
    axis = 0 if node.op == "Gemm" and node.attributes.get("transA", 0) else -1
    return node.outputs[0].type.size * (data.shape[axis] if data.shape else 1)


SPECS = (
    OpSpec("Gemm", KernelRole.ANCHOR, QuantRole.COMPUTE, Coupling.PRODUCES, matmul_macs),
    OpSpec("MatMul", KernelRole.ANCHOR, QuantRole.COMPUTE, Coupling.PRODUCES, matmul_macs),
)
