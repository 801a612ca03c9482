"""Winograd convolution of bytes in exact integers: 3x3 (or 1x3, 3x1) filters at stride 1, a chunk of tiles at a time.

Computes: `Convolution` in exact integers with bias, then the kernel's pointwise nodes, or its own requantization. A
          tile of m x m outputs takes P products of pairs of channels where a direct sum takes 9 m m
          (`winograd_integer`): F(2,3) 16 for 36, F(4,3) 36 for 144. They are of 16-bit numbers (`words`).
Layouts:  x [n, C/16, h, w, 16] uint8 on x86, int8 on Arm; y and full operands of the pointwise nodes
          [n, K/16, oh, ow, 16], in bytes or float32; weights, transformed and packed at build time: for each tile of
          `blocks` output blocks [P, steps, vectors of sums, lanes, depth] int16; bias [K] int32; workspaces of a chunk:
          inputs [P, C/16, tiles, 16] int16, sums [P, tiles, blocks, 16] int32, each of the P parts an odd number of
          cache lines.
Applies when: (1) `convolution_int8.refuse` has nothing to say; (2) one group, stride and dilation 1, taps 3 or 1 and
          not both 1; (3) every sum is below the limit of `winograd_integer.division`; (4) `choose` expects it to be
          faster than a direct sum.
Padding:  nothing is copied. A tile that touches a side reads the zero point in place of what does not exist; outputs
          beyond oh and ow are not stored. Channels beyond C meet zero weights.
Numerics: exact; then as `epilogue`.
Source:   as in `winograd_integer`; the loops of conv2d_winograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
from edgec.kernels import convolution, convolution_int8, dot, epilogue, quantized, words
from edgec.kernels.convolution import Convolution
from edgec.kernels.dot import Dot, choose_tile, flat, view
from edgec.kernels.emit import (
    Expr,
    Writer,
    broadcast,
    either,
    inside,
    lanes,
    least,
    load,
    local,
    loop,
    only_if,
    parallel,
    prefetch,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, known_machine, split_even
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.quantized import BYTE_BLOCK, Product
from edgec.kernels.window import pick, runs
from edgec.kernels.winograd_integer import IntegerAxis, division, integer_axis, transform_weights
from tvm import tirx

from edgec.ir.quantize import bounds
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel, stored_dtype
from edgec.target import Target

ALGORITHM = "int8_winograd"
_LINE_OF_WORDS = 32  # numbers of 2 bytes in a cache line
# Instruction slots (half a cycle) for each vector of transformed inputs and of sums, and for each cache line of weights
# from beyond the second cache: measured 2026-11-24 on an Intel Xeon, with AVX2, AVX-512 and VNNI, on the 3x3 layers of
# ResNet-18, most of whose predictions were within 30 %, those with VNNI 40 % too low.
_INPUT, _OUTPUT, _ARRIVAL = 6, 10, 40
_GAIN = 0.75  # of a direct sum's cost: what is closer is left to the direct sum, which needs less memory


@dataclass(frozen=True)
class Schedule:
    """outputs: of one tile, rows x columns; register tile of the products: `tile.columns` tiles x `tile.blocks` output
    blocks; `chunk` tiles at a time, a multiple of `tile.columns`.
    """

    outputs: tuple[int, int]
    tile: Tile
    chunk: int


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    reason = _refuse_form(kernel, target)
    if reason is None and choose(kernel, target) is None:
        return "a direct sum is cheaper, or sums could be too large"
    return reason


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, cheapest first, whatever a direct sum costs."""
    if _refuse_form(kernel, target) is not None:
        return []
    which, conv, exact = _described(kernel, target)
    return sorted(_allowed(known_machine(target), which, conv, exact, kernel),
                  key=lambda s: cost(known_machine(target), which, conv, s))


