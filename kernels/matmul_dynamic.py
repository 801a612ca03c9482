"""Matrix product of bytes whose zero point is known at run time only: MatMulInteger with constant weights.

Computes: y[m, n] = sum over k of (a[m, k] - zero) * b[k, n] in exact integers, then the kernel's pointwise nodes, of
          which the first makes floats of the sums. All leading axes of a count as m.
Layouts:  as matmul_int8; a is uint8 on every core. Where the instructions multiply int8, a copy of a - 128 is made
          first. Sums start from -zero * sum over k of b[k, n], or (128 - zero) times it.
Applies when: a uint8 with one zero point, b one constant int8 matrix in -127 .. 127 around zero, and pointwise nodes;
          the core has instructions of `dot`.
Numerics: exact sums; then as `epilogue`.
Source:   ONNX operator MatMulInteger, opset 10; the loops of matmul_int8.
"""

from __future__ import annotations

from math import prod

import numpy as np
from edgec.kernels import epilogue
from edgec.kernels.dot import of_target
from edgec.kernels.emit import Expr, Writer, broadcast, lanes, load, loop, store
from edgec.kernels.epilogue import Lower
from edgec.kernels.matmul import Schedule, packs_early
from edgec.kernels.matmul_int8 import ProductWriter, padded_columns, schedules, write_product
from edgec.kernels.program import Input, TensorProgram, Workspace
from edgec.kernels.quantized import BYTE_BLOCK
from tvm import tirx

from edgec.ir.types import DType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "dynamic_matmul"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    node = kernel.anchor
    if node is None or node.op != "MatMulInteger":
        return "the anchor is not a MatMulInteger"
    if of_target(target) is None:
        return "the core has no instructions for sums of products of bytes"
    a, b, zero, b_zero = node.operand(0), node.operand(1), node.input(2), node.input(3)
    if a.dtype is not DType.UINT8 or not a.type.is_static or 0 in a.shape or len(a.shape) < 2:
        return f"{a.name} is not a matrix of uint8 of known shape"
    if b.const is None or b.dtype is not DType.INT8 or len(b.shape) < 2 or not packs_early(node):
        return f"{b.name} is not one constant matrix of int8"
    if b.const.min(initial=0) < -127 or (b_zero is not None and (b_zero.const is None or b_zero.const.any())):
        return "the weights are not in -127 .. 127 around zero"
    if zero is None or not zero.type.is_static or prod(zero.shape) != 1:
        return f"{a.name} has not one zero point"
    return epilogue.refuse(kernel, -1, sums=DType.INT32)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, the one of the cost rule first; none where the kernel does not apply."""
    return schedules(kernel, target) if refuse(kernel, target) is None else []


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, by one of its `choices` or by the cost rule."""
    return write_product(_Writer, kernel, target, lower, schedule, ALGORITHM)


class _Writer(ProductWriter):
    """Writes one program."""

    def factors(self, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
        """The weights and their sums over k."""
        weights = kernel.anchor.operand(1).const.reshape(self.size.k, self.size.n)
        return weights, padded_columns(weights.sum(axis=0, dtype=np.int64))

    def declare(self, kernel: Kernel, writer: Writer) -> None:
        """The zero point, and the copy of a where one is needed."""
        self.zero = writer.pointer(Input(kernel.anchor.input(2)), (1,), "uint8")
        self.stored = self.a
        self.shift = 0
        if self.dot.data == "int8":
            self.shift = 128
            self.a = writer.pointer(Workspace(self.size.m * self.size.k), self.stored.shape, "int8")

    def prologue(self) -> None:
        """The copy: with the highest bit flipped, the same bits are a - 128."""
        super().prologue()
        if self.shift:
            whole, rest = divmod(self.size.m * self.size.k, BYTE_BLOCK)
            with loop(whole) as block:
                self._flip(block * BYTE_BLOCK, BYTE_BLOCK)
            for i in range(rest):
                self._flip(whole * BYTE_BLOCK + i, 1)

    def _flip(self, first: Expr, count: int) -> None:
        place = lanes(first, count) if count > 1 else first
        bits = tirx.const(128, "uint8")
        flipped = tirx.bitwise_xor(load(self.stored, place), broadcast(bits, count) if count > 1 else bits)
        store(self.a, tirx.reinterpret(f"int8x{count}" if count > 1 else "int8", flipped), place)

    def begin(self, values: Expr) -> Expr:
        """Minus the zero point times the sums of the weights."""
        factor = self.shift - load(self.zero, 0).astype("int32")
        return values * broadcast(factor, self.dot.lanes)
