"""Comparisons, boolean and bitwise ops, selection and conversion on torch tensors.

Comparisons have no gradient; Where and Cast between floats pass theirs on.
Source: the ONNX operators of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgec.compress.torch_ops.rule import DTYPES, Form, Inputs, Tensors
from edgec.ir.graph import Node


def _binary(function: Callable[[Any, Any], Any]) -> Form:
    return Form(lambda _node, x: [function(x[0], x[1])])


def _shift(node: Node, x: Inputs) -> Tensors:
    return [x[0] << x[1] if node.text("direction", "LEFT") == "LEFT" else x[0] >> x[1]]


def _is_inf(node: Node, x: Inputs) -> Tensors:
    result = torch.zeros_like(x[0], dtype=torch.bool)
    if node.integer("detect_positive", 1):
        result = result | torch.isposinf(x[0])
    if node.integer("detect_negative", 1):
        result = result | torch.isneginf(x[0])
    return [result]


def _cast(node: Node, x: Inputs) -> Tensors:
    """A cast to the type that the input has already changes nothing, also in a module moved to float64."""
    source, target = node.operand(0).dtype, node.outputs[0].dtype
    return [x[0] if source is target else x[0].to(DTYPES[target])]


FORMS: dict[str, Form] = {
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Xor": _binary(torch.logical_xor),
    "Not": Form(lambda _node, x: [torch.logical_not(x[0])]),
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "BitwiseNot": Form(lambda _node, x: [torch.bitwise_not(x[0])]),
    "BitShift": Form(_shift),
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "IsNaN": Form(lambda _node, x: [torch.isnan(x[0])]),
    "IsInf": Form(_is_inf),
    "Where": Form(lambda _node, x: [torch.where(x[0], x[1], x[2])]),
    "Cast": Form(_cast),
    "CastLike": Form(_cast),
}
