"""Matrix product: Gemm with constant weights, MatMul with constant or computed factors.

Computes: y[t, m, n] = sum over k of a[t, m, k] * b[t, k, n], then the kernel's pointwise nodes. Gemm: alpha is folded
          into b, beta * C into the values that the sums start from.
Layouts:  a plain [t or 1, m, k]; y and full operands of the pointwise nodes plain [t, m, n].
          Constant b (t = 1, all leading axes of a count as m): packed at build time, for each tile of column vectors
          [k, vectors, lanes]; numbers beyond n are 0.
          Computed b: plain [t or 1, k, n], packed the same way tile by tile into a workspace if `_PACK` rows or more
          use it or the last vector of a row is short, else read in place.
Applies when: float32 or float16; Gemm: b and C constant, C one number per column or per tensor or absent, transA = 0;
          MatMul: both of rank 2 or more; leading axes of a computed factor are those of y, or all 1.
Numerics: accumulation in the order of k; float16 in `partial_sums`.
Source:   Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34 (3), 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from edgec.kernels import epilogue
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    broadcast,
    lane,
    lanes,
    load,
    local,
    loop,
    parallel,
    prefetch,
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, choose_tile, known_machine, machine, ranked_tiles, split_even
from edgec.kernels.partial_sums import error, reduced
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.kernels.window import PARTS, Part, pick, runs, share

from edgec.ir.graph import Node, Value
from edgec.ir.types import DType
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, in_bytes
from edgec.target import Target

ALGORITHM = "matmul"
_FORMATS = (DType.FLOAT32, DType.FLOAT16)
_MEASURED = 10  # tiles, the best by the cost rule
_LINE = 64  # bytes of a cache line
_PACK = 16  # rows; fewer do not pay back the copy of b


@dataclass(frozen=True)
class Product:
    """The extents: t products of [m, k] and [k, n]."""

    t: int
    m: int
    k: int
    n: int


def refuse(kernel: Kernel, target: Target, *, in_bytes_too: bool = False) -> str | None:
    """Why this kernel does not apply, None if it does. in_bytes_too: values that are stored in bytes may take part."""
    node = kernel.anchor
    if machine(target, kernel) is None:
        return "the core has no vectors of 4 floats"
    if node is None or node.op not in ("Gemm", "MatMul"):
        return "the anchor is not a matrix product"
    a, b = node.operand(0), node.operand(1)
    for value in (a, b):
        if not value.type.is_static or 0 in value.shape or len(value.shape) < 2 or value.dtype not in _FORMATS:
            return f"{value.name} is not a float32 or float16 matrix of known shape"
        if in_bytes(value.quant) and not in_bytes_too:
            return f"{value.name} is stored in bytes"
    if node.op == "Gemm":
        return _refuse_gemm(node) or epilogue.refuse(kernel, -1, quantized=in_bytes_too)
    batch = node.outputs[0].shape[:-2]
    for value in (a, b):
        own = (1,) * (len(batch) - len(value.shape) + 2) + value.shape[:-2]
        if own != batch and prod(own) != 1:
            return f"{value.name} is repeated along some of its leading axes"
    return epilogue.refuse(kernel, -1, quantized=in_bytes_too)


def _refuse_gemm(node: Node) -> str | None:
    c = node.input(2)
    if node.operand(1).const is None or (c is not None and c.const is None):
        return "the weights are not constant"
    if node.integer("transA", 0):
        return "the first matrix is transposed"
    if c is not None and (c.type.size not in (1, node.outputs[0].shape[1]) or (len(c.shape) == 2 and c.shape[0] != 1)):
        return "C is not one number per column"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


@dataclass(frozen=True)
class Schedule:
    """tile: of registers, rows of a as its columns."""

    tile: Tile


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, the one of the cost rule first; none where the kernel does not apply."""
    if refuse(kernel, target) is not None:
        return []
    cpu, size = known_machine(target, kernel), describe(kernel.anchor)
    return [Schedule(tile) for tile in ranked_tiles(cpu, 1, size.m, -(-size.n // cpu.lanes))[:_MEASURED]]


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, by one of its `choices` or by the cost rule."""
    cpu = known_machine(target, kernel)
    tile = None if schedule is None else schedule.tile
    program = write(kernel.name, lambda writer: _Writer(kernel, cpu, tile, lower, writer).body(), ALGORITHM)
    return replace(program, error=error(cpu.dtype, describe(kernel.anchor).k))


def describe(node: Node) -> Product:
    """The extents of a product; with constant b all leading axes of a count as m."""
    a, result = node.operand(0), node.outputs[0].shape
    rows, columns = (prod(result[:-1]), result[-1])
    if packs_early(node):
        return Product(1, rows, a.shape[-1], columns)
    batch = prod(result[:-2])
    return Product(batch, rows // batch, a.shape[-1], columns)


def packs_early(node: Node) -> bool:
    """True if b is one constant matrix, so that it can be packed at build time."""
    b = node.operand(1)
    return b.const is not None and prod(b.shape[:-2]) == 1


def flipped(node: Node) -> bool:
    """True if b lies as [n, k]."""
    return node.op == "Gemm" and bool(node.integer("transB", 0))


def columns_last(node: Node, array: np.ndarray) -> np.ndarray:
    """[k, n] of one matrix that lies as b does."""
    matrix = array.reshape(array.shape[-2:])
    return matrix.T if flipped(node) else matrix


def weights(node: Node) -> np.ndarray:
    """Constant b as [k, n], with alpha folded in."""
    array = node.operand(1).const
    assert array is not None  # the caller has asked `packs_early`
    matrix = columns_last(node, array)
    alpha = array.dtype.type(node.attributes.get("alpha", 1.0))  # type: ignore[arg-type]
    return matrix * alpha if node.op == "Gemm" else matrix


def offsets(node: Node, length: int) -> np.ndarray | None:
    """Beta * C for each column, zeros up to `length`; None if there is no C."""
    c = node.input(2)
    if node.op != "Gemm" or c is None or c.const is None:
        return None
    padded = np.zeros(length, c.const.dtype)
    columns = node.outputs[0].shape[1]
    beta = c.const.dtype.type(node.attributes.get("beta", 1.0))  # type: ignore[arg-type]
    padded[:columns] = np.broadcast_to(c.const.reshape(-1), (columns,)) * beta
    return padded


def pack_columns(array: np.ndarray, lanes_: int, tile: int) -> np.ndarray:
    """[k, n] -> for each tile of column vectors as `split_even` cuts them [k, vectors, lanes], flat."""
    k, n = array.shape
    vectors = -(-n // lanes_)
    padded = np.zeros((k, vectors * lanes_), array.dtype)
    padded[:, :n] = array
    return np.concatenate([padded[:, first * lanes_:(first + count) * lanes_].reshape(-1)
                           for first, count in split_even(vectors, tile)])


class _Writer:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, tile: Tile | None, lower: Lower, writer: Writer) -> None:
        node = kernel.anchor
        self.cpu, self.size = cpu, describe(node)
        size, lanes_ = self.size, cpu.lanes
        self.vectors = -(-size.n // lanes_)
        self.tile: Tile = tile or choose_tile(cpu, 1, size.m, self.vectors)
        self.early = packs_early(node)
        self.a = self._factor(node.operand(0), (size.m, size.k), writer)
        self.panel: Buffer | None = None
        if self.early:
            packed = pack_columns(weights(node), lanes_, self.tile.blocks)
            self.b = writer.pointer(Constant(packed), packed.shape, cpu.dtype)
        else:
            self.b = self._factor(node.operand(1), (size.k, size.n), writer)
            if size.m >= _PACK or size.n % lanes_:
                length = size.k * self.tile.blocks * lanes_
                self.panel = writer.pointer(Workspace(cpu.itemsize * length, per_thread=True), (length,), cpu.dtype)
        start = offsets(node, self.vectors * lanes_)
        self.start = None if start is None else writer.pointer(Constant(start), start.shape, cpu.dtype)
        self.after = Epilogue(kernel, lanes_, lower, writer, axis=-1)
        result = Output(kernel.outputs[0], epilogue.replaceable(kernel, -1))
        self.y = writer.pointer(result, (size.t * size.m, size.n), kernel.outputs[0].dtype.value)

    def _factor(self, value: Value, matrix: tuple[int, int], writer: Writer) -> Buffer:
        count = value.type.size // prod(matrix)
        argument = Input(value) if value.const is None else Constant(np.ascontiguousarray(value.const))
        return writer.pointer(argument, (count, *matrix), self.cpu.dtype)

    def body(self) -> None:
        """Loops over products, tiles of columns, tiles of rows; a short last vector of a row has a tile of its own.
        Threads share the first two, and the rows where that is not enough and no tile of columns is packed for them.
        """
        self.after.prologue()
        pieces, rest = split_even(self.vectors, self.tile.blocks), self.size.n % self.cpu.lanes
        tiles = runs(pieces, lambda first, count: not rest or first + count < self.vectors)
        parts = 1
        if self.panel is None:
            parts = min(-(-PARTS // (self.size.t * len(pieces))), -(-self.size.m // self.tile.columns))
        with parallel(self.size.t, len(pieces), parts) as (t, piece, part):
            for first, vectors in pick(piece, tiles):
                short = rest and isinstance(first, int) and first + vectors == self.vectors
                self._columns(t, first, vectors, rest if short else self.cpu.lanes, (part, parts))

    def _columns(self, t: Expr, first: Expr, vectors: int, last: int, part: Part) -> None:
        """A part of the rows of one tile of columns, whose last vector has `last` numbers."""
        size, lanes_ = self.size, self.cpu.lanes

        def packed(source: Buffer, start: Expr) -> Callable[[Expr, Expr], Expr]:
            return lambda k, v: load(source, lanes(start + (k * vectors + v) * lanes_, lanes_))

        if self.early:
            weight = packed(self.b, first * (size.k * lanes_))
        elif self.panel is not None:
            self._pack(t, first, vectors, last)
            weight = packed(self.panel, 0)
        else:
            batch = 0 if self.b.shape[0] == 1 else t

            def weight(k: Expr, v: Expr) -> Expr:
                return load(self.b, batch, k, lanes((first + v) * lanes_, lanes_))

        ordinal = 0
        for row, count, rows in runs(split_even(size.m, self.tile.columns)):
            with share(count, part, last=row > 0) as tile:
                fetch = self._ahead(first + vectors, vectors, ordinal + tile)
                self._tile(t, row + tile * rows, rows, first, vectors, last, weight, fetch)
            ordinal += count

    def _ahead(self, first: Expr, vectors: int, ordinal: Expr) -> Callable[[Expr, int], None] | None:
        """Writes, in each of `steps` steps of the `ordinal`-th tile of rows, a request for a line of the columns from
        `first` on, which the next tile of columns reads: weights come from beyond the second cache, since other layers
        have used it. None where one tile has all rows, so that nothing would arrive in time, or b is not packed early.
        """
        tiles, lanes_ = len(split_even(self.size.m, self.tile.columns)), self.cpu.lanes
        line = _LINE // self.cpu.itemsize  # numbers
        if not self.early or tiles == 1:
            return None

        def fetch(step: Expr, steps: int) -> None:
            lines = -(-self.size.k * vectors * lanes_ // line)
            share_ = -(-lines // (tiles * steps))
            with unrolled(share_) as i:
                prefetch(self.b, first * (self.size.k * lanes_) + ((ordinal * steps + step) * share_ + i) * line)

        return fetch

    def _pack(self, t: Expr, first: Expr, vectors: int, last: int) -> None:
        """Copy one tile of columns of a computed b; what lies beyond n is multiplied too, but never stored."""
        lanes_, batch = self.cpu.lanes, 0 if self.b.shape[0] == 1 else t
        with loop(self.size.k) as k:
            for v in range(vectors):
                count = last if v == vectors - 1 else lanes_
                start = (k * vectors + v) * lanes_
                store(self.panel, load(self.b, batch, k, lanes((first + v) * lanes_, count)), lanes(start, count))

    def _tile(self, t: Expr, row: Expr, rows: int, first: Expr, vectors: int, last: int,
              weight: Callable[[Expr, Expr], Expr], fetch: Callable[[Expr, int], None] | None) -> None:
        """One register tile: start, reduce over k, finish, store."""
        lanes_, size = self.cpu.lanes, self.size
        accumulators = local(rows * vectors * lanes_, self.cpu.dtype)

        def vector(i: Expr, v: Expr) -> Expr:
            return (i * vectors + v) * lanes_

        with unrolled(rows) as i, unrolled(vectors) as v:
            column = lanes((first + v) * lanes_, lanes_)
            start = splat(0, lanes_, self.cpu.dtype) if self.start is None else load(self.start, column)
            store(accumulators, start, lanes(vector(i, v), lanes_))
        self._reduce(t, row, rows, vectors, accumulators, weight, fetch or (lambda _step, _steps: None))
        whole = vectors - (last < lanes_)
        with unrolled(rows) as i:
            place = t * size.m + row + i
            for v0, count, width in ((0, whole, lanes_), (whole, vectors - whole, last)):
                if count:
                    with unrolled(count, v0) as v:
                        result = self.after.finish((place, first + v, 0, 0), accumulators, vector(i, v), width)
                        with vectorized(width) as e:
                            store(self.y, result(e), place, (first + v) * lanes_ + e)

    def _reduce(self, t: Expr, row: Expr, rows: int, vectors: int, accumulators: Buffer,
                weight: Callable[[Expr, Expr], Expr], fetch: Callable[[Expr, int], None]) -> None:
        lanes_, size = self.cpu.lanes, self.size
        batch = 0 if self.a.shape[0] == 1 else t

        def step(k: Expr, number: Callable[[Expr], Expr]) -> None:
            with unrolled(rows) as i, unrolled(vectors) as v:
                place = lanes((i * vectors + v) * lanes_, lanes_)
                store(accumulators, load(accumulators, place) + broadcast(number(i), lanes_) * weight(k, v), place)

        if self.cpu.by_element and size.k >= lanes_:
            def vector(chunk: Expr) -> None:
                fetch(chunk, size.k // lanes_)
                with unrolled(lanes_) as u:
                    step(chunk * lanes_ + u,
                         lambda i: lane(load(self.a, batch, row + i, lanes(chunk * lanes_, lanes_)), u))

            reduced(self.cpu, accumulators, size.k // lanes_, lanes_, vector)
            done = size.k // lanes_ * lanes_
        else:
            done = 0
        for first, count, unroll in runs(split_even(size.k - done, self.tile.unroll)) if size.k > done else ():
            with loop(count) as chunk:
                if first == 0:
                    fetch(chunk, count)
                with unrolled(unroll) as u:
                    k = done + first + chunk * unroll + u
                    step(k, lambda i, k=k: load(self.a, batch, row + i, k))  # type: ignore[misc]
