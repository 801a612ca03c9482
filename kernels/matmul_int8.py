"""Matrix product of bytes: Gemm and MatMul with constant weights.

Computes: y[m, n] = bias[n] + sum over k of (a[m, k] - zero) * b[k, n] in exact integers, then the kernel's pointwise
          nodes, or its own requantization. All leading axes of a count as m.
Layouts:  a plain [m, k] uint8 on x86, int8 on Arm; b, packed at build time: for each tile of `blocks` blocks of 16
          columns [k/16, steps, vectors of sums, lanes, depth] int8 (`dot` has lanes, depth and their order), 0 beyond k
          and n; start values [n] int32; y and full operands of the pointwise nodes plain [m, n], in bytes or float32.
Applies when: the product is exact (`quantized.product`) with constant weights in -127 .. 127 and no transposed a; the
          core has instructions of `dot`; several rows take those of `dot_pairs`, where the core has them.
Numerics: exact; then as `epilogue`.
Source:   the loops of matmul, steps as in conv2d_int8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from edgec.kernels import epilogue, quantized
from edgec.kernels.convolution_int8 import refuse_product, steps
from edgec.kernels.dot import Dot, ranked_tiles
from edgec.kernels.dot_pairs import for_neighbours
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    lanes,
    load,
    local,
    loop,
    parallel,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, known_machine, split_even
from edgec.kernels.matmul import Schedule, columns_last, describe, packs_early
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.quantized import BYTE_BLOCK, Product
from edgec.kernels.window import PARTS, Block, Part, pick, runs, share

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

_MEASURED = 8  # tiles, the best by the cost rule
ALGORITHM = "int8_matmul"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    node = kernel.anchor
    if node is None or node.op not in ("Gemm", "MatMul"):
        return "the anchor is not a matrix product"
    for value in (node.operand(0), node.operand(1)):
        if not value.type.is_static or 0 in value.shape or len(value.shape) < 2:
            return f"{value.name} is not a matrix of known shape"
    if not packs_early(node) or node.integer("transA", 0):
        return "the weights are not one constant matrix, or the first matrix is transposed"
    if (reason := epilogue.refuse(kernel, -1, quantized=True) or refuse_product(kernel, target)) is not None:
        return reason
    exact = quantized.product(kernel)
    if exact is not None and exact.bias is not None and exact.bias.size not in (1, node.outputs[0].shape[-1]):
        return "C is not one number per column"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, the one of the cost rule first; none where the kernel does not apply."""
    return schedules(kernel, target) if refuse(kernel, target) is None else []


