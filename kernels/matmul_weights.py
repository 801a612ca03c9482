"""Matrix product of floats with weights of 8 or 4 bits, which become floats in registers.

Computes: y[m, n] = C[n] + sum over groups g of scale[g, n] * (sum over k in g of a[m, k] * w[k, n] - zero[g, n] * sum
          over k in g of a[m, k]), then the kernel's pointwise nodes. Gemm: alpha is part of the scales, beta of C.
Layouts:  a plain [m, k] (all leading axes count as m); y and full operands of the pointwise nodes plain [m, n];
          weights, packed at build time for each tile of column vectors: [k, vectors, 16] int8, or [k/2, vectors, 16]
          bytes that hold an even k in the low and the next k in the high half; scales [g, vectors, 16] float32, zero
          points, unless all are 0, alike in int8. The sums of a come first, [m, g] in a workspace.
Applies when: a and y are float32; one constant matrix on a signed grid of at most 8 bits, with one scale for all, for
          each column, or for each column and `block` consecutive k (an even number); C as in `matmul`.
Numerics: float32 accumulation in the order of k within a group, groups in order.
"""

from __future__ import annotations

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
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, known_machine, split_even
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.kernels.rows import Row, plus
from edgec.kernels.window import pick, runs
from tvm import tirx

from edgec.ir.graph import Node
from edgec.ir.quantize import spread
from edgec.ir.types import DType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes, stored_constant
from edgec.target import Target

ALGORITHM = "matmul_weights"
_LANES = quantized.BYTE_BLOCK  # columns of a vector: 16 bytes of weights, on every core
_ROWS = 4  # rows that share the conversion of weights
_VECTORS = 4
_RESERVED = 8  # registers for weights, their conversion, and rows of a


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    node = kernel.anchor
    known = None if node is None or len(node.inputs) < 2 else node.input(1)
    if node is None or known is None or known.const is None or not in_bytes(known.quant):
        return "the anchor is no product with weights in bytes"
    if node.operand(0).quant is not None:
        return "the data lies on a grid too"
    if (reason := matmul.refuse(kernel, target, in_bytes_too=True)) is not None:
        return reason
    weight = node.operand(1)
    if not matmul.packs_early(node) or weight.quant.dtype not in (DType.INT4, DType.INT8):
        return "the weights are not one matrix on a signed grid"
    if weight.quant.axis is not None and weight.type.rank != 2:
        return "the scales follow an axis of a stack of matrices"
    if weight.quant.axis is not None and not weight.quant.block and not _along_columns(node):
        return "the scales do not follow the columns"
    if weight.quant.block and (_along_columns(node) or weight.quant.block % 2):
        return "the groups do not lie along the summed axis"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu = known_machine(target)
    return write(kernel.name, lambda writer: _Writer(kernel, cpu, lower, writer).body(), ALGORITHM)


def _along_columns(node: Node) -> bool:
    """True if the axis of the scales is that of the columns."""
    quant = node.operand(1).quant
    return quant.axis % 2 == (0 if matmul.flipped(node) else 1)


def _by_group(node: Node, parameter: np.ndarray, group: int) -> np.ndarray:
    """A scale or zero point of the weight's grid as [groups, n]."""
    weight = node.operand(1)
    every = np.broadcast_to(spread(parameter, weight.quant, weight.shape), weight.shape)
    return matmul.columns_last(node, every)[::group]


def pack_nibbles(array: np.ndarray) -> np.ndarray:
    """[k, ...] of integers in -8 .. 7 -> [ceil(k / 2), ...] of bytes: even rows in the low half."""
    padded = np.concatenate([array, np.zeros((len(array) % 2, *array.shape[1:]), np.int8)])
    return ((padded[::2] & 15) | (padded[1::2] << 4)).astype(np.int8)


