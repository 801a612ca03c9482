"""Direct convolution of bytes on blocks of 16 channels, the int32 sums of a tile of outputs in registers.

Computes: `Convolution` in exact integers with bias, then the kernel's pointwise nodes, or its own requantization.
Layouts:  x [n, C/16, h, w, 16] uint8 on x86, int8 on Arm; weights, packed at build time: for each tile of `blocks`
          output blocks [C/16, R, S, steps, vectors of sums, lanes, depth] int8 (`dot` has lanes, depth and their
          order), 0 beyond C and K, the last block of C only as many steps as it needs; start values [K] int32 and
          sums of weights [K/16, R, S, 16] int16 for taps in the padding (`convolution_int8`);
          y and full operands of the pointwise nodes [n, K/16, oh, ow, 16], in bytes or float32.
Applies when: (1) `convolution_int8.refuse` has nothing to say; (2) groups = 1, or c/groups and k/groups are multiples
          of 16; (3) the core has instructions of `dot`; windows of one tap take those of `dot_pairs` where it has them.
Padding:  nothing is copied. Taps that read padding are left out, and what the padding's zero point would have added is
          added to the start values of the outputs at the sides.
Numerics: exact; then as `epilogue`.
Source:   the loops of conv2d_direct; Rodriguez et al., Lower Numerical Precision Deep Learning Inference and Training,
          Intel 2018 (dot products of bytes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from edgec.kernels import convolution, convolution_int8, epilogue, quantized
from edgec.kernels.convolution import Convolution
from edgec.kernels.convolution_int8 import Starts, padded_groups, steps, taps
from edgec.kernels.dot import Dot, flat, known_dot, ranked_tiles
from edgec.kernels.dot_pairs import for_neighbours
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    lanes,
    load,
    local,
    loop,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, known_machine, split_even
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.quantized import BYTE_BLOCK, Product
from edgec.kernels.window import Area, Block, Placing, each, register_tiles, too_many_sides

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

_MEASURED = 6  # tiles, the best by the cost rule
ALGORITHM = "int8"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    reason = convolution_int8.refuse(kernel, target)
    if reason:
        return reason
    conv = convolution.describe(kernel.anchor)
    ins, outs = conv.c // conv.groups, conv.k // conv.groups
    if conv.groups > 1 and (ins % BYTE_BLOCK or outs % BYTE_BLOCK):
        return f"{conv.groups} groups of {ins} to {outs} channels are not multiples of {BYTE_BLOCK}"
    return too_many_sides(conv.window, _tile(dot_of(conv, target), conv))


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything blocked."""
    return epilogue.demand(kernel, BYTE_BLOCK, {kernel.anchor.operand(0).name: BYTE_BLOCK})


@dataclass(frozen=True)
class Schedule:
    """tile: of registers; positions_first: tiles of positions are the outer loop, those of output blocks the inner."""

    tile: Tile
    positions_first: bool


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, the one of the cost rules first; none where the kernel does not apply."""
    if refuse(kernel, target) is not None:
        return []
    conv = _described(kernel)
    cpu, dot = known_machine(target), dot_of(conv, target)
    best = [t for t in _ranked(dot, conv)[:_MEASURED] if too_many_sides(conv.window, t) is None]
    orders = [(tile, positions_first(cpu, conv, tile)) for tile in best]
    others = [Schedule(tile, not order) for tile, order in orders
              if -(-conv.k // conv.groups // BYTE_BLOCK) > tile.blocks]
    return [*(Schedule(*pair) for pair in orders), *others]


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, by one of its `choices` or by the cost rules."""
    conv = _described(kernel)
    cpu, dot = known_machine(target), dot_of(conv, target)
    if schedule is None:
        tile = _tile(dot, conv)
        schedule = Schedule(tile, positions_first(cpu, conv, tile))
    chosen = schedule
    return write(kernel.name, lambda writer: _declare(kernel, cpu, dot, conv, chosen, lower, writer), ALGORITHM)


def _described(kernel: Kernel) -> Convolution:
    """The convolution; one of a single tap as one row."""
    conv = convolution.describe(kernel.anchor)
    return replace(conv, window=conv.window.flat()) if conv.window.is_point else conv


def dot_of(conv: Convolution, target: Target) -> Dot:
    """The instructions for a convolution: those for neighbours where each position reads only itself."""
    window = conv.window
    return for_neighbours(target, window.oh * window.ow) if window.is_point else known_dot(target)


def _tile(dot: Dot, conv: Convolution) -> Tile:
    return _ranked(dot, conv)[0]


