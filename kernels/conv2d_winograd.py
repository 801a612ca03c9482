"""Winograd convolution on blocked channels, a chunk of tiles at a time: small filters in one or two axes, any stride.

Computes: `Convolution` with bias, then the kernel's pointwise nodes. A tile of m x m' outputs is
          A^T [ sum over c of (G g G'^T) * (B^T d B') ] A', d the inputs that it reads (`winograd_transform.Axis`): P
          products of matrices [tiles, C] x [C, K], where a direct sum needs R S m m' products a pair of channels.
Layouts:  x [n, C/b, h, w, b]; y and full operands of the pointwise nodes [n, K/b, oh, ow, b]; bias [K/b, b];
          weights, transformed in float64 and packed at build time, P / (R S) times their size:
          for each tile of `blocks` output blocks [P, c, blocks, b] (`together`: [P][tiles][c, blocks, b]);
          workspaces of one chunk: inputs [P, C/b, tiles, b], sums [P, tiles, blocks, b] (`together`: all blocks), each
          of the P parts an odd number of cache lines, so that its parts do not compete for the same sets of a cache.
          Few channels and a stride (first layers): x plain [n, c, h, w] is first copied to [rows, columns, C s s/b, b],
          s x s neighbours as channels, with its padding; what remains has stride 1 and ceil(R / s) taps.
Applies when: (1) `conv2d_direct` does; (2) dilation 1, one group, a filter of more than one tap; (3)
          `winograd_schedule.choose` finds tiles that are cheaper than the direct sum by its cost rule and whose error
          bound the tolerance allows.
Padding:  nothing is copied but what is stated above. A tile that touches a side reads zeros in place of what does not
          exist; outputs beyond oh and ow are not stored. A channel beyond C never enters a sum, so lanes beyond C may
          hold anything.
Numerics: `winograd_transform` states the bounds; the probable one of a layer must be allowed. float16: sums over c in
          `partial_sums`.
Source:   as in `winograd_transform`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
from edgec.kernels import conv2d_direct, convolution, epilogue
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    broadcast,
    either,
    inside,
    lane,
    lanes,
    least,
    load,
    local,
    loop,
    only_if,
    parallel,
    prefetch,
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, known_machine, split_even
from edgec.kernels.partial_sums import reduced
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.kernels.window import Window, pick, runs, terms
from edgec.kernels.winograd_schedule import (
    Schedule,
    allowed,
    axes,
    choose,
    count_tiles,
    described,
    gathers,
    points,
    weights_stay,
)
from edgec.kernels.winograd_transform import Axis, Transform, mean_error, pack_weights

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "winograd"
_MEASURED = 16  # schedules, the best by the cost rule
_ZERO = 1e-12  # what interpolation leaves of 0


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    reason = _refuse_form(kernel, target)
    if reason is None and choose(kernel, known_machine(target, kernel)) is None:
        return "a direct sum is cheaper, or the error bound is too large"
    return reason


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, cheapest by the cost rule first, whatever a direct sum costs."""
    if _refuse_form(kernel, target) is not None:
        return []
    return allowed(kernel, known_machine(target, kernel))[:_MEASURED]