def _refuse_form(kernel: Kernel, target: Target) -> str | None:
    reason = convolution_int8.refuse(kernel, target)
    if reason:
        return reason
    conv = convolution.describe(kernel.anchor)
    window = conv.window
    if conv.groups > 1 or window.stride != (1, 1) or window.dilation != (1, 1):
        return "not one group, stride 1 and dilation 1"
    if window.taps not in ((3, 3), (1, 3), (3, 1)):
        return f"the taps {window.taps} are not 3 or 1"
    if 2 * conv.c < BYTE_BLOCK:
        return f"{conv.c} channels do not fill half a block"
    return None


def _described(kernel: Kernel, target: Target) -> tuple[Dot, Convolution, Product]:
    which, exact = words.of_target(target), quantized.product(kernel)
    assert which is not None  # `_refuse_form` has checked
    assert exact is not None
    return which, convolution.describe(kernel.anchor), exact


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything blocked."""
    return epilogue.demand(kernel, BYTE_BLOCK, {kernel.anchor.operand(0).name: BYTE_BLOCK})


def axes(conv: Convolution, outputs: tuple[int, int]) -> tuple[IntegerAxis, IntegerAxis]:
    """The algorithms along both axes."""
    (rows, columns), taps = outputs, conv.window.taps
    return integer_axis(rows, taps[0]), integer_axis(columns, taps[1])


def points(conv: Convolution, outputs: tuple[int, int]) -> int:
    """Products of a tile."""
    rows, columns = axes(conv, outputs)
    return rows.size * columns.size


def count_tiles(conv: Convolution, outputs: tuple[int, int]) -> int:
    """Tiles of one sample."""
    return -(-conv.window.oh // outputs[0]) * -(-conv.window.ow // outputs[1])


def largest_sum(exact: Product, kernel: Kernel) -> int:
    """What no sum without its bias exceeds in magnitude, for any data."""
    w = convolution_int8.weights(exact).astype(np.int64)
    low, high = (edge - exact.x_zero for edge in bounds(stored_dtype(kernel.anchor.operand(0))))
    ups, downs = (np.maximum(sign * w, 0).sum(axis=(1, 2, 3)) for sign in (1, -1))
    return int(max((high * ups - low * downs).max(initial=0), (high * downs - low * ups).max(initial=0)))


def weights_stay(cpu: Machine, conv: Convolution, outputs: tuple[int, int]) -> bool:
    """True if the transformed weights fill at most half of the second cache."""
    return 4 * points(conv, outputs) * conv.c * conv.k <= cpu.l2_bytes


def schedule(cpu: Machine, which: Dot, conv: Convolution, outputs: tuple[int, int]) -> Schedule:
    """The register tile, and the chunk: at most an eighth of the second cache where the weights stay in it, else half,
    since the weights come once for each chunk.
    """
    total, size = count_tiles(conv, outputs), points(conv, outputs)
    tile = choose_tile(which, 1, total, -(-conv.k // BYTE_BLOCK))
    columns = max(length for _, length in split_even(total, tile.columns))
    step = size * (2 * conv.c + 4 * tile.blocks * BYTE_BLOCK) * columns
    room = cpu.l2_bytes // (8 if weights_stay(cpu, conv, outputs) else 2)
    pieces = max(length for _, length in split_even(-(-total // columns), max(1, room // step)))
    return Schedule(outputs, replace(tile, columns=columns), pieces * columns)


def cost(cpu: Machine, which: Dot, conv: Convolution, chosen: Schedule) -> float:
    """Instruction slots of the whole convolution."""
    total, size = count_tiles(conv, chosen.outputs), points(conv, chosen.outputs)
    c_blocks, k_blocks = -(-conv.c // BYTE_BLOCK), -(-conv.k // BYTE_BLOCK)
    tiles = -(-total // chosen.tile.columns) * chosen.tile.columns
    products = tiles * -(-conv.c // which.depth) * k_blocks * which.vectors * which.slots
    transforms = total * which.vectors * (c_blocks * _INPUT + k_blocks * _OUTPUT) / 2
    chunks = conv.n * -(-total // chosen.chunk)
    lines = size * conv.c * conv.k / _LINE_OF_WORDS * (1 if weights_stay(cpu, conv, chosen.outputs) else chunks)
    work, arrivals = conv.n * size * products, _ARRIVAL * lines
    slots = work + arrivals / 2 if cpu.by_element else max(work, arrivals)
    return conv.n * size * transforms + slots


def direct_cost(cpu: Machine, which: Dot, conv: Convolution) -> float:
    """Instruction slots of the direct sum in bytes."""
    taps = prod(conv.window.taps)
    steps = -(-conv.c // which.depth) * which.slots
    work = float(taps * conv.n * steps * -(-conv.k // BYTE_BLOCK) * which.vectors * conv.window.oh * conv.window.ow)
    arrivals = _ARRIVAL * taps * conv.c * conv.k / 64
    return work + arrivals / 2 if cpu.by_element else max(work, arrivals)


def _allowed(cpu: Machine, which: Dot, conv: Convolution, exact: Product, kernel: Kernel) -> list[Schedule]:
    rows, columns = ((1,) if taps == 1 else (2, 4) for taps in conv.window.taps)
    limit = largest_sum(exact, kernel)
    found = [outputs for outputs in product(rows, columns) if limit < division(*axes(conv, outputs)).limit]
    return [schedule(cpu, which, conv, outputs) for outputs in found]


def choose(kernel: Kernel, target: Target) -> Schedule | None:
    """The cheapest schedule by `cost`, None if a direct sum costs hardly more."""
    cpu, (which, conv, exact) = known_machine(target), _described(kernel, target)
    found = _allowed(cpu, which, conv, exact, kernel)
    best = min(found, key=lambda s: cost(cpu, which, conv, s), default=None)
    limit = _GAIN * direct_cost(cpu, dot.known_dot(target), conv)
    return best if best is not None and cost(cpu, which, conv, best) <= limit else None


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, or for one of its `choices`."""
    chosen = schedule or choose(kernel, target)
    assert chosen is not None  # `refuse` has checked
    which, conv, exact = _described(kernel, target)
    cpu = known_machine(target)
    program = write(kernel.name, lambda writer: _Winograd(kernel, cpu, which, conv, exact, chosen, lower,
                                                          writer).body(), ALGORITHM)
    return replace(program, products=points(conv, chosen.outputs) / (prod(chosen.outputs) * prod(conv.window.taps)))