def _ranked(dot: Dot, conv: Convolution) -> tuple[Tile, ...]:
    window = conv.window.flat() if conv.window.is_point else conv.window
    return ranked_tiles(dot, window.oh, window.ow, -(-conv.k // conv.groups // BYTE_BLOCK))


def positions_first(cpu: Machine, conv: Convolution, tile: Tile) -> bool:
    """True if tiles of positions should be the outer loop: all weights stay in half of the second cache, the data of
    all positions do not stay in half of the first, and there are several tiles of output blocks.
    """
    weights_ = conv.k // conv.groups * conv.c // conv.groups * conv.window.taps[0] * conv.window.taps[1]
    data = conv.c // conv.groups * conv.window.h * conv.window.w
    several = -(-conv.k // conv.groups // BYTE_BLOCK) > tile.blocks
    return several and 2 * weights_ <= cpu.l2_bytes and 2 * data > cpu.l1_bytes


@dataclass(frozen=True)
class Memory:
    """What the sums read and write. starts: their start values."""

    x: Buffer
    weights: Buffer
    starts: Starts
    y: Buffer


def declare(exact: Product, conv: Convolution, dot: Dot, tile: Tile, writer: Writer,
            vectors: int | None = None) -> tuple[Buffer, Starts]:
    """The packed weights and the start values of a convolution, whose weights [k, c, R, S] `exact` has."""
    packed = pack_weights(convolution_int8.weights(exact), conv.groups, dot, tile.blocks, vectors)
    weights = writer.pointer(Constant(packed), packed.shape, "int8")
    starts = Starts(exact, conv.window, conv.groups, dot, writer)
    starts.declare_taps(exact, conv.groups, writer)
    return weights, starts


def _declare(kernel: Kernel, cpu: Machine, dot: Dot, conv: Convolution, schedule: Schedule, lower: Lower,
             writer: Writer) -> None:
    """Declare the pointers of a convolution and write its program."""
    node, exact = kernel.anchor, quantized.product(kernel)
    assert exact is not None  # `refuse` has checked
    data, result = node.operand(0), kernel.outputs[0]
    shape = (conv.n, -(-conv.c // BYTE_BLOCK), conv.window.h, conv.window.w, BYTE_BLOCK)
    x = writer.pointer(Input(data), shape, quantized.dtype(data))
    weights, starts = declare(exact, conv, dot, schedule.tile, writer)
    after = Epilogue(kernel, BYTE_BLOCK, lower, writer, convolution.describe(node).window.is_point, cpu=cpu)
    k_blocks = -(-conv.k // conv.groups // BYTE_BLOCK) * conv.groups
    out = (conv.n, k_blocks, conv.window.oh, conv.window.ow, BYTE_BLOCK)
    y = writer.pointer(Output(result, epilogue.replaceable(kernel)), out, quantized.dtype(result))
    after.prologue()
    Sums(dot, conv, schedule, Memory(x, weights, starts, y), after).body()


class Sums:
    """Writes the loops of one convolution, whose pointers are declared and whose epilogue is ready.

    vectors: of sums of a block of outputs that are computed; all of them by default.
    """

    def __init__(self, dot: Dot, conv: Convolution, schedule: Schedule, memory: Memory, after: Epilogue,
                 placing: Placing | None = None, vectors: int | None = None) -> None:
        self.dot, self.conv, self.tile, self.window = dot, conv, schedule.tile, conv.window
        self.x, self.weights, self.starts, self.y = memory.x, memory.weights, memory.starts, memory.y
        self.after, self.placing, self.vectors = after, placing or Placing(), vectors or dot.vectors
        self.k_blocks = -(-conv.k // conv.groups // BYTE_BLOCK)  # of one group
        self.channels = conv.c // conv.groups
        self.positions_first = schedule.positions_first

    def body(self) -> None:
        """Loops over samples and groups; over output blocks and positions in the order that moves fewer bytes."""
        outer, pieces = (self.conv.n, self.conv.groups), split_even(self.k_blocks, self.tile.blocks)
        for found in register_tiles(outer, pieces, self.window, self.tile, self.positions_first):
            self._tile(*found)

    def _tile(self, n: Expr, g: Expr, first: Expr, blocks: int, area: Area) -> None:
        """One register tile: start, reduce, finish, store."""
        vectors, groups = blocks * self.vectors, self.dot.count(area.columns)
        sums = local(area.rows * groups * vectors * self.dot.width, "int32")
        block = g * self.k_blocks + first

        def place(i: Expr, j: Expr, v: Expr) -> Expr:
            return ((i * groups + j) * vectors + v) * self.dot.width

        self.starts.write(sums, place, area, block, vectors)
        self._reduce(sums, n, g, block, blocks, area)
        self.finish(self.dot.by_positions(sums, area.columns, vectors), n, block, blocks, area)

    def finish(self, sums: Buffer, n: Expr, block: Expr, blocks: int, area: Area) -> None:
        """Store a tile, whose sums [positions, blocks, outputs] are complete."""
        with each(area.block) as (i, j), unrolled(blocks) as k:
            position = (n, block + k, *self.placing.of(area, i, j))
            at = ((i * area.columns + j) * blocks + k) * BYTE_BLOCK
            result = self.after.finish(position, sums, at)
            with vectorized(BYTE_BLOCK) as e:
                store(self.y, result(e), *position, e)

    def _reduce(self, sums: Buffer, n: Expr, g: Expr, block: Expr, blocks: int, area: Area) -> None:
        """Add all products of the tile: blocks of input channels, taps, steps of a block."""
        whole, rest = divmod(self.channels, BYTE_BLOCK)
        depth, taps_ = self.dot.depth, self.window.taps[0] * self.window.taps[1]
        row = -(-self.channels // depth)  # steps of one tap
        c_blocks = -(-self.channels // BYTE_BLOCK)

        def slab(c: Expr, count: int) -> None:
            def tap(r: Expr, s: Expr, positions: Block) -> None:
                done = (block * row + c * (BYTE_BLOCK // depth * blocks)) * taps_
                start = done + (r * self.window.taps[1] + s) * (count * blocks)
                self._products(sums, (n, g * c_blocks + c), r, s, start, blocks, area, positions, count)

            taps(self.window, area, tap)

        if whole:
            with loop(whole) as c:
                slab(c, BYTE_BLOCK // depth)
        if rest:
            slab(whole, -(-rest // depth))

    def _products(self, sums: Buffer, source: tuple[Expr, Expr], r: Expr, s: Expr, start: Expr, blocks: int,
                  area: Area, positions: Block, count: int) -> None:
        """sums[position, k] += x[position, channel] * w[channel, k] for `count` steps of channels of one tap.

        start: of this tap's weights, counted in steps of blocks.
        """
        dot, window, vectors = self.dot, self.window, blocks * self.vectors
        staged = dot.stage(positions.rows * positions.columns)

        def slot(i: Expr, j: Expr) -> Expr:
            return (i - positions.row) * positions.columns + j - positions.column

        def first(i: Expr, j: Expr) -> Expr:
            return self.x.flat((*source, window.row(area.row + i, r), window.column(area.column + j, s), 0))

        data = flat(self.x)
        if staged is not None:
            with each(positions) as (i, j):
                dot.prepare(staged, slot(i, j), data, first(i, j))
        row = dot.count(area.columns)
        with steps(count, dot.rolled) as step:
            for i, group, length in dot.groups(positions):
                j = group * dot.positions
                read = (data, first(i, j)) if staged is None else (staged, slot(i, j) * BYTE_BLOCK)
                with unrolled(vectors) as v:
                    factor = dot.gather(*read, step, BYTE_BLOCK, length)
                    weight = dot.weights(self.weights, start * self.vectors + step * vectors + v)
                    place = lanes(((i * row + group) * vectors + v) * dot.width, dot.width)
                    store(sums, dot.add(load(sums, place), factor, weight), place)


def pack_weights(array: np.ndarray, groups: int, dot: Dot, tile: int, vectors: int | None = None) -> np.ndarray:
    """[k, c, r, s] int8 -> one flat array, by tiles of output blocks as `split_even` cuts them.

    vectors: of a block that are kept, the first ones.
    """
    _, c, r, s = array.shape
    padded = padded_groups(array, groups)
    k_blocks = padded.shape[0] // groups // BYTE_BLOCK
    whole, rest = divmod(c, BYTE_BLOCK)
    pieces = []
    for group, (first, length) in product(range(groups), split_even(k_blocks, tile)):
        start = (group * k_blocks + first) * BYTE_BLOCK
        part = padded[start:start + length * BYTE_BLOCK].transpose(1, 2, 3, 0)  # [c, r, s, outputs]
        for begin, count in [*((b * BYTE_BLOCK, BYTE_BLOCK) for b in range(whole)), (whole * BYTE_BLOCK, rest)]:
            if count:
                slab = np.zeros((-(-count // dot.depth) * dot.depth, r, s, length * BYTE_BLOCK), np.int8)
                slab[:count] = part[begin:begin + count]
                packed = dot.pack(slab.transpose(1, 2, 0, 3))  # [r, s, steps, vectors, bytes]
                pieces.append(packed[..., :vectors and length * vectors, :].reshape(-1))
    return np.concatenate(pieces)