def _refuse_form(kernel: Kernel, target: Target) -> str | None:
    reason = conv2d_direct.refuse(kernel, target)
    if reason:
        return reason
    cpu, conv = known_machine(target, kernel), convolution.describe(kernel.anchor)
    window = conv.window
    if conv.groups > 1 or window.taps == (1, 1) or window.dilation != (1, 1):
        return "not more than one tap, dilation 1 and one group"
    if 2 * conv.c < cpu.lanes and not gathers(conv, cpu.lanes):
        return f"{conv.c} channels do not fill half a block"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """X blocked, or plain where it is copied; the rest blocked."""
    block, conv = known_machine(target, kernel).lanes, convolution.describe(kernel.anchor)
    return epilogue.demand(kernel, block, {kernel.anchor.operand(0).name: 0 if gathers(conv, block) else block})


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, or for one of its `choices`."""
    cpu = known_machine(target, kernel)
    chosen = schedule or choose(kernel, cpu)
    assert chosen is not None  # `refuse` has checked
    program = write(kernel.name, lambda writer: _Winograd(kernel, cpu, chosen, lower, writer).body(), ALGORITHM)
    taps = convolution.describe(kernel.anchor).window.taps
    conv, array = described(kernel, cpu)
    size = points(conv, chosen.outputs) * conv.c / convolution.describe(kernel.anchor).c
    return replace(program, products=size / (prod(chosen.outputs) * prod(taps)),
                   error=mean_error(array, axes(conv, chosen.outputs), cpu.dtype))


class _Winograd:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, chosen: Schedule, lower: Lower, writer: Writer) -> None:
        node, b = kernel.anchor, cpu.lanes
        self.cpu, self.chosen, self.tile = cpu, chosen, chosen.tile
        self.original = original = convolution.describe(node)
        self.conv, array = described(kernel, cpu)
        conv, self.window = self.conv, self.conv.window
        self.rows, self.columns = axes(conv, chosen.outputs)
        self.points = self.rows.size * self.columns.size
        self.c_blocks, self.k_blocks = -(-conv.c // b), -(-conv.k // b)
        self.across = -(-self.window.ow // chosen.outputs[1])  # tiles
        self.plain: Buffer | None = None
        if gathers(original, b):
            self.plain = writer.pointer(Input(node.operand(0)),
                                        (original.n, original.c, original.window.h, original.window.w), cpu.dtype)
            extent = [-(-o // m) * m + t - 1 for o, m, t in
                      zip((self.window.oh, self.window.ow), chosen.outputs, self.window.taps, strict=True)]
            shape = (conv.n, self.c_blocks, *extent, b)
            self.x = writer.pointer(Workspace(cpu.itemsize * prod(shape)), shape, cpu.dtype)
            self.window = Window(*extent, self.window.oh, self.window.ow, self.window.taps)
        else:
            shape = (conv.n, self.c_blocks, self.window.h, self.window.w, b)
            self.x = writer.pointer(Input(node.operand(0)), shape, cpu.dtype)
        packed = pack_weights(array, (self.rows, self.columns), b, self.tile.blocks, chosen.together)
        self.weights = writer.pointer(Constant(packed), packed.shape, cpu.dtype)
        bias = convolution.bias(node, self.k_blocks * b)
        self.bias = None if bias is None else writer.pointer(Constant(bias), bias.shape, cpu.dtype)
        self.total = count_tiles(conv, chosen.outputs)
        self.alone = conv.n == 1 and self.total <= chosen.chunk  # one chunk holds all tiles
        self.inputs = writer.scratch(self.points, self.c_blocks * chosen.chunk * b, cpu.dtype, not self.alone)
        blocks = self.k_blocks if chosen.together else self.tile.blocks
        shared = self.alone and chosen.together
        self.sums = writer.scratch(self.points, chosen.chunk * blocks * b, cpu.dtype, not shared)
        self.after = Epilogue(kernel, b, lower, writer)
        out = (conv.n, self.k_blocks, self.window.oh, self.window.ow, b)
        result = Output(kernel.outputs[0], epilogue.replaceable(kernel))
        self.y = writer.pointer(result, out, kernel.outputs[0].dtype.value)

    def body(self) -> None:
        """Loops over samples, chunks of tiles, tiles of output blocks: threads share the chunks, or the output blocks
        of the only chunk, once all of its inputs are there.
        """
        self.after.prologue()
        if self.plain is not None:
            with parallel(self.conv.n, self.x.shape[2]) as (n, u):
                self._gather(n, u)
        chunk, pieces = self.chosen.chunk, runs(split_even(self.k_blocks, self.tile.blocks))
        if self.alone:
            self._only_chunk(pieces)
            return
        with parallel(self.conv.n, -(-self.total // chunk)) as (n, step):
            first = step * chunk
            count = chunk if self.total % chunk == 0 else least(chunk, self.total - first)
            with loop(self.c_blocks) as c, loop(count) as t:
                self._input(n, c, first + t, t)
            if not self.chosen.together:
                for start, repeats, blocks in pieces:
                    with loop(repeats) as r:
                        self._block(n, start + r * blocks, blocks, first, count)
                return
            with loop(self.points) as point:
                for start, repeats, blocks in pieces:
                    with loop(repeats) as r:
                        self._panel(point, start + r * blocks, blocks, count)
            with loop(count) as t, loop(self.k_blocks) as k:
                self._output(n, k, first + t, t * self.k_blocks + k)

    def _only_chunk(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        """All tiles at once."""
        tiles = sum(count for _, count, _ in pieces)
        with parallel(self.c_blocks) as (c,), loop(self.total) as t:
            self._input(0, c, t, t)
        if not self.chosen.together:
            with parallel(tiles) as (piece,):
                for first, blocks in pick(piece, pieces):
                    self._block(0, first, blocks, 0, self.total)
            return
        with parallel(self.points, tiles) as (point, piece):
            for first, blocks in pick(piece, pieces):
                self._panel(point, first, blocks, self.total)
        with parallel(self.total) as (t,), loop(self.k_blocks) as k:
            self._output(0, k, t, t * self.k_blocks + k)

    def _block(self, n: Expr, block: Expr, blocks: int, first: Expr, count: Expr) -> None:
        """Products and outputs of one tile of output blocks."""
        with loop(self.points) as point:
            self._products(point, 0, blocks, blocks, block * self.points + point * blocks, count)
        with loop(count) as t, loop(blocks) as k:
            self._output(n, block + k, first + t, t * blocks + k)

    def _panel(self, point: Expr, block: Expr, blocks: int, count: Expr) -> None:
        """The products of one tile of output blocks at one point, where those of all blocks are kept."""
        self._products(point, block, blocks, self.k_blocks, point * self.k_blocks + block, count)

    def _gather(self, n: Expr, u: Expr) -> None:
        """Copy one row of plain x, s x s neighbours as channels, with zeros in place of what does not exist."""
        plain, conv, b = self.plain, self.original, self.cpu.lanes
        s, (h, w) = conv.window.stride[0], (conv.window.h, conv.window.w)
        columns = self.x.shape[3]
        before = [-(-p // s) for p in conv.window.pad]
        whole = [v for v in range(columns) if s * (v - before[1]) >= 0 and s * (v - before[1] + 1) <= w]
        sides = [v for v in range(columns) if v not in whole]
        for c, phase in product(range(conv.c), range(s)):
            block, place = divmod((c * s + phase) * s, b)
            row = s * (u - before[0]) + phase

            def copy(c: int = c, row: Expr = row, block: int = block, place: int = place) -> None:
                if whole:
                    with loop(len(whole), whole[0]) as v:
                        source = load(plain, n, c, row, lanes(s * (v - before[1]), s))
                        store(self.x, source, n, block, u, v, lanes(place, s))
                for v, i in product(sides, range(s)):
                    column = s * (v - before[1]) + i
                    number = load(plain, n, c, row, column) if 0 <= column < w else splat(0, 1, self.cpu.dtype)
                    store(self.x, number, n, block, u, v, place + i)

            def clear(block: int = block, place: int = place) -> None:
                with loop(columns) as v:
                    store(self.x, splat(0, s, self.cpu.dtype), n, block, u, v, lanes(place, s))

            either(inside(row >= 0, row < h), copy, clear)

    def _input(self, n: Expr, c: Expr, tile: Expr, t: Expr) -> None:
        """Write B^T d B of one tile and one block of channels."""
        b, window, rows, columns = self.cpu.lanes, self.window, self.rows, self.columns
        row, column = self._corner(tile)
        row, column = row * window.stride[0] - window.pad[0], column * window.stride[1] - window.pad[1]
        half = local(rows.size * columns.reach * b, self.cpu.dtype)

        def down(guarded: bool) -> None:
            with loop(columns.reach) as j:
                read = []
                for i in range(rows.reach):
                    vector = load(self.x, n, c, row + i, column + j, lanes(0, b))
                    if guarded:
                        exists_ = inside(row + i >= 0, row + i < window.h, column + j >= 0, column + j < window.w)
                        vector = only_if(exists_, vector, self._splat(0))
                    read.append(vector)
                for i, value in enumerate(self._products_of(rows, read)):
                    store(half, value, lanes((i * columns.reach + j) * b, b))

        reaches = all(-(-o // x.m) * x.m * x.stride - x.stride + x.taps <= extent for o, x, extent in
                      zip((window.oh, window.ow), (rows, columns), (window.h, window.w), strict=True))
        if window.pad == (0, 0) and reaches:
            down(False)
        else:
            whole = inside(row >= 0, row + rows.reach <= window.h, column >= 0, column + columns.reach <= window.w)
            either(whole, lambda: down(False), lambda: down(True))
        with loop(rows.size) as i:
            read = [load(half, lanes((i * columns.reach + j) * b, b)) for j in range(columns.reach)]
            for j, value in enumerate(self._products_of(columns, read)):
                store(self.inputs, value, i * columns.size + j, lanes((c * self.chosen.chunk + t) * b, b))

    def _corner(self, tile: Expr) -> tuple[Expr, Expr]:
        """The first output row and column of a tile."""
        rows, columns = self.chosen.outputs
        if self.across == 1:
            return tile * rows, 0
        return tile // self.across * rows, tile % self.across * columns

    def _products_of(self, along: Axis, values: Sequence[Expr]) -> list[Expr]:
        """B^T times the inputs of one tile along an axis."""
        return [value for t, inputs, _ in along.phase_slices for value in self._inputs_of(t, values[inputs])]

    def _inputs_of(self, t: Transform, values: Sequence[Expr]) -> list[Expr]:
        if t.m == 1 or t.taps == 1:
            return list(values)
        x = self._kept(values)
        result = [self._sum(t.b[0], x)]
        for i in range(1, 2 * t.pairs, 2):
            even, odd = (t.b[i] + t.b[i + 1]) / 2, (t.b[i] - t.b[i + 1]) / 2
            scale = odd[np.flatnonzero(np.abs(odd) > _ZERO)[-1]]
            same, opposite = self._kept([self._sum(even, x), self._sum(odd / scale, x)])
            factor = self._splat(scale)
            result += [same + opposite, same - opposite] if scale == 1 else \
                [same + opposite * factor, same - opposite * factor]
        return result + [self._sum(row, x) for row in t.b[1 + 2 * t.pairs:]]

    def _outputs_of(self, along: Axis, values: Sequence[Expr]) -> list[Expr]:
        """A^T times the products of one tile along an axis."""
        totals: list[Expr] = []
        for t, _, products in along.phase_slices:
            results = self._sums_of(t, values[products])
            totals = [a + r for a, r in zip(totals, results, strict=True)] if totals else results
        return totals

    def _sums_of(self, t: Transform, values: Sequence[Expr]) -> list[Expr]:
        if t.taps == 1:
            return list(values)
        x, last = self._kept(values), 1 + 2 * t.pairs
        if t.m == 1:
            return [self._sum(t.a[0], x)]
        both = self._kept([term for i in range(1, last, 2) for term in (x[i] + x[i + 1], x[i] - x[i + 1])])
        return [self._sum(np.array([row[0], *row[1:last:2], *row[last:]]), [x[0], *both[i % 2::2], *x[last:]])
                for i, row in enumerate(t.a)]

    def _sum(self, factors: np.ndarray, terms: Sequence[Expr]) -> Expr:
        """Sum of factor * term; terms whose factor is 0 do not appear."""
        total = None
        for factor, term in sorted(((float(f), t) for f, t in zip(factors, terms, strict=True) if abs(f) > _ZERO),
                                   key=lambda pair: pair[0] != 1):
            value = term if factor == 1 else term * self._splat(factor)
            total = value if total is None else total + value
        return total

    def _splat(self, number: float) -> Expr:
        return splat(number, self.cpu.lanes, self.cpu.dtype)

    def _kept(self, values: Sequence[Expr]) -> list[Expr]:
        """The values in registers, so that each is computed once."""
        if not values:
            return []
        b = self.cpu.lanes
        registers = local(len(values) * b, self.cpu.dtype)
        for i, value in enumerate(values):
            store(registers, value, lanes(i * b, b))
        return [load(registers, lanes(i * b, b)) for i in range(len(values))]

    def _products(self, point: Expr, first: Expr, blocks: int, of: int, panel: Expr, count: Expr) -> None:
        """sums[point, tile, first + k] = sum over c of inputs[point, c, tile] * weights[c, k], k of `blocks`.

        of: output blocks of a tile in `sums`; panel: where the weights [c, blocks, b] begin, in multiples of c * b.
        """
        b, columns, channels, chunk = self.cpu.lanes, self.tile.columns, self.conv.c, self.chosen.chunk
        whole, rest = divmod(channels, b)
        pieces = chunk // columns
        with loop(pieces if isinstance(count, int) else (count + columns - 1) // columns) as piece:
            accumulators = local(columns * blocks * b, self.cpu.dtype)
            with unrolled(columns * blocks) as i:
                store(accumulators, self._splat(0), lanes(i * b, b))

            def slab(c: Expr, depth: int) -> None:
                start = panel * channels + c * b * blocks
                self._fetch_ahead(start + channels * blocks, piece, depth * blocks, pieces)

                def step(channel: Expr) -> None:
                    with unrolled(columns) as t, unrolled(blocks) as k:
                        place = (c * chunk + piece * columns + t) * b
                        if self.cpu.by_element:
                            number = lane(load(self.inputs, point, lanes(place, b)), channel)
                        else:
                            number = load(self.inputs, point, place + channel)
                        weight = load(self.weights, lanes((start + channel * blocks + k) * b, b))
                        target = lanes((t * blocks + k) * b, b)
                        store(accumulators, load(accumulators, target) + broadcast(number, b) * weight, target)

                for channel in terms(self.cpu, depth, self.tile.unroll):
                    step(channel)

            if whole:
                reduced(self.cpu, accumulators, whole, b, lambda c: slab(c, b))
            if rest:
                slab(whole, rest)
            with unrolled(columns) as t, unrolled(blocks) as k:
                store(self.sums, load(accumulators, lanes((t * blocks + k) * b, b)),
                      point, lanes(((piece * columns + t) * of + first + k) * b, b))

    def _fetch_ahead(self, start: Expr, piece: Expr, vectors: int, pieces: int) -> None:
        """Ask for this piece's share of `vectors` vectors of weights from `start`, which the next products will read.

        Only where weights come from beyond the second cache, and the core does not count instructions.
        """
        if self.cpu.by_element or weights_stay(self.cpu, self.conv, self.chosen.outputs):
            return
        in_line = 64 // self.cpu.itemsize
        share = -(-vectors * self.cpu.lanes // in_line // pieces)  # lines
        with unrolled(share) as line:
            prefetch(self.weights, start * self.cpu.lanes + (piece * share + line) * in_line)

    def _output(self, n: Expr, block: Expr, tile: Expr, place: Expr) -> None:
        """Finish one tile of one output block: A^T s A, bias, pointwise nodes."""
        b, window, rows, columns = self.cpu.lanes, self.window, self.rows, self.columns
        row, column = self._corner(tile)
        half, results = (local(rows.m * size * b, self.cpu.dtype) for size in (columns.size, columns.m))
        with loop(columns.size) as j:
            read = [load(self.sums, i * columns.size + j, lanes(place * b, b)) for i in range(rows.size)]
            for i, value in enumerate(self._outputs_of(rows, read)):
                store(half, value, lanes((i * columns.size + j) * b, b))
        with loop(rows.m) as i:
            read = [load(half, lanes((i * columns.size + j) * b, b)) for j in range(columns.size)]
            for j, value in enumerate(self._outputs_of(columns, read)):
                if self.bias is not None:
                    value = value + load(self.bias, lanes(block * b, b))
                store(results, value, lanes((i * columns.m + j) * b, b))
        height = rows.m if window.oh % rows.m == 0 else least(rows.m, window.oh - row)
        width = columns.m if window.ow % columns.m == 0 else least(columns.m, window.ow - column)
        with loop(height) as i, loop(width) as j:
            position = (n, block, row + i, column + j)
            result = self.after.finish(position, results, (i * columns.m + j) * b)
            with vectorized(b) as e:
                store(self.y, result(e), *position, e)
