"""Lowerings of ops that make tensors from nothing but shapes and constants."""

from __future__ import annotations

import numpy as np
from tvm import te, tirx

from edgec.backends.tvm.lower.rule import Inputs, Lowering, Tensors, constant_inputs, dtype_name
from edgec.backends.tvm.lower.shapes import Expr, constant, select
from edgec.ir.graph import Node


def _filled(node: Node, value: float) -> Tensors:
    out = node.outputs[0]
    return [te.compute(out.shape, lambda *_: constant(value, dtype_name(out.dtype)), node.op.lower())]


def _constant_of_shape(node: Node, tensors: Inputs) -> Tensors:
    value = node.attributes.get("value")
    return _filled(node, np.asarray(value).reshape(-1)[0] if value is not None else 0.0)


def _eye_like(node: Node, tensors: Inputs) -> Tensors:
    out, k = node.outputs[0], node.integer("k", 0)
    one, zero = (constant(v, dtype_name(out.dtype)) for v in (1, 0))
    return [te.compute(out.shape, lambda i, j: select(tirx.EQ(j - i, k), one, zero), "eye_like")]


def _range(node: Node, tensors: Inputs) -> Tensors:
    start, _limit, step = tensors
    dtype = dtype_name(node.outputs[0].dtype)

    def element(i: Expr) -> Expr:
        return start(*[0] * len(start.shape)) + i.astype(dtype) * step(*[0] * len(step.shape))

    return [te.compute(node.outputs[0].shape, element, "range")]


LOWERINGS: dict[str, Lowering] = {
    "ConstantOfShape": Lowering(_constant_of_shape, constant_inputs(0)),
    "EyeLike": Lowering(_eye_like),
    "Range": Lowering(_range, constant_inputs(0, 1, 2)),
}
