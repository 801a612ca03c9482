"""Pooling on torch tensors: whole windows on an input that is padded first.

Source: ONNX operators MaxPool, AveragePool, LpPool, their global forms, and MaxUnpool.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.nn import functional

from edgec.compress.torch_ops.conv import padded, windows
from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors
from edgec.ir.graph import Node

_MAX: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _max_pool(node: Node, x: Inputs) -> Tensors:
    kernel = node.integers("kernel_shape")
    rank = len(kernel)
    pads = windows(node, kernel)
    data = x[0]
    wide = data if data.is_floating_point() else data.double()
    wide = padded(wide, pads, float("-inf"))
    result = _MAX[rank](wide, kernel, stride=node.integers("strides", (1,) * rank),
                        dilation=node.integers("dilations", (1,) * rank), return_indices=len(node.outputs) > 1)
    if len(node.outputs) == 1:
        return [result.to(data.dtype)]
    largest, flat = result
    return [largest.to(data.dtype), _in_input(node, flat, wide.shape[2:], pads)]


def _in_input(node: Node, flat: Any, extents: tuple[int, ...], pads: list[tuple[int, int]]) -> Any:
    """Places in the padded image as places in the whole input, row-major, or column-major within an image."""
    batch, channels, *sizes = node.operand(0).shape
    rank, index, rest = len(sizes), 0, flat
    strides = [prod(sizes[axis + 1:]) for axis in range(rank)]
    if node.integer("storage_order", 0):
        strides = [prod(sizes[:axis]) for axis in range(rank)]
    for axis in reversed(range(rank)):
        index = index + (rest % extents[axis] - pads[axis][0]) * strides[axis]
        rest = torch.div(rest, extents[axis], rounding_mode="floor")
    image = torch.arange(batch * channels, device=flat.device).reshape(batch, channels, *[1] * rank)
    return index + image * prod(sizes)


def _sums(node: Node, x: Any, pads: list[tuple[int, int]]) -> Any:
    """The sum of each window."""
    kernel = node.integers("kernel_shape")
    rank = len(kernel)
    wide = padded(x, pads)
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    single = wide.reshape(-1, 1, *wide.shape[2:])
    total = _CONV[rank](single, ones, stride=node.integers("strides", (1,) * rank),
                        dilation=node.integers("dilations", (1,) * rank))
    return total.reshape(*x.shape[:2], *total.shape[2:])


def _average_pool(node: Node, x: Inputs) -> Tensors:
    kernel = node.integers("kernel_shape")
    rank, pads = len(kernel), windows(node, kernel)
    total = _sums(node, x[0], pads)
    if not any(n for pair in pads for n in pair):
        return [total / prod(kernel)]
    ones = torch.ones(1, 1, *x[0].shape[2:], dtype=x[0].dtype, device=x[0].device)
    if node.integer("count_include_pad", 0):  # what ceil_mode adds beyond the padding is never counted
        given = node.integers("pads", (0,) * 2 * rank)
        inside = pads if node.text("auto_pad", "NOTSET") != "NOTSET" else list(zip(given[:rank], given[rank:],
                                                                                     strict=True))
        ones = padded(ones, inside, 1.0)
        pads = [(before - b, after - a) for (before, after), (b, a) in zip(pads, inside, strict=True)]
    return [total / _sums(node, ones, pads)]


def _lp_pool(node: Node, x: Inputs) -> Tensors:
    p = node.integer("p", 2)
    return [_sums(node, x[0].abs() ** p, windows(node, node.integers("kernel_shape"))) ** (1 / p)]


def _spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _global_lp_pool(node: Node, x: Inputs) -> Tensors:
    p = node.integer("p", 2)
    return [(x[0].abs() ** p).sum(_spatial(x[0]), keepdim=True) ** (1 / p)]


def _max_unpool(node: Node, x: Inputs) -> Tensors:
    """Each element goes to the place that `indices` names in the smallest output that the window fits in."""
    kernel = node.integers("kernel_shape")
    rank, shape = len(kernel), node.outputs[0].shape
    strides, pads = node.integers("strides", (1,) * rank), node.integers("pads", (0,) * 2 * rank)
    least = [(n - 1) * s + k - pads[a] - pads[a + rank]
             for a, (n, s, k) in enumerate(zip(x[0].shape[2:], strides, kernel, strict=True))]
    count = prod(x[0].shape[:2]) * prod(least)
    blank = torch.zeros(count, dtype=x[0].dtype, device=x[0].device)
    image = blank.scatter(0, x[1].reshape(-1), x[0].reshape(-1)).reshape(*x[0].shape[:2], *least)
    return [padded(image, [(0, out - n) for out, n in zip(shape[2:], least, strict=True)])]


def _refuse_rank(node: Node) -> Reason | None:
    rank = node.operand(0).type.rank - 2
    return None if rank in _MAX else ("torch.pool_rank", f"{node.op} over {rank} spatial axes; torch has 1 to 3")


FORMS: dict[str, Form] = {
    "MaxPool": Form(_max_pool, refuse=_refuse_rank),
    "AveragePool": Form(_average_pool, refuse=_refuse_rank),
    "LpPool": Form(_lp_pool, refuse=_refuse_rank),
    "GlobalAveragePool": Form(lambda _node, x: [x[0].mean(_spatial(x[0]), keepdim=True)]),
    "GlobalMaxPool": Form(lambda _node, x: [x[0].amax(_spatial(x[0]), keepdim=True)]),
    "GlobalLpPool": Form(_global_lp_pool),
    "MaxUnpool": Form(_max_unpool),
}