class _Writer:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, lower: Lower, writer: Writer) -> None:
        node = kernel.anchor
        weight = node.operand(1)
        self.size = matmul.describe(node)
        size = self.size
        self.group = weight.quant.block or size.k
        self.short = weight.quant.dtype is DType.INT4
        self.vectors = -(-size.n // _LANES)
        registers = _LANES // cpu.lanes * (2 if self.group < size.k else 1)  # of the sums of one vector
        room = max(1, (cpu.registers - _RESERVED) // registers)
        self.rows = min(size.m, _ROWS, room)
        self.pieces = split_even(self.vectors, max(1, min(_VECTORS, room // self.rows)))
        self.a = writer.pointer(Input(node.operand(0)), (size.m, size.k))
        integers = self._padded(matmul.columns_last(node, stored_constant(weight)))
        self.depth = -(-size.k // 2) if self.short else size.k
        self.weights = self._packed(pack_nibbles(integers) if self.short else integers, writer, "int8")
        alpha = np.float32(node.attributes.get("alpha", 1.0))  # type: ignore[arg-type]
        scales = _by_group(node, weight.quant.scale.astype(np.float32), self.group) * alpha
        self.scales = self._packed(self._padded(scales), writer, "float32")
        self.zeros = self.data = None
        if weight.quant.zero_point.any():
            zeros = _by_group(node, weight.quant.zero_point.astype(np.int8), self.group)
            self.zeros = self._packed(self._padded(zeros), writer, "int8")
            count = -(-size.k // self.group)
            self.data = writer.pointer(Workspace(4 * size.m * count), (size.m, count), "float32")
        self.lanes = cpu.lanes
        start = matmul.offsets(node, self.vectors * _LANES)
        self.start = None if start is None else writer.pointer(Constant(start), start.shape)
        self.after = Epilogue(kernel, _LANES, lower, writer, axis=-1, cpu=cpu)
        result = Output(kernel.outputs[0], epilogue.replaceable(kernel, -1))
        self.y = writer.pointer(result, (size.m, size.n), quantized.dtype(kernel.outputs[0]))

    def _padded(self, array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, self.vectors * _LANES - array.shape[1])])

    def _packed(self, array: np.ndarray, writer: Writer, dtype: str) -> Buffer:
        """[rows, columns] -> for each tile of column vectors [rows, vectors, lanes], flat."""
        flat = np.concatenate([array[:, first * _LANES:(first + count) * _LANES].reshape(-1)
                               for first, count in self.pieces])
        return writer.pointer(Constant(np.ascontiguousarray(flat)), flat.shape, dtype)

    def body(self) -> None:
        """Tiles of columns, which threads share; tiles of rows; a short last vector of a row has a tile of its own."""
        self.after.prologue()
        self._add_data()
        rest = self.size.n % _LANES
        tiles = runs(self.pieces, lambda first, count: not rest or first + count < self.vectors)
        with parallel(len(self.pieces)) as (piece,):
            for first, vectors in pick(piece, tiles):
                short = rest and isinstance(first, int) and first + vectors == self.vectors
                for row, count, rows in runs(split_even(self.size.m, self.rows)):
                    with loop(count) as t:
                        self._tile(row + t * rows, rows, first, vectors, rest if short else _LANES)

    def _add_data(self) -> None:
        """The sums of a over each group, if zero points ask for them."""
        if self.data is None:
            return
        whole, rest = divmod(self.size.k, self.group)
        with loop(self.size.m) as i:
            for g0, count, length in ((0, whole, self.group), (whole, int(rest > 0), rest)):
                if count:
                    with loop(count, g0) as g:
                        self._add_group(i, g, Row(length, self.lanes))

    def _add_group(self, i: Expr, g: Expr, row: Row) -> None:
        sums = row.start(0)

        def see(v: Expr, part: Expr, count: int) -> None:
            numbers = load(self.a, i, lanes(g * self.group + v * row.block, count))
            row.combine(sums, part, numbers, count, plus)

        row.each(see)
        store(self.data, row.across(sums, plus), i, g)

    def _tile(self, row: Expr, rows: int, first: Expr, vectors: int, last: int) -> None:
        """One register tile: start, add the groups, finish, store."""
        total = local(rows * vectors * _LANES)

        def place(i: Expr, v: Expr) -> Expr:
            return lanes((i * vectors + v) * _LANES, _LANES)

        with unrolled(rows) as i, unrolled(vectors) as v:
            start = splat(0, _LANES) if self.start is None else load(self.start, lanes((first + v) * _LANES, _LANES))
            store(total, start, place(i, v))
        whole, rest = divmod(self.size.k, self.group)
        groups = whole + (rest > 0)
        for g0, count, length in ((0, whole, self.group), (whole, groups - whole, rest)):
            if count:
                with loop(count, g0) as g:
                    sums = self._group(row, rows, first, vectors, g, length)
                    with unrolled(rows) as i, unrolled(vectors) as v:
                        at = lanes((first * groups + g * vectors + v) * _LANES, _LANES)
                        exact = load(sums, place(i, v))
                        if self.zeros is not None:
                            zero = load(self.zeros, at).astype(f"float32x{_LANES}")
                            exact = exact - zero * broadcast(load(self.data, row + i, g), _LANES)
                        store(total, load(total, place(i, v)) + exact * load(self.scales, at), place(i, v))
        full = vectors - (last < _LANES)
        with unrolled(rows) as i:
            for v0, count, width in ((0, full, _LANES), (full, vectors - full, last)):
                if count:
                    with unrolled(count, v0) as v:
                        result = self.after.finish((row + i, first + v, 0, 0), total, (i * vectors + v) * _LANES, width)
                        with vectorized(width) as e:
                            store(self.y, result(e), row + i, (first + v) * _LANES + e)

    def _group(self, row: Expr, rows: int, first: Expr, vectors: int, g: Expr, length: int) -> Buffer:
        """The sums of one group of `length` k without their scale."""
        sums = local(rows * vectors * _LANES)
        with unrolled(rows) as i, unrolled(vectors) as v:
            store(sums, splat(0, _LANES), lanes((i * vectors + v) * _LANES, _LANES))

        def add(k: Expr, numbers: Buffer, base: int) -> None:
            with unrolled(rows) as i, unrolled(vectors) as v:
                place = lanes((i * vectors + v) * _LANES, _LANES)
                factor = broadcast(load(self.a, row + i, k), _LANES)
                number = load(numbers, lanes((base * vectors + v) * _LANES, _LANES))
                store(sums, load(sums, place) + factor * number, place)

        step = 2 if self.short else 1
        begin = g * (self.group // step)

        def unpacked(k: Expr, halves: int) -> Buffer:
            """Weights of one packed row as floats: [halves, vectors, lanes]."""
            numbers = local(halves * vectors * _LANES)
            with unrolled(vectors) as v:
                packed = load(self.weights, lanes((first * self.depth + k * vectors + v) * _LANES, _LANES))
                wide = packed.astype(f"int32x{_LANES}")
                for half in range(halves):
                    bits = wide
                    if self.short:
                        shift = broadcast(tirx.const(28, "int32"), _LANES)
                        low = tirx.shift_right(tirx.shift_left(wide, shift), shift)
                        bits = tirx.shift_right(wide, broadcast(tirx.const(4, "int32"), _LANES)) if half else low
                    store(numbers, bits.astype(f"float32x{_LANES}"), lanes((half * vectors + v) * _LANES, _LANES))
            return numbers

        pairs, odd = divmod(length, step)
        if pairs:
            with loop(pairs) as p:
                k = begin + p
                numbers = unpacked(k, step)
                for half in range(step):
                    add(g * self.group + p * step + half, numbers, half)
        if odd:
            add(g * self.group + pairs * step, unpacked(begin + pairs, 1), 0)
        return sums

