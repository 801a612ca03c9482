"""Matrix products: what the compiler knows of them."""

from __future__ import annotations

from math import prod

from edgec.ir.graph import Node
from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole


def matmul_macs(node: Node) -> int:
    """Multiply-adds: output elements times the length of the reduction axis of the first input."""
    data = node.operand(0)
    axis = 0 if node.op == "Gemm" and node.attributes.get("transA", 0) else -1
    return node.outputs[0].type.size * (data.shape[axis] if data.shape else 1)


def einsum_macs(node: Node) -> int:
    """Multiply-adds of a product of two operands: the product of the extents of all letters; 0 for one operand.

    More operands are counted as if multiplied at once, which is what onnx's definition says; `...` counts like letters.
    """
    if len(node.inputs) < 2:
        return 0
    equation = str(node.attributes["equation"]).replace(" ", "")
    extents: dict[str, int] = {}
    for term, value in zip(equation.partition("->")[0].split(","), node.input_values, strict=True):
        before, dots, after = term.partition("...")
        hidden = value.type.rank - len(before) - len(after) if dots else 0
        letters = [*before, *(f".{hidden - i}" for i in range(hidden)), *after]  # `...` aligns at its right end
        for letter, extent in zip(letters, value.shape, strict=True):
            extents[letter] = max(extent, extents.get(letter, 0))
    return prod(extents.values())


_ANCHOR, _UNKNOWN = KernelRole.ANCHOR, coupling.UNKNOWN

SPECS = (
    OpSpec("Gemm", _ANCHOR, QuantRole.COMPUTE, coupling.GEMM, matmul_macs),
    OpSpec("MatMul", _ANCHOR, QuantRole.COMPUTE, coupling.MATMUL, matmul_macs),
    OpSpec("MatMulInteger", _ANCHOR, QuantRole.NONE, _UNKNOWN, matmul_macs, side_inputs=frozenset({2, 3})),
    OpSpec("QLinearMatMul", _ANCHOR, QuantRole.NONE, _UNKNOWN, matmul_macs,
           side_inputs=frozenset({1, 2, 4, 5, 6, 7})),
    OpSpec("Einsum", _ANCHOR, QuantRole.FLOAT, _UNKNOWN, einsum_macs),
    OpSpec("Det", KernelRole.OPAQUE),
)
