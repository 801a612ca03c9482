"""Lowerings of convolutions of any spatial rank."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from tvm import te, tirx

from edgec.backends.tvm.lower.quantize import saturated
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, extents, integers
from edgec.backends.tvm.lower.shapes import Expr, constant, dtype_of, pad
from edgec.ir.graph import Node


def padding(node: Node, spatial: list[int], out: list[int], kernel: list[int]) -> list[tuple[int, int]]:
    """Elements before and after each spatial axis, `auto_pad` resolved.

    out: output extents; kernel: extents of the dilated window. Source: ONNX operator Conv, attribute auto_pad.
    """
    auto = node.text("auto_pad", "NOTSET")
    strides = integers(node, "strides") or [1] * len(spatial)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        result = []
        for d, o, k, s in zip(spatial, out, kernel, strides, strict=True):
            total = max((o - 1) * s + k - d, 0)
            small = total // 2
            result.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
        return result
    pads = (integers(node, "pads") or [0] * (2 * len(spatial))) if auto == "NOTSET" else [0] * (2 * len(spatial))
    return list(zip(pads[:len(spatial)], pads[len(spatial):], strict=True))


def convolve(x: te.Tensor, w: te.Tensor, out: tuple[int, ...], *, strides: list[int], dilations: list[int],
             pads: list[tuple[int, int]], group: int, accumulator: str, name: str = "conv") -> te.Tensor:
    """X [N, C, D...] * w [K, C/g, R...] -> [N, K, O...], summed in type `accumulator`.

    Shapes: every spatial axis has stride, dilation and padding of its own; group splits C and K alike.
    """
    filters, per_group, *window = extents(w)
    out_per_group = filters // group
    x = pad(x, [0, 0, *(b for b, _ in pads)], [0, 0, *(a for _, a in pads)], 0, f"{name}_pad")

    def body(n: Expr, k: Expr, *position: Expr) -> Expr:
        c = te.reduce_axis((0, per_group), "c")
        taps = [te.reduce_axis((0, r), f"r{d}") for d, r in enumerate(window)]
        base = 0 if group == 1 else tirx.indexdiv(k, out_per_group) * per_group
        source = [p * s + r * d for p, s, r, d in zip(position, strides, taps, dilations, strict=True)]
        product = x(n, base + c, *source).astype(accumulator) * w(k, c, *taps).astype(accumulator)
        return te.sum(product, axis=[c, *taps])

    return te.compute(out, body, name)


def add_channel(x: te.Tensor, bias: te.Tensor | None, name: str = "bias") -> te.Tensor:
    """X [N, K, ...] + bias [K]."""
    if bias is None:
        return x
    return te.compute(x.shape, lambda *i: x(*i) + bias(i[1]).astype(dtype_of(x)), name)


def _conv(node: Node, tensors: Inputs) -> Tensors:
    x, w = tensors[0], tensors[1]
    bias = tensors[2] if len(tensors) > 2 else None
    window = list(extents(w)[2:])
    ones = [1] * len(window)
    dilations = integers(node, "dilations") or ones
    out = node.outputs[0].shape
    dilated = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    pads = padding(node, list(extents(x)[2:]), list(out[2:]), dilated)
    y = convolve(x, w, out, strides=integers(node, "strides") or ones, dilations=dilations, pads=pads,
                 group=node.integer("group", 1), accumulator=dtype_of(x))
    return [add_channel(y, bias)]


def transposed_pads(node: Node) -> list[int]:
    """Elements that ConvTranspose cuts at the start of each spatial axis. Source: ONNX operator ConvTranspose."""
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None
    assert weight is not None
    spatial, window = data.shape[2:], weight.shape[2:]
    ones = [1] * len(spatial)
    auto = node.text("auto_pad", "NOTSET")
    explicit = integers(node, "pads")
    if auto == "NOTSET" and integers(node, "output_shape") is None:
        return (explicit or [0] * (2 * len(spatial)))[:len(spatial)]
    if auto == "VALID":
        return [0] * len(spatial)
    strides, dilations = integers(node, "strides") or ones, integers(node, "dilations") or ones
    extra = integers(node, "output_padding") or [0] * len(spatial)
    result = []
    for d, k, s, e, g, o in zip(spatial, window, strides, dilations, extra, node.outputs[0].shape[2:], strict=True):
        total = max(s * (d - 1) + g + (k - 1) * e + 1 - o, 0)
        result.append(total - total // 2 if auto == "SAME_LOWER" else total // 2)
    return result


def _conv_transpose(node: Node, tensors: Inputs) -> Tensors:
    """A convolution of the input, spread out by the strides, with the mirrored window."""
    x, w = tensors[0], tensors[1]
    channels, per_group, *window = extents(w)
    group = node.integer("group", 1)
    ones = [1] * len(window)
    strides, dilations = integers(node, "strides") or ones, integers(node, "dilations") or ones
    cut = transposed_pads(node)
    out = node.outputs[0].shape
    spatial = extents(x)[2:]
    spread = [(d - 1) * s + 1 for d, s in zip(spatial, strides, strict=True)]
    # output o reads spread position o + cut - r * dilation, so the window reaches this far to the left
    left = [(k - 1) * d - c for k, d, c in zip(window, dilations, cut, strict=True)]
    shape = [o + (k - 1) * d for o, k, d in zip(out[2:], window, dilations, strict=True)]

    def spread_element(n: Expr, c: Expr, *position: Expr) -> Expr:
        inside, source = [], []
        for p, b, s, total in zip(position, left, strides, spread, strict=True):
            inside += [p >= b, p < b + total]
            source.append(tirx.indexdiv(p - b, s) if s > 1 else p - b)
            if s > 1:
                inside.append(tirx.floormod(p - b, s) == 0)
        return tirx.if_then_else(tirx.all(*inside), x(n, c, *source), constant(0, dtype_of(x)))

    wide = te.compute((extents(x)[0], channels, *shape), spread_element, "spread")
    in_per_group = channels // group

    def body(n: Expr, k: Expr, *position: Expr) -> Expr:
        c = te.reduce_axis((0, in_per_group), "c")
        taps = [te.reduce_axis((0, r), f"r{d}") for d, r in enumerate(window)]
        base = 0 if group == 1 else tirx.indexdiv(k, per_group) * in_per_group
        column = k if group == 1 else tirx.indexmod(k, per_group)
        source = [p + r * d for p, r, d in zip(position, taps, dilations, strict=True)]
        mirrored = [e - 1 - r for e, r in zip(window, taps, strict=True)]
        return te.sum(wide(n, base + c, *source) * w(base + c, column, *mirrored), axis=[c, *taps])

    y = te.compute(out, body, "conv_transpose")
    return [add_channel(y, tensors[2] if len(tensors) > 2 else None)]


def _refuse_window(node: Node) -> Reason | None:
    weight = node.inputs[1]
    if weight is not None and not 3 <= len(weight.shape) <= 5:
        return "conv.rank", f"a window of {len(weight.shape) - 2} axes; 1 to 3 are supported"
    if weight is not None and prod(weight.shape) == 0:
        return "conv.empty", "the weight has no elements"
    return None


def _refuse_quantized_window(node: Node) -> Reason | None:
    weight = node.operand(3)
    if not 3 <= weight.type.rank <= 5:
        return "conv.rank", f"a window of {weight.type.rank - 2} axes; 1 to 3 are supported"
    return ("conv.empty", "the weight has no elements") if weight.type.size == 0 else None


def _col2im(node: Node, tensors: Inputs) -> Tensors:
    """Sum of all columns' elements that fall on a pixel: x [N, C * prod(block), L] -> [N, C, image...]."""
    x = tensors[0]
    image = [int(v) for v in node.inputs[1].const]  # type: ignore[union-attr]
    block = [int(v) for v in node.inputs[2].const]  # type: ignore[union-attr]
    ones = [1] * len(image)
    strides, dilations = integers(node, "strides") or ones, integers(node, "dilations") or ones
    pads = integers(node, "pads") or [0] * (2 * len(image))
    ends = pads[len(image):]
    steps = [(d + a + b - ((k - 1) * e + 1)) // s + 1 for d, a, b, k, e, s in
             zip(image, pads, ends, block, dilations, strides, strict=False)]
    size = int(np.prod(block))

    def body(n: Expr, c: Expr, *position: Expr) -> Expr:
        taps = [te.reduce_axis((0, k), f"r{d}") for d, k in enumerate(block)]
        tap: Expr = 0
        column: Expr = 0
        inside = []
        for p, r, b, k, e, s, count in zip(position, taps, pads, block, dilations, strides, steps, strict=False):
            offset = p + b - r * e
            tap = tap * k + r
            column = column * count + tirx.floordiv(offset, s)
            inside += [offset >= 0, tirx.floordiv(offset, s) < count, tirx.floormod(offset, s) == 0]
        value = tirx.if_then_else(tirx.all(*inside), x(n, c * size + tap, column), constant(0, dtype_of(x)))
        return te.sum(value, axis=taps)

    return [te.compute(node.outputs[0].shape, body, "col2im")]


