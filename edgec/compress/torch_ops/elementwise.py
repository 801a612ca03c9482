"""Element-wise arithmetic and activations on torch tensors. Source: the ONNX operators of the same names."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch.nn import functional

from edgec.compress.torch_ops.rule import Form, Inputs, Tensors, present
from edgec.ir.graph import Node


def _unary(function: Callable[[Any], Any]) -> Form:
    return Form(lambda _node, x: [function(x[0])])


def _variadic(function: Callable[[Any, Any], Any]) -> Form:
    return Form(lambda _node, x: [reduce(function, x)])


def _div(_node: Node, x: Inputs) -> Tensors:
    whole = not x[0].is_floating_point()
    return [torch.div(x[0], x[1], rounding_mode="trunc") if whole else x[0] / x[1]]


def _mod(node: Node, x: Inputs) -> Tensors:
    return [torch.fmod(x[0], x[1]) if node.integer("fmod", 0) else torch.remainder(x[0], x[1])]


def _mean(_node: Node, x: Inputs) -> Tensors:
    return [reduce(torch.add, x) / len(x)]


def _clip(_node: Node, x: Inputs) -> Tensors:
    low, high = present(x, 1), present(x, 2)
    result = x[0]
    if low is not None:
        result = torch.maximum(result, low) if low.requires_grad else torch.clamp(result, min=low)
    if high is not None:
        result = torch.minimum(result, high) if high.requires_grad else torch.clamp(result, max=high)
    return [result]


def _gelu(node: Node, x: Inputs) -> Tensors:
    return [functional.gelu(x[0], approximate=node.text("approximate", "none"))]


def _hard_sigmoid(node: Node, x: Inputs) -> Tensors:
    return [torch.clamp(x[0] * node.real("alpha", 0.2) + node.real("beta", 0.5), 0, 1)]


def _selu(node: Node, x: Inputs) -> Tensors:
    alpha, gamma = node.real("alpha", 1.6732632423543772), node.real("gamma", 1.0507009873554805)
    return [gamma * functional.elu(x[0], alpha)]


def _shrink(node: Node, x: Inputs) -> Tensors:
    bias, bound = node.real("bias", 0.0), node.real("lambd", 0.5)
    zero = torch.zeros_like(x[0])
    return [torch.where(x[0] < -bound, x[0] + bias, torch.where(x[0] > bound, x[0] - bias, zero))]


def _thresholded_relu(node: Node, x: Inputs) -> Tensors:
    return [torch.where(x[0] > node.real("alpha", 1.0), x[0], torch.zeros_like(x[0]))]


FORMS: dict[str, Form] = {
    "Relu": _unary(torch.relu),
    "Clip": Form(_clip),
    "Add": Form(lambda _node, x: [x[0] + x[1]], affine=True),
    "Mul": Form(lambda _node, x: [x[0] * x[1]], affine=True),
    "Sum": _variadic(torch.add),
    "Mean": Form(_mean),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Sub": Form(lambda _node, x: [x[0] - x[1]], affine=True),
    "Div": Form(_div, affine=True),
    "Pow": Form(lambda _node, x: [torch.pow(x[0], x[1]).to(x[0].dtype)]),
    "Mod": Form(_mod),
    "PRelu": Form(lambda _node, x: [torch.where(x[0] < 0, x[1] * x[0], x[0])], weights=(1,)),
    "Sigmoid": _unary(torch.sigmoid),
    "HardSigmoid": Form(_hard_sigmoid),
    "HardSwish": _unary(lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1)),
    "LeakyRelu": Form(lambda node, x: [functional.leaky_relu(x[0], node.real("alpha", 0.01))]),
    "Elu": Form(lambda node, x: [functional.elu(x[0], node.real("alpha", 1.0))]),
    "Selu": Form(_selu),
    "Celu": Form(lambda node, x: [functional.celu(x[0], node.real("alpha", 1.0))]),
    "Gelu": Form(_gelu),
    "Mish": _unary(functional.mish),
    "Softplus": _unary(functional.softplus),
    "Softsign": _unary(functional.softsign),
    "Swish": Form(lambda node, x: [x[0] * torch.sigmoid(node.real("alpha", 1.0) * x[0])]),
    "ThresholdedRelu": Form(_thresholded_relu),
    "Shrink": Form(_shrink),
    "Erf": _unary(torch.erf),
    **{op: _unary(getattr(torch, op.lower())) for op in (
        "Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log", "Sign", "Floor", "Ceil", "Round", "Tanh", "Sin", "Cos", "Tan",
        "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh")},
}
