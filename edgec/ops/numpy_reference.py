"""The reference of a few ops in numpy: at a useful speed where onnx's own takes minutes per image, by the formula where
onnx's own is wrong (LRN over fewer samples than channels, LpNormalization with p = 1 of negative numbers), and in the
order of kernels that promise its bits where they would else divide for every number (BatchNormalization).

Each function gets a node and its arrays, and returns None for a case that it leaves to onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod

import numpy as np

from edgec.ir.graph import Node

Arrays = Sequence["np.ndarray | None"]
_LEADING = (slice(None),) * 3  # batch, group, channel
Tap = tuple[tuple[int, ...], tuple[slice, ...]]  # a place in the kernel, and the part of the input that it meets


def _pads(node: Node, extents: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis. Source: ONNX operator Conv, attribute auto_pad."""
    rank = len(extents)
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = node.integers("pads", (0,) * 2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if mode == "VALID":
        return [(0, 0)] * rank
    result = []
    strides, dilations = node.integers("strides", (1,) * rank), node.integers("dilations", (1,) * rank)
    for extent, size, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
        total = max(0, (-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1 - extent)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return result


def _taps(node: Node, kernel: Sequence[int], extents: Sequence[int]) -> tuple[tuple[int, ...], Iterator[Tap]]:
    """Extents of the output, and all taps on the padded input of these `extents`."""
    ones = (1,) * len(kernel)
    strides, dilations = node.integers("strides", ones), node.integers("dilations", ones)
    out = tuple((e - (k - 1) * d - 1) // s + 1 for e, k, s, d in zip(extents, kernel, strides, dilations, strict=True))

    def walk() -> Iterator[Tap]:
        for place in product(*map(range, kernel)):
            yield place, tuple(slice(p * d, p * d + (o - 1) * s + 1, s)
                               for p, d, s, o in zip(place, dilations, strides, out, strict=True))

    return out, walk()


def conv(node: Node, arrays: Arrays) -> list[np.ndarray] | None:
    """Conv in the type of its input: one matrix product per place in the kernel.

    Shapes: x [N, C, ..]; w [K, C/g, ..]; b [K].
    """
    x, w, b = arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None
    if x is None or w is None or x.dtype not in (np.float32, np.float64) or not x.size:
        return None
    group, kernel = node.integer("group", 1), w.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *_pads(node, x.shape[2:], kernel)])
    out, taps = _taps(node, kernel, padded.shape[2:])
    batch, outputs, inputs = x.shape[0], w.shape[0] // group, w.shape[1]
    if min(out, default=1) < 1 or padded.shape[1] != group * inputs:
        return None
    padded = padded.reshape(batch, group, inputs, *padded.shape[2:])
    weights = w.reshape(group, outputs, inputs, *kernel)
    total = np.zeros((batch, group, outputs, prod(out)), x.dtype)
    for place, part in taps:
        patch = padded[_LEADING + part].reshape(batch, group, inputs, -1)
        factor = weights[_LEADING + place]
        total += factor * patch if inputs == 1 else factor @ patch
    if b is not None:
        total += b.reshape(group, outputs, 1)
    return [total.reshape(batch, group * outputs, *out)]


def conv_transpose(node: Node, arrays: Arrays) -> list[np.ndarray] | None:
    """ConvTranspose in the type of its input: each place in the kernel adds one matrix product to the output.

    Shapes: x [N, C, ..]; w [C, K/g, ..]; b [K].
    """
    x, w, b = arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None
    if x is None or w is None or x.dtype not in (np.float32, np.float64) or not x.size:
        return None
    if "output_shape" in node.attributes or node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    group, kernel, rank = node.integer("group", 1), w.shape[2:], w.ndim - 2
    strides, dilations = node.integers("strides", (1,) * rank), node.integers("dilations", (1,) * rank)
    pads, extra = node.integers("pads", (0,) * 2 * rank), node.integers("output_padding", (0,) * rank)
    batch, inputs, outputs = x.shape[0], w.shape[0] // group, w.shape[1]
    full = [(e - 1) * s + (k - 1) * d + 1 + o
            for e, s, k, d, o in zip(x.shape[2:], strides, kernel, dilations, extra, strict=True)]
    data = x.reshape(batch, group, inputs, -1)
    weights = w.reshape(group, inputs, outputs, *kernel)
    total = np.zeros((batch, group, outputs, *full), x.dtype)
    for place in product(*map(range, kernel)):
        part = tuple(slice(p * d, p * d + (e - 1) * s + 1, s)
                     for p, d, e, s in zip(place, dilations, x.shape[2:], strides, strict=True))
        terms = weights[_LEADING + place].swapaxes(1, 2) @ data
        total[_LEADING + part] += terms.reshape(batch, group, outputs, *x.shape[2:])
    inside = tuple(slice(first, end - last) for first, end, last in zip(pads[:rank], full, pads[rank:], strict=True))
    total = total.reshape(batch, group * outputs, *full)[_LEADING[:2] + inside]
    return [total if b is None else total + b.reshape(-1, *[1] * rank)]


def max_pool(node: Node, arrays: Arrays) -> list[np.ndarray] | None:
    """MaxPool of floats without indices, in whole windows."""
    x, kernel = arrays[0], node.integers("kernel_shape")
    if x is None or x.dtype not in (np.float32, np.float64) or len(node.outputs) > 1 or node.integer("ceil_mode", 0):
        return None
    padded = np.pad(x, [(0, 0), (0, 0), *_pads(node, x.shape[2:], kernel)], constant_values=-np.inf)
    out, taps = _taps(node, kernel, padded.shape[2:])
    if min(out, default=1) < 1:
        return None
    result = np.full((*x.shape[:2], *out), -np.inf, x.dtype)
    for _, part in taps:
        np.maximum(result, padded[_LEADING[:2] + part], out=result)
    return [result]


def average_pool(node: Node, arrays: Arrays) -> list[np.ndarray] | None:
    """AveragePool of floats, in whole windows."""
    x, kernel = arrays[0], node.integers("kernel_shape")
    if x is None or x.dtype not in (np.float32, np.float64) or node.integer("ceil_mode", 0):
        return None
    pads = _pads(node, x.shape[2:], kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    counted = np.pad(np.ones(x.shape[2:], x.dtype), pads, constant_values=node.integer("count_include_pad", 0))
    out, taps = _taps(node, kernel, padded.shape[2:])
    if min(out, default=1) < 1:
        return None
    total, count = np.zeros((*x.shape[:2], *out), x.dtype), np.zeros(out, x.dtype)
    for _, part in taps:
        total += padded[_LEADING[:2] + part]
        count += counted[part]
    return [total / count]


def batch_normalization(node: Node, arrays: Arrays) -> list[np.ndarray] | None:
    """Computes y[n, c] = (x[n, c] - mean[c]) * (gamma[c] * (1 / sqrt(var[c] + epsilon))) + beta[c], in inference.

    Numerics: every step is rounded to the type of x. Source: ONNX operator BatchNormalization.
    """
    if len(arrays) != 5 or node.integer("training_mode", 0) or any(a is None for a in arrays):
        return None
    x, gamma, beta, mean, var = (a for a in arrays if a is not None)
    kind = x.dtype.type
    if x.ndim < 2 or any(a.dtype != x.dtype for a in (gamma, beta, mean, var)):
        return None

    def each(channel: np.ndarray) -> np.ndarray:
        return channel.reshape(-1, *[1] * (x.ndim - 2))

    scale = gamma * (kind(1) / np.sqrt(var + kind(node.real("epsilon", 1e-5))))
    return [(x - each(mean)) * each(scale) + each(beta)]


def lrn(node: Node, arrays: Arrays) -> list[np.ndarray] | None:
    """Computes y[n, c] = x[n, c] / (bias + alpha / size * sum of x[n, c']^2 over the `size` channels around c) ^ beta.

    Source: ONNX operator LRN.
    """
    (x,) = arrays
    assert x is not None
    size = node.integer("size", 1)
    before = (size - 1) // 2
    squares = np.pad(x * x, [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, i:i + x.shape[1]] for i in range(size))
    scale = node.real("bias", 1.0) + node.real("alpha", 1e-4) / size * total
    return [np.asarray(x / scale ** node.real("beta", 0.75), x.dtype)]


def lp_normalization(node: Node, arrays: Arrays) -> list[np.ndarray] | None:
    """For p = 1: x / sum |x| along `axis`, 0 where the sum is 0. Source: ONNX operator LpNormalization."""
    (x,) = arrays
    assert x is not None
    if node.integer("p", 2) != 1:
        return None
    norm = np.abs(x).sum(axis=node.integer("axis", -1), keepdims=True)
    return [np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)]


NUMPY: dict[str, Callable[[Node, Arrays], list[np.ndarray] | None]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": max_pool, "AveragePool": average_pool, "LRN": lrn,
    "LpNormalization": lp_normalization, "BatchNormalization": batch_normalization,
}