def _centered(x: Any, zero: Any | None, name: str) -> te.Tensor:
    """X - zero as int32. zero: one number, or one per index of axis 0."""
    if zero is None:
        return te.compute(x.shape, lambda *i: x(*i).astype("int32"), name)
    return te.compute(x.shape, lambda *i: x(*i).astype("int32") - per_index(zero, i[0]).astype("int32"), name)


def per_index(tensor: Any, index: Expr) -> Expr:
    """Element `index` of a vector, or the one element of a tensor."""
    shape = extents(tensor)
    return tensor(*[0 if d == 1 else index for d in shape])


def _integer_sums(node: Node, x: Any, x_zero: Any | None, w: Any, w_zero: Any | None) -> te.Tensor:
    """The convolution of the numbers without their zero points, in int32; so the padding counts as 0."""
    window = list(extents(w)[2:])
    ones = [1] * len(window)
    dilations, out = integers(node, "dilations") or ones, node.outputs[0].shape
    pads = padding(node, list(extents(x)[2:]), list(out[2:]), [(k - 1) * d + 1 for k, d in
                                                              zip(window, dilations, strict=True)])
    return convolve(_centered(x, x_zero, "centered"), _centered(w, w_zero, "weights"), out,
                    strides=integers(node, "strides") or ones, dilations=dilations, pads=pads,
                    group=node.integer("group", 1), accumulator="int32")


