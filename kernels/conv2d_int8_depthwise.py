"""Depthwise convolution of bytes on blocks of 16 channels: each channel has a filter of its own.

Computes: y[n, c, i, j] = bias[c] + sum over r, s of w[c, 0, r, s] * (x[n, c, row(i, r), column(j, s)] - zero) in exact
          integers, then the kernel's pointwise nodes, or its own requantization.
Layouts:  x [n, C/16, h, w, 16] uint8 on x86, int8 on Arm; y and full operands of the pointwise nodes
          [n, C/16, oh, ow, 16], in bytes or float32; packed at build time, numbers beyond C are 0: start values [C]
          int32, and weights (1) on cores with sums of `depth` products, [C/16, R/depth, S, 16, depth] int8, or int16
          where `dot` widens bytes, rows beyond R are 0; (2) elsewhere [C/16, R, S, 16] int8.
Applies when: groups = c = k > 1; `convolution_int8.refuse` has nothing to say; the core has instructions of `dot`.
Padding:  nothing is copied. (1) A column outside counts as one of zero points; weights of a row outside are cleared,
          and what they would have added is added before. (2) As in conv2d_int8, from the weights themselves.
Numerics: exact; then as `epilogue`.
Source:   conv2d_depthwise. (1) The rows of a column are interleaved, so that the products of a sum are rows of one
          channel; a column is made once for all outputs that read it. (2) On Arm two taps by smull and smlal fit int16
          and saddw adds them to int32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from edgec.kernels import convolution, convolution_int8, epilogue, quantized
from edgec.kernels.convolution import Convolution
from edgec.kernels.convolution_int8 import Starts, padded_groups, start_values
from edgec.kernels.dot import Dot, flat, known_dot, plus, view
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    broadcast,
    inside,
    lanes,
    least,
    load,
    local,
    loop,
    parallel,
    store,
    unrolled,
    vectorized,
    when,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, known_machine
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.quantized import BYTE_BLOCK, Product
from edgec.kernels.window import PARTS, Area, Window, areas, count_parts, too_many_sides
from tvm import tirx

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "int8_depthwise"
_COLUMNS = 14  # of a tile whose columns are made one after the other; more would only be more code


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    reason = convolution_int8.refuse(kernel, target)
    if reason:
        return reason
    conv = convolution.describe(kernel.anchor)
    if not conv.groups == conv.c == conv.k or conv.c == 1:
        return f"{conv.groups} groups of {conv.c} to {conv.k} channels are not one filter per channel"
    return too_many_sides(conv.window, choose(known_dot(target), conv))


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything blocked."""
    return epilogue.demand(kernel, BYTE_BLOCK, {kernel.anchor.operand(0).name: BYTE_BLOCK})


