"""Lowerings of Fourier transforms and of the constants that go with them.

Computes: a transform of fixed length as a product with a matrix that is made at build time: what numpy's transform
          makes of each unit vector. Real and imaginary parts lie next to each other, as ONNX has them.
Numerics:  the matrix in the type of the signal.
Source:   ONNX operators DFT (opset 20), STFT (opset 17), HannWindow, HammingWindow, BlackmanWindow, MelWeightMatrix.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from tvm import te

from edgec.backends.tvm.lower.matmul import product
from edgec.backends.tvm.lower.rule import (
    Inputs,
    Lowering,
    Reason,
    Tensors,
    constant_inputs,
    dtype_name,
    extents,
    first_of,
)
from edgec.backends.tvm.lower.shapes import Expr, dtype_of, reshape
from edgec.backends.tvm.lower.tables import table
from edgec.ir.graph import Node
from edgec.ops.semantics import evaluate

_LARGEST = 1 << 21  # elements of a matrix; 8 MiB is what a real transform of length 2048 takes


def _matrix(length: int, parts: int, transform: int, onesided: bool, inverse: bool) -> np.ndarray:
    """[length * parts, outputs * output parts]: the transform of each unit vector, real ones first."""
    units = np.eye(length, dtype=np.complex128)
    signals = np.stack([units, 1j * units][:parts], 1).reshape(length * parts, length)
    if inverse and onesided:
        return np.asarray(np.fft.irfft(signals, n=transform, axis=1))
    result = np.fft.ifft(signals, n=transform, axis=1) if inverse else np.fft.fft(signals, n=transform, axis=1)
    if onesided:
        result = result[:, :transform // 2 + 1]
    return np.stack([result.real, result.imag], 2).reshape(length * parts, -1)


def _axis(node: Node) -> int:
    given = node.parameter(2)
    return (given[0] if given else -2) % node.operand(0).type.rank


def _length(node: Node) -> int:
    given = node.parameter(1)
    if given:
        return given[0]
    extent = node.operand(0).shape[_axis(node)]
    return 2 * (extent - 1) if node.integer("inverse", 0) and node.integer("onesided", 0) else extent


def _dft(node: Node, tensors: Inputs) -> Tensors:
    """The axis moves next to the parts, meets the matrix, and moves back."""
    x: Any = tensors[0]
    axis, (*outer, parts) = _axis(node), extents(x)
    out = node.outputs[0].shape
    length = outer.pop(axis)
    onesided, inverse = (bool(node.integer(name, 0)) for name in ("onesided", "inverse"))
    matrix = _matrix(length, parts, _length(node), onesided, inverse)

    def moved(*index: Expr) -> Expr:
        *rest, n, part = index
        return x(*rest[:axis], n, *rest[axis:], part)

    rows = reshape(te.compute((*outer, length, parts), moved, "rows"), (prod(outer), length * parts))
    weights = table(matrix.astype(dtype_of(x)))
    flat = product(rows, weights, (prod(outer), matrix.shape[1]), dtype_of(x), name="dft")
    wide: Any = reshape(flat, (*outer, out[axis], out[-1]))
    return [te.compute(out, lambda *i: wide(*i[:axis], *i[axis + 1:-1], i[axis], i[-1]), "dft_axis")]


def _frames(node: Node) -> tuple[int, int]:
    """(elements of the signal in a frame, length of the transform)."""
    window, length = node.input(2), node.parameter(3)
    transform = length[0] if length else window.shape[0] if window is not None else node.operand(0).shape[1]
    return (window.shape[0] if window is not None else transform), transform


def _stft(node: Node, tensors: Inputs) -> Tensors:
    """Overlapping frames times the window, as rows that meet the matrix. A constant window becomes part of it."""
    x: Any = tensors[0]
    window: Any = tensors[2] if len(tensors) > 2 else None
    step = (node.parameter(1) or [1])[0]
    size, transform = _frames(node)
    batch, frames, *spectrum = node.outputs[0].shape
    parts = extents(x)[2]
    matrix = _matrix(size, parts, transform, bool(node.integer("onesided", 1)), False)
    fixed = node.input(2)
    if fixed is not None and fixed.const is not None:
        matrix, window = matrix * np.repeat(fixed.const, parts)[:, None], None

    def frame(b: Expr, f: Expr, n: Expr, part: Expr) -> Expr:
        value = x(b, f * step + n, part)
        return value if window is None else value * window(n)

    rows = reshape(te.compute((batch, frames, size, parts), frame, "frames"), (batch * frames, size * parts))
    weights = table(matrix.astype(dtype_of(x)))
    flat = product(rows, weights, (batch * frames, matrix.shape[1]), dtype_of(x), name="stft")
    return [reshape(flat, (batch, frames, *spectrum))]


def _known(node: Node, tensors: Inputs) -> Tensors:
    """What the op gives for its constant inputs."""
    result = table(evaluate(node, [None if v is None else v.const for v in node.inputs])[0])
    return [te.compute(node.outputs[0].shape, lambda *i: result(*i), node.op.lower())]


def _refuse(node: Node) -> Reason | None:
    if any(0 in v.shape for v in (*node.input_values, *node.outputs)):
        return "tvm.empty", f"{node.op} of an empty tensor"
    if dtype_name(node.operand(0).dtype) not in ("float32", "float64"):
        return "tvm.dtype", f"{node.op} is computed in float32 or float64, not {dtype_name(node.operand(0).dtype)}"
    out = node.outputs[0].shape
    if node.op == "DFT":
        rows, columns = node.operand(0).shape[_axis(node)], out[_axis(node)]
    else:
        rows, transform = _frames(node)
        columns = transform // 2 + 1 if node.integer("onesided", 1) else transform
        if out[2] != columns:  # onnx infers both sides where the attribute is absent, and computes one
            return "tvm.no_lowering", f"STFT gives {columns} frequencies, but {node.outputs[0].name} has {out[2]}"
    size = rows * node.operand(0).shape[-1] * columns * out[-1]
    if size > _LARGEST:
        return "tvm.no_lowering", f"the matrix of this {node.op} would have {size} elements, more than {_LARGEST}"
    return None


_CONSTANT = Lowering(_known, constant_inputs(0, 1, 2, 3, 4))

LOWERINGS: dict[str, Lowering] = {
    "DFT": Lowering(_dft, first_of(constant_inputs(1, 2), _refuse)),
    "STFT": Lowering(_stft, first_of(constant_inputs(1, 3), _refuse)),
    "HannWindow": _CONSTANT,
    "HammingWindow": _CONSTANT,
    "BlackmanWindow": _CONSTANT,
    "MelWeightMatrix": _CONSTANT,
}