def schedules(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules of a product of bytes, the one of the cost rule first."""
    size = describe(kernel.anchor)
    dot = for_neighbours(target, size.m)
    return [Schedule(tile) for tile in ranked_tiles(dot, 1, size.m, -(-size.n // BYTE_BLOCK))[:_MEASURED]]


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, by one of its `choices` or by the cost rule."""
    return write_product(ProductWriter, kernel, target, lower, schedule, ALGORITHM)


def write_product(kind: type[ProductWriter], kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None,
                  algorithm: str) -> TensorProgram:
    """The program of one kind of writer, by a schedule or by the cost rule."""
    cpu, dot = known_machine(target), for_neighbours(target, describe(kernel.anchor).m)
    tile = None if schedule is None else schedule.tile
    return write(kernel.name, lambda writer: kind(kernel, cpu, dot, tile, lower, writer).body(), algorithm)


def start_values(weights: np.ndarray, exact: Product) -> np.ndarray:
    """int32 [n], zeros up to whole blocks; they may wrap, as sums over a do on their way."""
    bias = 0 if exact.bias is None else exact.bias.reshape(-1)
    return padded_columns(bias - exact.x_zero * weights.sum(axis=0, dtype=np.int64))


def padded_columns(numbers: np.ndarray) -> np.ndarray:
    """[n] as int32, with zeros up to whole blocks."""
    padded = np.zeros(-(-numbers.size // BYTE_BLOCK) * BYTE_BLOCK, np.int32)
    padded[:numbers.size] = numbers.astype(np.int32)
    return padded


def pack(array: np.ndarray, dot: Dot, tile: int) -> np.ndarray:
    """[k, n] int8 -> one flat array, by tiles of blocks of columns as `split_even` cuts them."""
    k, n = array.shape
    blocks = -(-n // BYTE_BLOCK)
    padded = np.zeros((-(-k // dot.depth) * dot.depth, blocks * BYTE_BLOCK), np.int8)
    padded[:k, :n] = array
    return np.concatenate([dot.pack(padded[:, first * BYTE_BLOCK:(first + count) * BYTE_BLOCK]).reshape(-1)
                           for first, count in split_even(blocks, tile)])


class ProductWriter:
    """Writes one program. What the sums are taken of and what they start from is for `factors` and `begin` to say."""

    def __init__(self, kernel: Kernel, cpu: Machine, dot: Dot, tile: Tile | None, lower: Lower,
                 writer: Writer) -> None:
        node, result = kernel.anchor, kernel.outputs[0]
        self.dot, self.size = dot, describe(node)
        self.blocks = -(-self.size.n // BYTE_BLOCK)
        self.tile = tile or ranked_tiles(dot, 1, self.size.m, self.blocks)[0]
        self.a = writer.pointer(Input(node.operand(0)), (self.size.m * self.size.k,), quantized.dtype(node.operand(0)))
        weights, start = self.factors(kernel)
        packed = pack(weights, dot, self.tile.blocks)
        self.b = writer.pointer(Constant(packed), packed.shape, "int8")
        self.start = writer.pointer(Constant(start), start.shape, "int32")
        self.declare(kernel, writer)
        self.after = Epilogue(kernel, BYTE_BLOCK, lower, writer, axis=-1, cpu=cpu)
        self.y = writer.pointer(Output(result, epilogue.replaceable(kernel, -1)), (self.size.m, self.size.n),
                                quantized.dtype(result))

    def factors(self, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
        """The weights [k, n] int8, and int32 numbers from which `begin` makes what sums start from."""
        exact = quantized.product(kernel)
        assert exact is not None  # `refuse` has checked
        weights = columns_last(kernel.anchor, exact.w)
        return weights, start_values(weights, exact)

    def declare(self, kernel: Kernel, writer: Writer) -> None:
        """Further pointers."""

    def prologue(self) -> None:
        """What comes before the first loop."""
        self.after.prologue()

    def begin(self, values: Expr) -> Expr:
        """What the sums of some columns start from, for their numbers of `factors`."""
        return values

    def body(self) -> None:
        """Loops over tiles of columns, tiles of rows; a short last block of a row has a tile of its own."""
        self.prologue()
        pieces, rest = split_even(self.blocks, self.tile.blocks), self.size.n % BYTE_BLOCK
        tiles = runs(pieces, lambda first, count: not rest or first + count < self.blocks)
        parts = min(-(-PARTS // len(pieces)), -(-self.size.m // self.tile.columns))
        with parallel(len(pieces), parts) as (piece, part):
            for first, blocks in pick(piece, tiles):
                short = rest and isinstance(first, int) and first + blocks == self.blocks
                self._columns(first, blocks, rest if short else BYTE_BLOCK, (part, parts))

    def _columns(self, first: Expr, blocks: int, last: int, part: Part) -> None:
        """A part of the rows of one tile of columns, whose last block has `last` numbers."""
        for row, count, rows in runs(split_even(self.size.m, self.tile.columns)):
            with share(count, part, last=row > 0) as tile:
                self._tile(row + tile * rows, rows, first, blocks, last)

    def _tile(self, row: Expr, rows: int, first: Expr, blocks: int, last: int) -> None:
        """One register tile: start, reduce over k, finish, store."""
        dot, vectors = self.dot, blocks * self.dot.vectors
        groups = dot.count(rows)
        sums = local(groups * vectors * dot.width, "int32")
        with unrolled(groups) as group, unrolled(vectors) as v:
            value = dot.start(self.begin(load(self.start, lanes(first * BYTE_BLOCK + v * dot.lanes, dot.lanes))))
            store(sums, value, lanes((group * vectors + v) * dot.width, dot.width))
        self._reduce(sums, row, rows, first, blocks)
        sums = dot.by_positions(sums, rows, vectors)
        whole = blocks - (last < BYTE_BLOCK)
        with unrolled(rows) as i:
            for k0, count, width in ((0, whole, BYTE_BLOCK), (whole, blocks - whole, last)):
                if count:
                    with unrolled(count, k0) as k:
                        at = (i * blocks + k) * BYTE_BLOCK
                        result = self.after.finish((row + i, first + k, 0, 0), sums, at, width)
                        with vectorized(width) as e:
                            store(self.y, result(e), row + i, (first + k) * BYTE_BLOCK + e)

    def _reduce(self, sums: Buffer, row: Expr, rows: int, first: Expr, blocks: int) -> None:
        dot, vectors, k = self.dot, blocks * self.dot.vectors, self.size.k
        whole, rest = divmod(k, BYTE_BLOCK)
        base = first * (-(-k // dot.depth) * dot.vectors)  # of this tile's weights, in vectors

        def step(number: Expr, factor: Callable[[Expr, int], Any]) -> None:
            for _, group, count in dot.groups(Block(0, 1, 0, rows)):
                with unrolled(vectors) as v:
                    at = lanes((group * vectors + v) * dot.width, dot.width)
                    weight = dot.weights(self.b, base + number * vectors + v)
                    store(sums, dot.add(load(sums, at), factor(group * dot.positions, count), weight), at)

        if whole:
            with loop(whole) as chunk:
                staged = dot.stage(rows)

                def begin(i: Expr, chunk: Expr = chunk) -> Expr:
                    return (row + i) * k + chunk * BYTE_BLOCK

                if staged is not None:
                    with unrolled(rows) as i:
                        dot.prepare(staged, i, self.a, begin(i))
                count = BYTE_BLOCK // dot.depth
                with steps(count, dot.rolled) as t:
                    source = (lambda i, n: dot.gather(self.a, begin(i), t, k, n)) if staged is None else (
                        lambda i, n: dot.gather(staged, i * BYTE_BLOCK, t, BYTE_BLOCK, n))
                    step(chunk * count + t, source)
        for t in range(-(-rest // dot.depth)):
            done = whole * BYTE_BLOCK + t * dot.depth
            number = done // dot.depth
            channels = min(dot.depth, k - done)
            step(number, lambda i, n, at=done, c=channels: dot.gather_loose(self.a, (row + i) * k + at, c, k, n))  # type: ignore[misc]
