"""What a Conv node computes, as numbers: shared by the convolution kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edgec.kernels.epilogue import geometry
from edgec.kernels.window import Window, of_node

from edgec.ir.graph import Node
from edgec.ir.types import DType
from edgec.plan.plan import Kernel


@dataclass(frozen=True)
class Convolution:
    """y[n, k, i, j] = bias[k] + sum over c, r, s of w[k, c, r, s] * x[n, g*C/G + c, row(i, r), column(j, s)].

    Shapes: x [n, c, h, w]; y [n, k, oh, ow]; w [k, c/groups, R, S]; g = k // (K/G). A 1-D convolution has h = 1.
    """

    n: int
    c: int
    k: int
    groups: int
    window: Window


def refuse(kernel: Kernel) -> str | None:
    """Why the kernel's anchor is no convolution with known weights over one or two axes, in float32 or float16."""
    node = kernel.anchor
    if node is None or node.op != "Conv":
        return "the anchor is not a Conv"
    weight, bias_ = node.operand(1), node.input(2)
    if weight.const is None or (bias_ is not None and bias_.const is None):
        return "the weights are not constant"
    if len(weight.shape) not in (3, 4) or weight.dtype not in (DType.FLOAT32, DType.FLOAT16):
        return "the weights are not float32 or float16 of rank 3 or 4"
    data = node.operand(0)
    if not data.type.is_static or 0 in data.shape:
        return "the input is empty or its shape is unknown"
    return None


def describe(node: Node) -> Convolution:
    """The numbers of a Conv node that `refuse` lets pass."""
    n, c, h, w = geometry(node.operand(0).shape)
    _, k, oh, ow = geometry(node.outputs[0].shape)
    r, s = weights(node).shape[2:]
    return Convolution(n, c, k, node.integer("group", 1), of_node(node, (h, w, oh, ow), (r, s)))  # type: ignore[arg-type]


def weights(node: Node) -> np.ndarray:
    """The weights [k, c/groups, R, S]."""
    array = node.operand(1).const
    assert array is not None  # `refuse` has checked
    return array[:, :, None, :] if array.ndim == 3 else array


def bias(node: Node, length: int) -> np.ndarray | None:
    """The bias in its own format, with zeros up to `length` numbers; None if the node has none."""
    value = node.input(2)
    if value is None or value.const is None:
        return None
    padded = np.zeros(length, value.const.dtype)
    padded[: value.const.size] = value.const.reshape(-1)
    return padded


def join_groups(conv: Convolution, block: int) -> Convolution:
    """The same convolution with neighbouring groups joined, as few as fill whole blocks of inputs and outputs, or all.

    `spread_weights` gives its weights: what joined groups do not share is 0.
    """
    ins, outs = conv.c // conv.groups, conv.k // conv.groups
    joined = next(m for m in range(1, conv.groups + 1) if conv.groups % m == 0
                  and (m == conv.groups or (m * ins % block == 0 and m * outs % block == 0)))
    return replace(conv, groups=conv.groups // joined)


def spread_weights(array: np.ndarray, groups: int, joined: int) -> np.ndarray:
    """[k, c/groups, R, S] -> [k, c/groups * joined, R, S]: a group's weights stand where its inputs are."""
    if joined == 1:
        return array
    k, ins, r, s = array.shape
    spread = np.zeros((groups // joined, joined, k // groups, joined, ins, r, s), array.dtype)
    parts = array.reshape(groups // joined, joined, k // groups, ins, r, s)
    for member in range(joined):
        spread[:, member, :, member] = parts[:, member]
    return spread.reshape(k, joined * ins, r, s)