def _conv_integer(node: Node, tensors: Inputs) -> Tensors:
    x, w, x_zero, w_zero = [*tensors, None, None][:4]
    return [_integer_sums(node, x, x_zero, w, w_zero)]


def _qlinear_conv(node: Node, tensors: Inputs) -> Tensors:
    """saturate(round(sums * (x_scale * w_scale / y_scale)) + y_zero); scales of w may be one per filter."""
    given: list[Any] = [*tensors, None]
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = given[:9]
    sums: Any = add_channel(_integer_sums(node, x, x_zero, w, w_zero), bias)

    def body(*index: Expr) -> Expr:
        factor = per_index(x_scale, 0) * per_index(w_scale, index[1]) / per_index(y_scale, 0)
        steps = tirx.nearbyint(sums(*index).astype("float32") * factor) + per_index(y_zero, 0).astype("float32")
        return saturated(steps, dtype_of(y_zero))

    return [te.compute(sums.shape, body, "qlinear_conv")]


LOWERINGS: dict[str, Lowering] = {
    "Conv": Lowering(_conv, _refuse_window),
    "ConvInteger": Lowering(_conv_integer, _refuse_window),
    "QLinearConv": Lowering(_qlinear_conv, _refuse_quantized_window),
    "ConvTranspose": Lowering(_conv_transpose, _refuse_window),
    "Col2Im": Lowering(_col2im),
}