class _Winograd:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, which: Dot, conv: Convolution, exact: Product, chosen: Schedule,
                 lower: Lower, writer: Writer) -> None:
        node, result, b = kernel.anchor, kernel.outputs[0], BYTE_BLOCK
        self.cpu, self.dot, self.conv, self.chosen = cpu, which, conv, chosen
        self.tile, self.window = chosen.tile, conv.window
        self.words = 8 if cpu.by_element else b  # 16-bit numbers of a vector of inputs
        self.rows, self.columns = axes(conv, chosen.outputs)
        self.points = self.rows.size * self.columns.size
        self.c_blocks, self.k_blocks = -(-conv.c // b), -(-conv.k // b)
        self.across = -(-self.window.ow // self.columns.m)  # tiles
        self.zero, data = exact.x_zero, node.operand(0)
        self.x = writer.pointer(Input(data), (conv.n, self.c_blocks, self.window.h, self.window.w, b),
                                quantized.dtype(data))
        packed = pack_weights(transform_weights(convolution_int8.weights(exact), self.rows, self.columns), which,
                              self.tile.blocks)
        self.weights = writer.pointer(Constant(packed), packed.shape, "int16")
        bias = np.zeros(self.k_blocks * b, np.int32)
        bias[:conv.k] = 0 if exact.bias is None else exact.bias
        self.bias = None if exact.bias is None else writer.pointer(Constant(bias), bias.shape, "int32")
        self.total = count_tiles(conv, chosen.outputs)
        self.alone = conv.n == 1 and self.total <= chosen.chunk  # one chunk holds all tiles
        self.inputs = writer.scratch(self.points, self.c_blocks * chosen.chunk * b, "int16", not self.alone)
        self.sums = writer.scratch(self.points, chosen.chunk * self.tile.blocks * b, "int32", True)
        self.after = Epilogue(kernel, b, lower, writer, cpu=cpu)
        out = (conv.n, self.k_blocks, self.window.oh, self.window.ow, b)
        self.y = writer.pointer(Output(result, epilogue.replaceable(kernel)), out, quantized.dtype(result))

    def body(self) -> None:
        """Loops over samples, chunks of tiles, tiles of output blocks: threads share the chunks, or the output blocks
        of the only chunk, once all of its inputs are there.
        """
        self.after.prologue()
        chunk, pieces = self.chosen.chunk, runs(split_even(self.k_blocks, self.tile.blocks))
        if self.alone:
            with parallel(self.c_blocks) as (c,), loop(self.total) as t:
                self._input(0, c, t, t)
            with parallel(sum(count for _, count, _ in pieces)) as (piece,):
                for first, blocks in pick(piece, pieces):
                    self._block(0, first, blocks, 0, self.total)
            return
        with parallel(self.conv.n, -(-self.total // chunk)) as (n, step):
            first = step * chunk
            count = chunk if self.total % chunk == 0 else least(chunk, self.total - first)
            with loop(self.c_blocks) as c, loop(count) as t:
                self._input(n, c, first + t, t)
            for start, repeats, blocks in pieces:
                with loop(repeats) as r:
                    self._block(n, start + r * blocks, blocks, first, count)

    def _block(self, n: Expr, block: Expr, blocks: int, first: Expr, count: Expr) -> None:
        """Products and outputs of one tile of output blocks."""
        with loop(self.points) as point:
            self._products(point, block, blocks, count)
        with loop(count) as t, loop(blocks) as k:
            self._output(n, block + k, first + t, t * blocks + k)

    def _corner(self, tile: Expr) -> tuple[Expr, Expr]:
        """The first output row and column of a tile."""
        if self.across == 1:
            return tile * self.rows.m, 0
        return tile // self.across * self.rows.m, tile % self.across * self.columns.m

    def _input(self, n: Expr, c: Expr, tile: Expr, t: Expr) -> None:
        """Write B^T d B of one tile and one block of channels."""
        window, rows, columns, b = self.window, self.rows, self.columns, self.words
        row, column = self._corner(tile)
        row, column = row - window.pad[0], column - window.pad[1]
        kind = str(self.x.data.dtype)
        zero = broadcast(tirx.const(self.zero, "int16"), b)

        def part(lane: Expr) -> None:
            half = local(rows.size * columns.size * b, "int16")

            def down(guarded: bool) -> None:
                with loop(columns.size) as j:
                    read = []
                    for i in range(rows.size):
                        vector = load(self.x, n, c, row + i, column + j, lanes(lane, b))
                        if guarded:
                            exists = inside(row + i >= 0, row + i < window.h, column + j >= 0, column + j < window.w)
                            vector = only_if(exists, vector, broadcast(tirx.const(self.zero, kind), b))
                        read.append(vector.astype(f"int16x{b}") - zero)
                    for i, value in enumerate(_inputs_of(rows, read, b)):
                        store(half, value, lanes((i * columns.size + j) * b, b))

            whole = inside(row >= 0, row + rows.size <= window.h, column >= 0, column + columns.size <= window.w)
            either(whole, lambda: down(False), lambda: down(True))
            with loop(rows.size) as i:
                read = [load(half, lanes((i * columns.size + j) * b, b)) for j in range(columns.size)]
                for j, value in enumerate(_inputs_of(columns, read, b)):
                    place = (c * self.chosen.chunk + t) * BYTE_BLOCK + lane
                    store(self.inputs, value, i * columns.size + j, lanes(place, b))

        with loop(BYTE_BLOCK // b) as part_:
            part(part_ * b)

    def _products(self, point: Expr, block: Expr, blocks: int, count: Expr) -> None:
        """sums[point, tile, k] = sum over c of inputs[point, c, tile] * weights[c, block + k], k of `blocks`."""
        which, columns, chunk, size = self.dot, self.tile.columns, self.chosen.chunk, self.dot.lanes
        vectors, steps = blocks * which.vectors, -(-self.conv.c // which.depth)
        in_block = BYTE_BLOCK // which.depth
        whole, rest = divmod(steps, in_block)
        data, part = flat(self.inputs), self.inputs.shape[1]
        start = (block * self.points + point * blocks) * steps
        with loop(chunk // columns if isinstance(count, int) else (count + columns - 1) // columns) as piece:
            sums = local(columns * vectors * size, "int32")
            with unrolled(columns * vectors) as i:
                store(sums, broadcast(tirx.const(0, "int32"), size), lanes(i * size, size))

            def slab(c: Expr, depth: int) -> None:
                ahead = start * which.vectors + (steps + c * in_block) * vectors
                self._fetch_ahead(ahead, piece, depth * vectors, chunk // columns)
                group = which.shared if depth % which.shared == 0 else depth  # steps that are written out
                with loop(depth // group) as g, unrolled(group) as s, unrolled(columns) as t, unrolled(vectors) as v:
                    step = g * group + s
                    first = point * part + (c * chunk + piece * columns + t) * BYTE_BLOCK
                    factor = which.factor(data, first, step)
                    place = start * which.vectors + (c * in_block + step) * vectors + v
                    target = lanes((t * vectors + v) * size, size)
                    store(sums, which.add(load(sums, target), factor, which.weights(self.weights, place)), target)

            if whole:
                with loop(whole) as c:
                    slab(c, in_block)
            if rest:
                slab(whole, rest)
            with unrolled(columns) as t, unrolled(vectors) as v:
                place = lanes(((piece * columns + t) * vectors + v) * size, size)
                store(self.sums, load(sums, lanes((t * vectors + v) * size, size)), point, place)

    def _fetch_ahead(self, start: Expr, piece: Expr, vectors: int, pieces: int) -> None:
        """Ask for this piece's share of `vectors` vectors of weights from `start`, which the next products will read.

        Only where weights come from beyond the second cache, and the core does not count instructions.
        """
        if self.cpu.by_element or weights_stay(self.cpu, self.conv, self.chosen.outputs):
            return
        size = self.dot.lanes * self.dot.depth
        share = -(-vectors * size // _LINE_OF_WORDS // pieces)
        with unrolled(share) as line:
            prefetch(self.weights, start * size + (piece * share + line) * _LINE_OF_WORDS)

    def _output(self, n: Expr, block: Expr, tile: Expr, place: Expr) -> None:
        """Finish one tile of one output block: A^T s A, the division, bias, pointwise nodes."""
        b, window, rows, columns, size = BYTE_BLOCK, self.window, self.rows, self.columns, self.dot.lanes
        row, column = self._corner(tile)
        half = local(rows.m * columns.size * size, "uint32")
        results = local(rows.m * columns.m * b, "int32")
        found = division(rows, columns)
        with loop(b // size) as part:
            with loop(columns.size) as j:
                read = [view(load(self.sums, i * columns.size + j, lanes(place * b + part * size, size)),
                             f"uint32x{size}") for i in range(rows.size)]
                for i, value in enumerate(_outputs_of(rows, read, size)):
                    store(half, value, lanes((i * columns.size + j) * size, size))
            with loop(rows.m) as i:
                read = [load(half, lanes((i * columns.size + j) * size, size)) for j in range(columns.size)]
                for j, value in enumerate(_outputs_of(columns, read, size)):
                    scaled = view(_times(value, found.inverse, "uint32", size), f"int32x{size}")
                    number = scaled >> broadcast(tirx.const(found.shift, "int32"), size)
                    if self.bias is not None:
                        number = number + load(self.bias, lanes(block * b + part * size, size))
                    store(results, number, lanes((i * columns.m + j) * b + part * size, size))
        height = rows.m if window.oh % rows.m == 0 else least(rows.m, window.oh - row)
        width = columns.m if window.ow % columns.m == 0 else least(columns.m, window.ow - column)
        with loop(height) as i, loop(width) as j:
            position = (n, block, row + i, column + j)
            result = self.after.finish(position, results, (i * columns.m + j) * b)
            with vectorized(b) as e:
                store(self.y, result(e), *position, e)


def pack_weights(array: np.ndarray, which: Dot, tile: int) -> np.ndarray:
    """[P, c, k] -> one flat array, by tiles of output blocks as `split_even` cuts them."""
    size, c, k = array.shape
    k_blocks = -(-k // BYTE_BLOCK)
    padded = np.zeros((size, -(-c // which.depth) * which.depth, k_blocks * BYTE_BLOCK), array.dtype)
    padded[:, :c, :k] = array
    return np.concatenate([which.pack(padded[:, :, start * BYTE_BLOCK:(start + length) * BYTE_BLOCK]).reshape(-1)
                           for start, length in split_even(k_blocks, tile)])


def _inputs_of(along: IntegerAxis, values: Sequence[Expr], size: int) -> list[Expr]:
    """B^T times the inputs of one tile along an axis, int16."""
    if along.taps == 1:
        return list(values)
    x = _kept(values, "int16", size)
    result = [_sum(along.b[0], x, "int16", size)]
    for index, p in enumerate(along.pairs):
        i = 1 + 2 * index
        even, odd = (along.b[i] + along.b[i + 1]) // 2, (along.b[i] - along.b[i + 1]) // 2 // p
        same, opposite = _kept([_sum(even, x, "int16", size), _sum(odd, x, "int16", size)], "int16", size)
        opposite = _times(opposite, p, "int16", size)
        result += [same + opposite, same - opposite]
    return [*result, _sum(along.b[-1], x, "int16", size)]


def _outputs_of(along: IntegerAxis, values: Sequence[Expr], size: int) -> list[Expr]:
    """A^T times the products of one tile along an axis, uint32."""
    if along.taps == 1:
        return list(values)
    x, last = _kept(values, "uint32", size), 1 + 2 * len(along.pairs)
    both = _kept([t for i in range(1, last, 2) for t in (x[i] + x[i + 1], x[i] - x[i + 1])], "uint32", size)
    return [_sum(np.array([row[0], *row[1:last:2], *row[last:]]), [x[0], *both[i % 2::2], *x[last:]], "uint32", size)
            for i, row in enumerate(along.a)]


def _sum(factors: np.ndarray, terms: Sequence[Expr], kind: str, size: int) -> Expr:
    """Sum of factor * term, those with factor 1 first; terms whose factor is 0 do not appear."""
    found = sorted(((int(f), t) for f, t in zip(factors, terms, strict=True) if f), key=lambda pair: pair[0] != 1)
    total = _times(found[0][1], found[0][0], kind, size)
    for factor, term in found[1:]:
        product_ = _times(term, abs(factor), kind, size)
        total = total + product_ if factor > 0 else total - product_
    return total


def _times(term: Expr, factor: int, kind: str, size: int) -> Expr:
    if factor == 1:
        return term
    return term * broadcast(tirx.const(factor % (1 << 32) if kind == "uint32" else factor, kind), size)


def _kept(values: Sequence[Expr], kind: str, size: int) -> list[Expr]:
    """The values in registers, so that each is computed once."""
    registers = local(len(values) * size, kind)
    for i, value in enumerate(values):
        store(registers, value, lanes(i * size, size))
    return [load(registers, lanes(i * size, size)) for i in range(len(values))]
