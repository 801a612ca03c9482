"""Matrix products on torch tensors. Source: ONNX operators Gemm, MatMul, Einsum, Det."""

from __future__ import annotations

import torch

from edgec.compress.torch_ops.rule import Form, Inputs, Tensors, present
from edgec.ir.graph import Node


def _gemm(node: Node, x: Inputs) -> Tensors:
    a = x[0].transpose(0, 1) if node.integer("transA", 0) else x[0]
    b = x[1].transpose(0, 1) if node.integer("transB", 0) else x[1]
    alpha, beta, c = node.real("alpha", 1.0), node.real("beta", 1.0), present(x, 2)
    product = a @ b
    if alpha != 1.0:
        product = product * alpha
    if c is None:
        return [product]
    return [product + (c if beta == 1.0 else c * beta)]


FORMS: dict[str, Form] = {
    "Gemm": Form(_gemm, weights=(0, 1, 2)),
    "MatMul": Form(lambda _node, x: [torch.matmul(x[0], x[1])], weights=(0, 1)),
    "Einsum": Form(lambda node, x: [torch.einsum(node.text("equation", ""), *x)], weights=tuple(range(16))),
    "Det": Form(lambda _node, x: [torch.linalg.det(x[0])]),
}
