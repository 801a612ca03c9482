"""Convolutions on torch tensors.

Shapes: Conv x [N, C, ..], w [K, C/g, ..], b [K]; ConvTranspose w [C, K/g, ..].
Source: ONNX operators Conv, ConvTranspose, Col2Im.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.nn import functional

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors, constant_inputs, present
from edgec.ir.graph import Node

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def windows(node: Node, kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis that makes whole windows: exactly as many as the output has elements.

    kernel: extents of the window. A negative number after an axis means that its last elements meet no window.
    """
    rank = len(kernel)
    sizes, outs = node.operand(0).shape[2:], node.outputs[0].shape[2:]
    strides, dilations = node.integers("strides", (1,) * rank), node.integers("dilations", (1,) * rank)
    given = node.integers("pads", (0,) * 2 * rank)
    mode = node.text("auto_pad", "NOTSET")
    result = []
    for axis in range(rank):
        needed = (outs[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        before = given[axis] if mode == "NOTSET" else 0
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, needed - sizes[axis])
            before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        result.append((before, needed - sizes[axis] - before))
    return result


def padded(x: Any, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Any:
    """`x` with its last axes padded, or cut where a number is negative."""
    flat = [n for pair in reversed(pads) for n in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def _conv(node: Node, x: Inputs) -> Tensors:
    rank = x[1].ndim - 2
    pads, symmetric = windows(node, x[1].shape[2:]), (0,) * rank
    if all(before >= max(after, 0) for before, after in pads) and node.text("auto_pad", "NOTSET") == "NOTSET":
        given = node.integers("pads", (0,) * 2 * rank)
        if given[:rank] == given[rank:]:
            pads, symmetric = [], given[:rank]
    return [_CONV[rank](padded(x[0], pads), x[1], present(x, 2), stride=node.integers("strides", (1,) * rank),
                        padding=symmetric, dilation=node.integers("dilations", (1,) * rank),
                        groups=node.integer("group", 1))]


def _conv_transpose(node: Node, x: Inputs) -> Tensors:
    rank = x[1].ndim - 2
    ones, kernel = (1,) * rank, x[1].shape[2:]
    strides, dilations = node.integers("strides", ones), node.integers("dilations", ones)
    full = _TRANSPOSE[rank](x[0], x[1], stride=strides, dilation=dilations, groups=node.integer("group", 1))
    outs, extra = node.outputs[0].shape[2:], node.integers("output_padding", (0,) * rank)
    mode, given = node.text("auto_pad", "NOTSET"), node.integers("pads", (0,) * 2 * rank)
    cuts = []
    for axis in range(rank):
        reach = (x[0].shape[2 + axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        first = given[axis]
        if mode == "VALID":
            first = 0
        elif mode != "NOTSET" or "output_shape" in node.attributes:
            total = max(0, reach + extra[axis] - outs[axis])
            first = total // 2 if mode == "SAME_UPPER" else total - total // 2
        cuts.append((-first, outs[axis] + first - reach))
    result, bias = padded(full, cuts), present(x, 2)
    return [result if bias is None else result + bias.reshape(-1, *ones)]


def _col2im(node: Node, x: Inputs) -> Tensors:
    size, block = node.parameter(1), node.parameter(2)
    pads = node.integers("pads", (0,) * 4)
    assert size is not None
    assert block is not None
    whole = [size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3]]
    image = functional.fold(x[0], whole, block, dilation=node.integers("dilations", (1, 1)),
                            stride=node.integers("strides", (1, 1)))
    return [image[..., pads[0]:pads[0] + size[0], pads[1]:pads[1] + size[1]]]


def _refuse_rank(node: Node) -> Reason | None:
    rank = node.operand(1).type.rank - 2
    return None if rank in _CONV else ("torch.conv_rank", f"{node.op} over {rank} spatial axes; torch has 1 to 3")


def _refuse_col2im(node: Node) -> Reason | None:
    size = node.operand(1)
    if size.type.dims != (2,):
        return "torch.conv_rank", "Col2Im over other than 2 spatial axes"
    return constant_inputs(1, 2)(node)


FORMS: dict[str, Form] = {
    "Conv": Form(_conv, weights=(1, 2), refuse=_refuse_rank),
    "ConvTranspose": Form(_conv_transpose, weights=(1, 2), refuse=_refuse_rank),
    "Col2Im": Form(_col2im, refuse=_refuse_col2im),
}
