"""Matrix product of one row with 2:4 sparse weights, which lie in memory as two values and two indices of every four.

Computes: y[0, n] = C[n] + sum over k of a[0, k] * w[k, n], then the kernel's pointwise nodes. Gemm: alpha is folded
          into the values, beta into C.
Layouts:  a plain [1, k]; y and full operands of the pointwise nodes plain [1, n]; weights, packed at build time for
          each tile of column vectors: values [k/4, vectors, 2, lanes] float32, and [k/4, vectors, lanes] bytes that
          hold the place of the first value within its four in bits 0 and 1, that of the second in bits 2 and 3. That
          is 9/16 of the bytes of a dense weight.
Applies when: (1) an x86 core with vectors of 8 or 16 floats; (2) one row, float32, no value in bytes: the time goes
          into reading weights; with more rows it goes into products, of which a permutation and a multiply-add for half
          of the numbers cost as much as multiply-adds for all; (3) one constant matrix, marked 2:4 along k, of a
          multiple of four; C as in `matmul`.
Numerics: float32 accumulation in the order of k; factors of zero weights are not read.
Source:   Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, arXiv:2104.08378 (the format).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from edgec.kernels import epilogue, matmul, quantized
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    broadcast,
    lanes,
    load,
    local,
    loop,
    parallel,
    prefetch,
    repeated,
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, known_machine, split_even
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import pick, runs
from tvm import tirx

from edgec.ir.types import DType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target

ALGORITHM = "matmul_sparse"
_VECTORS = 4  # sums at a time, so that a multiply-add need not wait for the one before
_AHEAD = 6  # steps of four k whose values are fetched early
_LINE = 16  # floats of a cache line
_PERMUTE = {16: "llvm.x86.avx512.vpermilvar.ps.512", 8: "llvm.x86.avx.vpermilvar.ps.256"}


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    node = kernel.anchor
    known = None if node is None or len(node.inputs) < 2 else node.input(1)
    if node is None or known is None or known.const is None or known.sparsity is None:
        return "the anchor is no product with sparse weights"
    if (reason := matmul.refuse(kernel, target)) is not None:
        return reason
    cpu, weight, pattern = known_machine(target, kernel), node.operand(1), known.sparsity
    if target.cpu.arch != "x86_64" or cpu.lanes not in _PERMUTE:  # (1)
        return "the core has no permutation of floats within four"
    if any(v.dtype is not DType.FLOAT32 or in_bytes(v.quant) for v in (*kernel.inputs, *kernel.outputs, weight)):
        return "a value is not float32"
    if not matmul.packs_early(node):
        return "the weights are not one matrix"
    size = matmul.describe(node)
    if size.m != 1:  # (2)
        return f"{size.m} rows share the weights: the time goes into products"
    axis = pattern.axis % weight.type.rank
    if (pattern.n, pattern.m) != (2, 4) or axis != weight.type.rank - (1 if matmul.flipped(node) else 2) or size.k % 4:
        return "the pattern is not 2:4 along the summed axis"  # (3)
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu = known_machine(target, kernel)
    program = write(kernel.name, lambda writer: _Writer(kernel, cpu, lower, writer).body(), ALGORITHM)
    return replace(program, products=0.5)


def compress(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[k, n] with at most two numbers in every four k -> values [k/4, 2, n] and places [k/4, n] of both.

    Raises ValueError if there are more numbers.
    """
    fours = matrix.reshape(-1, 4, matrix.shape[1])
    if ((fours != 0).sum(1) > 2).any():
        raise ValueError("more than two of four consecutive numbers are not zero")
    places = np.sort(np.argsort(fours == 0, axis=1, kind="stable")[:, :2], axis=1)
    return np.take_along_axis(fours, places, 1), (places[:, 0] | places[:, 1] << 2).astype(np.int8)


class _Writer:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, lower: Lower, writer: Writer) -> None:
        node, width = kernel.anchor, cpu.lanes
        size = matmul.describe(node)
        self.size, self.width = size, width
        self.vectors = -(-size.n // width)
        self.pieces = split_even(self.vectors, _VECTORS)
        self.steps = size.k // 4
        self.a = writer.pointer(Input(node.operand(0)), (1, size.k))
        values, places = compress(np.pad(matmul.weights(node), [(0, 0), (0, self.vectors * width - size.n)]))
        blocks = values.reshape(self.steps, 2, self.vectors, width).transpose(0, 2, 1, 3)
        self.values = self._packed(blocks, writer, "float32")
        self.places = self._packed(places.reshape(self.steps, self.vectors, width), writer, "int8")
        start = matmul.offsets(node, self.vectors * width)
        self.start = None if start is None else writer.pointer(Constant(start), start.shape)
        self.after = Epilogue(kernel, width, lower, writer, axis=-1, cpu=cpu)
        result = Output(kernel.outputs[0], epilogue.replaceable(kernel, -1))
        self.y = writer.pointer(result, (1, size.n), quantized.dtype(kernel.outputs[0]))

    def _packed(self, array: np.ndarray, writer: Writer, dtype: str) -> Buffer:
        """[steps, vectors, ...] -> for each tile of column vectors [steps, vectors, ...], flat."""
        flat = np.concatenate([array[:, first:first + count].reshape(-1) for first, count in self.pieces])
        return writer.pointer(Constant(np.ascontiguousarray(flat)), flat.shape, dtype)

    def body(self) -> None:
        """Tiles of columns, which threads share; a short last vector has a tile of its own."""
        self.after.prologue()
        rest = self.size.n % self.width
        tiles = runs(self.pieces, lambda first, count: not rest or first + count < self.vectors)
        with parallel(len(self.pieces)) as (piece,):
            for first, vectors in pick(piece, tiles):
                short = rest and isinstance(first, int) and first + vectors == self.vectors
                self._tile(first, vectors, rest if short else self.width)

    def _tile(self, first: Expr, vectors: int, last: int) -> None:
        width = self.width
        sums = local(vectors * width)
        with unrolled(vectors) as v:
            start = splat(0, width) if self.start is None else load(self.start, lanes((first + v) * width, width))
            store(sums, start, lanes(v * width, width))
        with loop(self.steps) as step:
            data = repeated(load(self.a, 0, lanes(step * 4, 4)), width // 4)
            base = first * self.steps + step * vectors  # vectors before this one
            with unrolled(vectors) as v:
                place = load(self.places, lanes((base + v) * width, width)).astype(f"int32x{width}")
                for half in range(2):
                    shift = broadcast(tirx.const(2, "int32"), width)
                    index = tirx.shift_right(place, shift) if half else place
                    factor = tirx.call_llvm_pure_intrin(f"float32x{width}", _PERMUTE[width], data, index)
                    value = load(self.values, lanes(((base + v) * 2 + half) * width, width))
                    store(sums, load(sums, lanes(v * width, width)) + factor * value, lanes(v * width, width))
            for line in range(0, 2 * vectors * width, _LINE):
                prefetch(self.values, (base + _AHEAD * vectors) * 2 * width + line)
        full = vectors - (last < width)
        for v0, count, wide in ((0, full, width), (full, vectors - full, last)):
            if count:
                with unrolled(count, v0) as v:
                    result = self.after.finish((0, first + v, 0, 0), sums, v * width, wide)
                    with vectorized(wide) as e:
                        store(self.y, result(e), 0, (first + v) * width + e)
