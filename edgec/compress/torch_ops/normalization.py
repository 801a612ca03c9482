"""Normalization and softmax on torch tensors, BatchNormalization with the statistics that the engine will use.

Source: the ONNX operators of the same names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors, present
from edgec.ir.graph import Node


def _along_channels(parameter: Any, rank: int) -> Any:
    return parameter.reshape(-1, *[1] * (rank - 2))


def _batch_norm(node: Node, x: Inputs) -> Tensors:
    """Formula: (x - mean) * (gamma / sqrt(var + epsilon)) + beta."""
    gamma, beta, mean, var = (_along_channels(p, x[0].ndim) if x[0].ndim > 1 else p for p in x[1:5])
    factor = gamma * torch.rsqrt(var + node.real("epsilon", 1e-5))
    return [x[0] * factor + (beta - mean * factor)]


def _learn_batch_norm(node: Node, x: Inputs, momentum: float) -> tuple[Any, dict[int, Any]]:
    """Normalize with the mean and the biased variance of the batch; the statistics move by `momentum`.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2; the moving variance is the unbiased one.
    """
    mean, var = x[3].clone(), x[4].clone()
    result = functional.batch_norm(x[0], mean, var, x[1], x[2], True, momentum, node.real("epsilon", 1e-5))
    return result, {3: mean, 4: var}


def _refuse_training(node: Node) -> Reason | None:
    if node.integer("training_mode", 0):
        return "torch.training_mode", "BatchNormalization in training mode; the graph wants its inference form"
    return None


def _standardized(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    """The standardized tensor, the mean, and 1 / the standard deviation."""
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    return centred * inverse, mean, inverse


def _instance_norm(node: Node, x: Inputs) -> Tensors:
    plain, _, _ = _standardized(x[0], tuple(range(2, x[0].ndim)), node.real("epsilon", 1e-5))
    return [plain * _along_channels(x[1], x[0].ndim) + _along_channels(x[2], x[0].ndim)]


def _group_norm(node: Node, x: Inputs) -> Tensors:
    batch, groups = x[0].shape[0], node.integer("num_groups", 1)
    plain, _, _ = _standardized(x[0].reshape(batch, groups, -1), (2,), node.real("epsilon", 1e-5))
    return [plain.reshape(x[0].shape) * _along_channels(x[1], x[0].ndim) + _along_channels(x[2], x[0].ndim)]


def _layer_norm(node: Node, x: Inputs) -> Tensors:
    axes = tuple(range(node.integer("axis", -1) % x[0].ndim, x[0].ndim))
    plain, mean, inverse = _standardized(x[0], axes, node.real("epsilon", 1e-5))
    result, bias = plain * x[1], present(x, 2)
    return [result if bias is None else result + bias, mean, inverse][:len(node.outputs)]


def _rms_norm(node: Node, x: Inputs) -> Tensors:
    axes = tuple(range(node.integer("axis", -1) % x[0].ndim, x[0].ndim))
    square = (x[0] * x[0]).mean(axes, keepdim=True)
    return [x[0] * torch.rsqrt(square + node.real("epsilon", 1e-5)) * x[1]]


def _mean_variance_norm(node: Node, x: Inputs) -> Tensors:
    axes = node.integers("axes", (0, 2, 3))
    centred = x[0] - x[0].mean(axes, keepdim=True)
    return [centred / ((centred * centred).mean(axes, keepdim=True).sqrt() + 1e-9)]


def _lp_norm(node: Node, x: Inputs) -> Tensors:
    axis, p = node.integer("axis", -1), node.integer("p", 2)
    size = torch.linalg.vector_norm(x[0], p, axis, keepdim=True)
    return [x[0] / torch.where(size == 0, torch.ones_like(size), size)]


def _lrn(node: Node, x: Inputs) -> Tensors:
    """Formula: x / (bias + alpha / size * sum of squares of `size` channels around it) ^ beta."""
    size, channels = node.integer("size", 1), x[0].shape[1]
    before = (size - 1) // 2
    square = functional.pad(x[0] * x[0], [0, 0] * (x[0].ndim - 2) + [before, size - 1 - before])
    total = sum(square[:, shift:shift + channels] for shift in range(size))
    scale = node.real("bias", 1.0) + node.real("alpha", 1e-4) / size * total
    return [x[0] / scale ** node.real("beta", 0.75)]


def _hardmax(node: Node, x: Inputs) -> Tensors:
    axis = node.integer("axis", -1)
    largest = x[0].argmax(axis, keepdim=True)
    places = torch.arange(x[0].shape[axis], device=x[0].device)
    shape = [1] * x[0].ndim
    shape[axis] = -1
    return [(places.reshape(shape) == largest).to(x[0].dtype)]


FORMS: dict[str, Form] = {
    "BatchNormalization": Form(_batch_norm, weights=(1, 2), learn=_learn_batch_norm, refuse=_refuse_training),
    "InstanceNormalization": Form(_instance_norm, weights=(1, 2)),
    "GroupNormalization": Form(_group_norm, weights=(1, 2)),
    "LayerNormalization": Form(_layer_norm, weights=(1, 2)),
    "RMSNormalization": Form(_rms_norm, weights=(1,)),
    "MeanVarianceNormalization": Form(_mean_variance_norm),
    "LpNormalization": Form(_lp_norm),
    "LRN": Form(_lrn),
    "Softmax": Form(lambda node, x: [torch.softmax(x[0], node.integer("axis", -1))]),
    "LogSoftmax": Form(lambda node, x: [torch.log_softmax(x[0], node.integer("axis", -1))]),
    "Hardmax": Form(_hardmax),
}
