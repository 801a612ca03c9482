"""Reductions on torch tensors. Source: the ONNX operators of the same names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors, constant_inputs
from edgec.ir.graph import Node

_CONSTANT_AXES = constant_inputs(1)


def _refuse_empty(node: Node) -> Reason | None:
    if 0 in node.operand(0).shape:
        return "torch.empty", f"{node.op} of an empty tensor"
    return _CONSTANT_AXES(node)


def _reduction(function: Callable[[Any, Sequence[int], bool], Any],
               refuse: Callable[[Node], Reason | None] = _CONSTANT_AXES) -> Form:
    def run(node: Node, x: Inputs) -> Tensors:
        axes = node.parameter(1)
        if not axes:
            if node.integer("noop_with_empty_axes", 0):
                return [x[0]]
            axes = list(range(x[0].ndim))
        return [function(x[0], axes, bool(node.integer("keepdims", 1))).to(x[0].dtype)]

    return Form(run, refuse=refuse)


def _prod(x: Any, axes: Sequence[int], keep: bool) -> Any:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Any]) -> Form:
    def run(node: Node, x: Inputs) -> Tensors:
        axis, keep = node.integer("axis", 0), bool(node.integer("keepdims", 1))
        if not node.integer("select_last_index", 0):
            return [function(x[0], axis, keepdim=keep)]
        return [x[0].shape[axis] - 1 - function(x[0].flip(axis), axis, keepdim=keep)]

    return Form(run)


def _cumsum(node: Node, x: Inputs) -> Tensors:
    axis = (node.parameter(1) or [0])[0]
    data = x[0].flip(axis) if node.integer("reverse", 0) else x[0]
    result = data.cumsum(axis)
    if node.integer("exclusive", 0):
        first = torch.zeros_like(data.narrow(axis, 0, 1))
        result = torch.cat([first, result.narrow(axis, 0, data.shape[axis] - 1)], axis)
    return [(result.flip(axis) if node.integer("reverse", 0) else result).to(x[0].dtype)]


FORMS: dict[str, Form] = {
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep), _refuse_empty),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep), _refuse_empty),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep)),
    "ReduceLogSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceProd": _reduction(_prod),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": Form(_cumsum, refuse=constant_inputs(1)),
}