def choose(dot: Dot, conv: Convolution) -> Tile:
    """One row of `_COLUMNS`, or of as many columns as leave half of the registers to data and weights."""
    most = _COLUMNS if dot.interleaves else max(1, dot.registers // 2 // dot.vectors)
    return Tile(1, min(conv.window.ow, most), 1, 1)


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, dot, conv = known_machine(target), known_dot(target), convolution.describe(kernel.anchor)
    exact = quantized.product(kernel)
    assert exact is not None  # `refuse` has checked
    form = _Columns if dot.interleaves else _Taps
    return write(kernel.name, lambda writer: form(kernel, cpu, dot, conv, exact, lower, writer).body(), ALGORITHM)


class _Depthwise:
    """What both forms share: the parameters, and the loops around a tile."""

    def __init__(self, kernel: Kernel, cpu: Machine, dot: Dot, conv: Convolution, exact: Product, lower: Lower,
                 writer: Writer) -> None:
        self.dot, self.conv, self.window, self.zero = dot, conv, conv.window, exact.x_zero
        self.blocks = -(-conv.c // BYTE_BLOCK)
        data, result = kernel.anchor.operand(0), kernel.outputs[0]
        shape = (conv.n, self.blocks, conv.window.h, conv.window.w, BYTE_BLOCK)
        self.x = writer.pointer(Input(data), shape, quantized.dtype(data))
        packed = self.pack(convolution_int8.weights(exact))
        self.weights = writer.pointer(Constant(packed), packed.shape, packed.dtype.name)
        self.declare(exact, writer)
        self.after = Epilogue(kernel, BYTE_BLOCK, lower, writer, cpu=cpu)
        out = (conv.n, self.blocks, conv.window.oh, conv.window.ow, BYTE_BLOCK)
        self.y = writer.pointer(Output(result, epilogue.replaceable(kernel)), out, quantized.dtype(result))

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The weights [c, 1, R, S] as the form reads them."""
        raise NotImplementedError

    def declare(self, exact: Product, writer: Writer) -> None:
        """Further constants."""
        raise NotImplementedError

    def tile(self, n: Expr, c: Expr, area: Area) -> None:
        """Write one tile of outputs of block c."""
        raise NotImplementedError

    def body(self) -> None:
        """Loops over samples, blocks of channels, tiles."""
        self.after.prologue()
        chosen = choose(self.dot, self.conv)
        parts = count_parts(self.window, chosen, -(-PARTS // (self.conv.n * self.blocks)))
        with parallel(self.conv.n, self.blocks, parts) as (n, c, part):
            for area in areas(self.window, chosen, (part, parts)):
                self.tile(n, c, area)

    def finish(self, n: Expr, c: Expr, area: Area, j: Expr, sums: Buffer) -> None:
        """Store column j of the tile, whose sums are complete."""
        position = (n, c, area.row, area.column + j)
        value = self.after.finish(position, sums, j * BYTE_BLOCK)
        with vectorized(BYTE_BLOCK) as e:
            store(self.y, value(e), *position, e)


class _Columns(_Depthwise):
    """Form (1)."""

    def pack(self, array: np.ndarray) -> np.ndarray:
        """[c, 1, R, S] -> [C/16, R/depth, S, 16, depth]."""
        c, _, r, s = array.shape
        self.depth, self.bits = self.dot.depth, 32 // self.dot.depth  # of a number in a sum's lane
        self.groups = -(-r // self.depth)
        padded = np.zeros((self.blocks * BYTE_BLOCK, self.groups * self.depth, s), f"int{self.bits}")
        padded[:c, :r] = array[:, 0]
        split = padded.reshape(self.blocks, BYTE_BLOCK, self.groups, self.depth, s)
        return np.ascontiguousarray(split.transpose(0, 2, 4, 1, 3))

    def declare(self, exact: Product, writer: Writer) -> None:
        """Start values."""
        array = start_values(exact, 1)
        self.start = writer.pointer(Constant(array), array.shape, "int32")

    def tile(self, n: Expr, c: Expr, area: Area) -> None:
        """Columns of the input from left to right; an output is finished as soon as it has met all that it reads."""
        dot, window, size = self.dot, self.window, self.depth * BYTE_BLOCK
        taps = self.groups * window.taps[1]
        sums, start = local(area.columns * BYTE_BLOCK, "int32"), local(BYTE_BLOCK, "int32")
        filters = local(taps * size, f"int{self.bits}")
        store(start, load(self.start, lanes(c * BYTE_BLOCK, BYTE_BLOCK)), lanes(0, BYTE_BLOCK))
        for t in range(taps):
            store(filters, load(flat(self.weights), lanes((c * taps + t) * size, size)), lanes(t * size, size))
        if not area.rows_inside:
            self._without_rows(area, filters, start)
        begun: set[int] = set()
        readers = columns_read(window, area.columns)
        for column, uses in readers:
            exists = area.columns_inside or 0 <= window.column(int(area.column), 0) + column < window.w
            if not exists and not self.zero and begun.issuperset(j for j, _ in uses):
                factors: list[list[Expr]] | None = None
            else:
                factors = [self._factors(n, c, area, column if exists else None, g) for g in range(self.groups)]
            for j, s in uses:
                for v in range(dot.vectors):
                    place = lanes(j * BYTE_BLOCK + v * dot.lanes, dot.lanes)
                    value = load(sums, place) if j in begun else load(start, lanes(v * dot.lanes, dot.lanes))
                    for g in range(self.groups if factors else 0):
                        weight = load(filters, self._filter(g, s, v))
                        value = dot.add(value, factors[g][v], weight)  # type: ignore[index]
                    store(sums, value, place)
                begun.add(j)
            for j in [j for j, s in uses if s == window.taps[1] - 1]:
                self.finish(n, c, area, j, sums)

    def _filter(self, g: int, s: int, v: int) -> Expr:
        """Where the weights of a group of rows, a column and a vector of sums lie."""
        count = self.depth * self.dot.lanes
        return lanes(((g * self.window.taps[1] + s) * self.dot.vectors + v) * count, count)

    def _without_rows(self, area: Area, filters: Buffer, start: Buffer) -> None:
        """Where rows lie outside: let the start values have what their zero points add, and clear their weights."""
        dot, window = self.dot, self.window
        rows = [window.row(area.row, r) for r in range(window.taps[0])]
        with when(tirx.any(rows[0] < 0, rows[-1] >= window.h)):
            for g in range(self.groups):
                gone: Expr = tirx.const(0, "int32")
                for r, row in enumerate(rows[g * self.depth:(g + 1) * self.depth]):
                    outside = tirx.any(row < 0, row >= window.h)
                    gone = gone | tirx.Select(outside, _word((2 ** self.bits - 1) << self.bits * r), _word(0))
                for s, v in np.ndindex(window.taps[1], dot.vectors):
                    place, at = lanes(v * dot.lanes, dot.lanes), self._filter(g, s, v)
                    weight = load(filters, at)
                    if self.zero:
                        added = view(broadcast(gone & self._zeros(), dot.lanes), self._vector(dot.planar))
                        store(start, dot.add(load(start, place), added, weight), place)
                    kept = view(weight, f"int32x{dot.lanes}") & broadcast(~gone, dot.lanes)
                    store(filters, view(kept, self._vector(f"int{self.bits}")), at)

    def _factors(self, n: Expr, c: Expr, area: Area, column: int | None, g: int) -> list[Expr]:
        """A group of rows of a column of the input, interleaved; None: a column of zero points."""
        dot, window = self.dot, self.window
        if column is None:
            return [view(broadcast(self._zeros(), dot.lanes), self._vector(dot.planar))] * dot.vectors
        rows = []
        for r in range(g * self.depth, min((g + 1) * self.depth, window.taps[0])):
            row = window.row(area.row, r)
            if not area.rows_inside:  # any row that exists: the weights are 0
                row = least(tirx.max(row, 0), window.h - 1)
            rows.append(load(self.x, n, c, row, window.column(area.column, 0) + column, lanes(0, BYTE_BLOCK)))
        count = self.depth * dot.lanes
        made = local(dot.vectors * count, dot.planar)
        for v, vector in enumerate(dot.interleave(rows)):
            store(made, vector, lanes(v * count, count))
        return [load(made, lanes(v * count, count)) for v in range(dot.vectors)]

    def _zeros(self) -> Expr:
        """A lane of a sum full of zero points."""
        number = self.zero & (2 ** self.bits - 1)
        return _word(sum(number << self.bits * i for i in range(self.depth)))

    def _vector(self, kind: str) -> str:
        """The type of what is multiplied for a vector of sums, of elements of a kind."""
        return f"{kind}x{self.depth * self.dot.lanes}"


class _Taps(_Depthwise):
    """Form (2)."""

    def pack(self, array: np.ndarray) -> np.ndarray:
        """[c, 1, R, S] -> [C/16, R, S, 16]."""
        padded = padded_groups(array[:, 0], 1)
        blocks = padded.reshape(-1, BYTE_BLOCK, *padded.shape[1:]).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(blocks)

    def declare(self, exact: Product, writer: Writer) -> None:
        """Start values; the weights of a channel are their own sums over channels."""
        self.starts = Starts(exact, self.window, 1, self.dot, writer)
        self.starts.tap_sums = self.weights

    def tile(self, n: Expr, c: Expr, area: Area) -> None:
        """Rows of the window one after the other, columns of the tile written out."""
        sums = local(area.columns * BYTE_BLOCK, "int32")
        self.starts.write(sums, lambda _i, j, v: j * BYTE_BLOCK + v * self.dot.lanes, area, c, self.dot.vectors)
        window = self.window
        with loop(window.taps[0]) as r:
            source = window.row(area.row, r)
            with when(None if area.rows_inside else inside(source >= 0, source < window.h)):
                for j in range(area.columns):
                    for group in _groups(window, area, j, 2):
                        data = [self.x.flat((n, c, source, window.column(area.column + j, s), 0)) for s in group]
                        filters = [self.weights.flat((c, r, s, 0)) for s in group]
                        _add_pairs(sums, j * BYTE_BLOCK, flat(self.x), data, flat(self.weights), filters)
        with unrolled(area.columns) as j:
            self.finish(n, c, area, j, sums)


def columns_read(window: Window, count: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """The columns of the input, counted from the first, that `count` outputs read: which outputs, and by which tap."""
    found: dict[int, list[tuple[int, int]]] = {}
    for j in range(count):
        for s in range(window.taps[1]):
            found.setdefault(j * window.stride[1] + s * window.dilation[1], []).append((j, s))
    return sorted(found.items())


def _word(bits: int) -> Expr:
    """An int32 number with these bits."""
    return tirx.const(int(np.uint32(bits).astype(np.int32)), "int32")


def _groups(window: Window, area: Area, j: int, size: int) -> list[list[int]]:
    """The columns of the window that column j of a tile reads, in groups of at most `size`."""
    columns = range(window.taps[1])
    found = [s for s in columns if area.columns_inside or window.column_exists(int(area.column) + j, s)]
    return [found[first:first + size] for first in range(0, len(found), size)]


def _add_pairs(sums: Buffer, base: Expr, x: Buffer, data: Sequence[Expr], weights: Buffer,
               filters: Sequence[Expr]) -> None:
    """Sums from `base` += the products of one tap or two; data, filters: where their 16 channels begin. On Arm."""
    for half in range(2):
        product: Expr = 0
        for first, second in zip(data, filters, strict=True):
            factors = [load(buffer, lanes(at + 8 * half, 8)) for buffer, at in ((x, first), (weights, second))]
            product = product + tirx.call_llvm_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", *factors)
        for quarter in range(2):
            place = lanes(base + 8 * half + 4 * quarter, 4)
            four = tirx.Shuffle([product], [4 * quarter + i for i in range(4)]).astype("int32x4")
            store(sums, plus(load(sums, place), four, 4), place)
