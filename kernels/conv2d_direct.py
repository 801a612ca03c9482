"""Direct convolution on blocked channels, the accumulators of a tile of outputs in registers over the whole reduction.

Computes: `Convolution` with bias, then the kernel's pointwise nodes.
Layouts:  x [n, C/b, h, w, b], or plain [n, c, h, w] if the layout assignment says so (first layers);
          weights, packed at build time: for each tile of `blocks` output blocks [C/b/d, r, s, d, b, blocks, b]
          (plain x: [c, r, s, blocks, b]), then a last block of channels that is not full by itself; numbers beyond C
          and K are 0;
          bias [K/b, b]; y and full operands of the pointwise nodes [n, K/b, oh, ow, b].
Applies when: (1) x, weights and bias are float32 or float16, weights and bias constant, rank 3 or 4; (2) groups = 1, or
          at most `_JOINED` of them fill whole blocks of inputs and outputs: they are computed as one, with zeros among
          their weights; (3) the pointwise nodes fit `epilogue`.
Padding:  nothing is copied. Rows outside are skipped; tiles that touch a side are written out with the products that
          exist.
          A channel beyond C never enters a sum, so lanes beyond C may hold anything, NaN included.
Numerics: accumulation in the order group of d channel blocks, row, column, channel; float16 in `partial_sums`.
Source:   Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures, SC 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from edgec.kernels import convolution, epilogue
from edgec.kernels.convolution import Convolution
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    broadcast,
    lane,
    lanes,
    least,
    load,
    local,
    loop,
    prefetch,
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, choose_tile, known_machine, machine, ranked_tiles, split_even
from edgec.kernels.partial_sums import CHUNK, error, reduced
from edgec.kernels.program import Constant, Input, Output, TensorProgram
from edgec.kernels.window import (
    Area,
    Block,
    Placing,
    count_areas,
    each,
    register_tiles,
    taps,
    terms,
    too_many_sides,
)

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "direct"
_MEASURED = 10  # tiles, the best by the cost rule
_JOINED = 16  # groups: one in 16 products counts then, which is still faster than numbers one by one
_REUSE = 16  # tiles of positions; fewer do not hide the time that weights beyond the second cache take to arrive


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu = machine(target, kernel)
    if cpu is None:
        return "the core has no vectors of 4 floats"
    reason = convolution.refuse(kernel) or epilogue.refuse(kernel)
    if reason:
        return reason
    conv, groups = _describe(kernel, cpu), kernel.anchor.integer("group", 1)
    if groups > _JOINED * conv.groups:
        return f"only {groups // conv.groups} of {groups} groups fill blocks of {cpu.lanes} channels"
    return too_many_sides(conv.window, _tile(cpu, conv))


def demand(kernel: Kernel, target: Target) -> Demand:
    """X blocked, or as it comes if it has fewer than two blocks of channels; the rest blocked."""
    lanes_, data = known_machine(target, kernel).lanes, kernel.anchor.operand(0)
    few = data.shape[1] < 2 * lanes_ and kernel.anchor.integer("group", 1) == 1
    return epilogue.demand(kernel, lanes_, {data.name: None if few else lanes_})


@dataclass(frozen=True)
class Schedule:
    """tile: of registers; positions_first: the loop over tiles of positions stands outside that over output blocks."""

    tile: Tile
    positions_first: bool


def choices(kernel: Kernel, target: Target) -> list[Schedule]:
    """Schedules that are worth measuring, the one of the cost rules first; none where the kernel does not apply."""
    if refuse(kernel, target) is not None:
        return []
    cpu = known_machine(target, kernel)
    conv, _ = _flat(_describe(kernel, cpu))
    first = _schedule(cpu, conv)
    blocks = -(-conv.k // conv.groups // cpu.lanes)
    best = [t for t in ranked_tiles(cpu, conv.window.oh, conv.window.ow, blocks)
            if not too_many_sides(conv.window, t)][:_MEASURED]
    space = [Schedule(tile, order) for tile in best for order in (first.positions_first, not first.positions_first)]
    return [first, *(s for s in space if s != first)]


def build(kernel: Kernel, target: Target, lower: Lower, schedule: Schedule | None = None) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass, by one of its `choices` or by the cost rules."""
    cpu = known_machine(target, kernel)
    conv, flat = _flat(_describe(kernel, cpu))
    chosen = schedule or _schedule(cpu, conv)
    program = write(kernel.name, lambda writer: _declare(kernel, cpu, conv, chosen, lower, flat, writer), ALGORITHM)
    terms = conv.c // conv.groups * conv.window.taps[0] * conv.window.taps[1]
    return replace(program, products=kernel.anchor.integer("group", 1) / conv.groups, error=error(cpu.dtype, terms))


def _describe(kernel: Kernel, cpu: Machine) -> Convolution:
    """The convolution that is computed: with groups that fill blocks."""
    return convolution.join_groups(convolution.describe(kernel.anchor), cpu.lanes)


def _flat(conv: Convolution) -> tuple[Convolution, bool]:
    """A pointwise convolution over one axis of positions, and whether it is one."""
    return (replace(conv, window=conv.window.flat()), True) if conv.window.is_point else (conv, False)


def _schedule(cpu: Machine, conv: Convolution) -> Schedule:
    tile = _tile(cpu, conv)
    return Schedule(tile, positions_first(cpu, conv, tile))


def _tile(cpu: Machine, conv: Convolution) -> Tile:
    return choose_tile(cpu, conv.window.oh, conv.window.ow, -(-conv.k // conv.groups // cpu.lanes))


def positions_first(cpu: Machine, conv: Convolution, tile: Tile) -> bool:
    """True if the loop over tiles of positions should stand outside the loop over tiles of output blocks.

    Counted are the bytes that come from the second cache: the outer operand once for each use if it exceeds half of the
    first cache, the inner operand once for each step of the outer loop if it does. All weights must stay in half of
    the second cache, and be used often enough that their first arrival, which nothing hides here, does not count.
    """
    window = conv.window
    # bytes of one output block's weights
    row = cpu.itemsize * conv.c // conv.groups * window.taps[0] * window.taps[1] * cpu.lanes
    blocks = -(-conv.k // conv.groups // cpu.lanes)
    weights_, tile_weights = row * blocks, row * tile.blocks
    input_ = cpu.itemsize * conv.c // conv.groups * window.h * window.w
    steps, positions = len(split_even(blocks, tile.blocks)), count_areas(window, tile)
    if 2 * weights_ > cpu.l2_bytes or positions <= _REUSE:
        return False
    small = cpu.l1_bytes // 2
    inside = input_ + weights_ * (positions if weights_ > small else 1)
    outside = input_ * (steps if input_ > small else 1) + weights_ * (positions if tile_weights > small else 1)
    return inside < outside


@dataclass(frozen=True)
class Memory:
    """What the sums read and write. plain: x is; depth: channel blocks between two taps, as the weights are packed."""

    x: Buffer
    weights: Buffer
    bias: Buffer | None
    y: Buffer
    plain: bool
    depth: int


def _declare(kernel: Kernel, cpu: Machine, conv: Convolution, schedule: Schedule, lower: Lower, flat: bool,
             writer: Writer) -> None:
    """Declare the pointers of a convolution and write its program."""
    b, node = cpu.lanes, kernel.anchor
    data, size = node.operand(0), (conv.window.h, conv.window.w)
    plain = kernel.layout(data).block == 0
    k_blocks = -(-conv.k // conv.groups // b) * conv.groups
    shape = (conv.n, conv.c, *size) if plain else (conv.n, -(-conv.c // b), *size, b)
    x = writer.pointer(Input(data), shape, cpu.dtype)
    inner = 1 if plain else depth(cpu, conv, schedule.tile)
    groups = node.integer("group", 1)
    array = convolution.spread_weights(convolution.weights(node), groups, groups // conv.groups)
    packed = pack_weights(array, conv.groups, b, schedule.tile.blocks, plain, inner)
    weights = writer.pointer(Constant(packed), packed.shape, cpu.dtype)
    offsets = convolution.bias(node, k_blocks * b)
    bias = None if offsets is None else writer.pointer(Constant(offsets), offsets.shape, cpu.dtype)
    after = Epilogue(kernel, b, lower, writer, flat)
    out = (conv.n, k_blocks, conv.window.oh, conv.window.ow, b)
    result = Output(kernel.outputs[0], epilogue.replaceable(kernel))
    y = writer.pointer(result, out, kernel.outputs[0].dtype.value)
    after.prologue()
    Sums(cpu, conv, schedule, Memory(x, weights, bias, y, plain, inner), after).body()


class Sums:
    """Writes the loops of one convolution, whose pointers are declared and whose epilogue is ready."""

    def __init__(self, cpu: Machine, conv: Convolution, schedule: Schedule, memory: Memory, after: Epilogue,
                 placing: Placing | None = None) -> None:
        self.cpu, self.conv, self.tile, self.window = cpu, conv, schedule.tile, conv.window
        self.x, self.weights, self.bias, self.y = memory.x, memory.weights, memory.bias, memory.y
        self.plain, self.depth, self.after, self.placing = memory.plain, memory.depth, after, placing or Placing()
        self.k_blocks = -(-conv.k // conv.groups // cpu.lanes)  # of one group
        reuse = count_areas(self.window, schedule.tile)
        self.positions_first = schedule.positions_first
        self.ahead = reuse - 1 if 1 < reuse <= _REUSE and not self.positions_first else 0

    def body(self) -> None:
        """Loops over samples and groups; over output blocks and positions in the order that moves fewer bytes."""
        outer, pieces = (self.conv.n, self.conv.groups), split_even(self.k_blocks, self.tile.blocks)
        for found in register_tiles(outer, pieces, self.window, self.tile, self.positions_first):
            self._tile(*found)

    def _tile(self, n: Expr, g: Expr, first: Expr, blocks: int, area: Area) -> None:
        """One register tile: start from the bias, reduce, finish, store."""
        b = self.cpu.lanes
        accumulators = local(area.rows * area.columns * blocks * b, self.cpu.dtype)
        block = g * self.k_blocks + first

        def vector(i: Expr, j: Expr, k: Expr) -> Expr:
            return ((i * area.columns + j) * blocks + k) * b

        with each(area.block) as (i, j), unrolled(blocks) as k:
            start = splat(0, b, self.cpu.dtype) if self.bias is None else load(self.bias, lanes((block + k) * b, b))
            store(accumulators, start, lanes(vector(i, j, k), b))
        self._reduce(accumulators, n, g, block, blocks, area)
        self.finish(accumulators, n, block, blocks, area)

    def finish(self, accumulators: Buffer, n: Expr, block: Expr, blocks: int, area: Area) -> None:
        """Store a tile, whose sums [positions, blocks, lanes] are complete."""
        b = self.cpu.lanes
        with each(area.block) as (i, j), unrolled(blocks) as k:
            place = (n, block + k, *self.placing.of(area, i, j))
            result = self.after.finish(place, accumulators, ((i * area.columns + j) * blocks + k) * b)
            with vectorized(b) as e:
                store(self.y, result(e), *place, e)

    def _reduce(self, accumulators: Buffer, n: Expr, g: Expr, block: Expr, blocks: int, area: Area) -> None:
        """Add all products of the tile: blocks of input channels, taps, channels of the block."""
        b, channels = self.cpu.lanes, self.conv.c // self.conv.groups
        taps_ = self.window.taps[0] * self.window.taps[1]
        count = channels if self.plain else -(-channels // b)
        in_vectors = self._reads_vectors(area)

        def slabs(first: Expr, many: int, width: int) -> None:
            def tap(r: Expr, s: Expr, positions: Block) -> None:
                with loop(many) as d:
                    place = (r * self.window.taps[1] + s) * many + d
                    start = (block * count + first * blocks) * taps_ + place * blocks
                    self._fetch_ahead(start, blocks, count * taps_, area)
                    self._products(accumulators, n, g * count + first + d, r, s, start, blocks, area, positions, width)

            taps(self.window, area, tap, unroll=in_vectors)

        whole, rest = (channels, 0) if self.plain else divmod(channels, b)
        if whole:
            width = 1 if self.plain else b
            reduced(self.cpu, accumulators, whole // self.depth, self.depth * width * taps_,
                    lambda c: slabs(c * self.depth, self.depth, width))
        if rest:
            slabs(whole, 1, rest)

    def _reads_vectors(self, area: Area) -> bool:
        """True if numbers of plain x are lanes of vectors of neighbouring columns, which all taps of a row share."""
        return self.plain and self.cpu.by_element and area.columns_inside and self._reach(area) >= self.cpu.lanes

    def _reach(self, area: Area) -> int:
        """Columns that the taps of a tile read."""
        return (area.columns - 1) * self.window.stride[1] + (self.window.taps[1] - 1) * self.window.dilation[1] + 1

    def _number(self, n: Expr, channel: Expr, area: Area, i: Expr, j: Expr, r: Expr, s: Expr) -> Expr:
        """One number of plain x."""
        window, b = self.window, self.cpu.lanes
        row = window.row(area.row + i, r)
        if not self._reads_vectors(area):
            return load(self.x, n, channel, row, window.column(area.column + j, s))
        offset = j * window.stride[1] + s * window.dilation[1]
        first = least(offset // b * b, self._reach(area) - b)  # the last vector ends with the last column
        return lane(load(self.x, n, channel, row, lanes(window.column(area.column, 0) + first, b)), offset - first)

    def _fetch_ahead(self, start: Expr, blocks: int, steps: int, area: Area) -> None:
        """Ask for this tile of positions' share of the weights that the next tile of output blocks will read here.

        The first tile of positions waits for its weights anyway; the others divide the lines of each tap among them.
        """
        if not self.ahead:
            return
        b, in_line = self.cpu.lanes, 64 // self.cpu.itemsize
        depth = 1 if self.plain else b
        share = -(-depth * blocks * b // in_line // self.ahead)  # lines
        with unrolled(share) as line:
            offset = ((area.ordinal - 1) * share + line) * in_line
            prefetch(self.weights, (start + steps * blocks) * depth * b + offset)

    def _products(self, accumulators: Buffer, n: Expr, x_block: Expr, r: Expr, s: Expr, start: Expr, blocks: int,
                  area: Area, positions: Block, channels: int) -> None:
        """accumulators[position, k] += x[position, channel] * w[channel, k] for `channels` channels of one tap.

        start: of this tap's weights, counted in vectors for each channel of a block.
        """
        b, window = self.cpu.lanes, self.window
        depth = 1 if self.plain else b

        def step(channel: Expr) -> None:
            with each(positions) as (i, j), unrolled(blocks) as k:
                source = (n, x_block, window.row(area.row + i, r), window.column(area.column + j, s))
                if self.plain:
                    number = self._number(n, x_block, area, i, j, r, s)
                elif self.cpu.by_element:
                    number = lane(load(self.x, *source, lanes(0, b)), channel)
                else:
                    number = load(self.x, *source, channel)
                weight = load(self.weights, lanes(((start * depth) + channel * blocks + k) * b, b))
                place = lanes(((i * area.columns + j) * blocks + k) * b, b)
                store(accumulators, load(accumulators, place) + broadcast(number, b) * weight, place)

        if self.plain:
            step(0)
        else:
            for channel in terms(self.cpu, channels, self.tile.unroll):
                step(channel)


def depth(cpu: Machine, conv: Convolution, tile: Tile) -> int:
    """Channel blocks that are added up for one tap before the next: a divisor of the number of full blocks.

    By element one block is too short a loop: LLVM writes out the taps around it, keeps what they share in registers,
    and runs out of them. The inputs of a tile must stay in half of the first cache until the last tap.
    """
    window, full = conv.window, conv.c // conv.groups // cpu.lanes
    if not cpu.by_element:
        return 1
    rows, columns = ((n - 1) * s + (t - 1) * d + 1 for n, s, t, d in
                     zip((tile.rows, tile.columns), window.stride, window.taps, window.dilation, strict=True))
    most = max(1, cpu.l1_bytes // 2 // (cpu.itemsize * cpu.lanes * rows * columns))
    if cpu.dtype == "float16":  # then the partial sums end
        most = min(most, max(1, 2 * CHUNK // (cpu.lanes * window.taps[0] * window.taps[1])))
    return max((d for d in range(1, full + 1) if full % d == 0 and d <= most), default=1)


def pack_weights(array: np.ndarray, groups: int, block: int, tile: int, plain: bool, depth: int = 1) -> np.ndarray:
    """[k, c, r, s] -> one flat array, by tiles of output blocks as `split_even` cuts them, see the module's text."""
    k, c, r, s = array.shape
    k_blocks, c_blocks = -(-k // groups // block), -(-c // block)
    channels = c if plain else c_blocks * block
    padded = np.zeros((groups, k_blocks * block, channels, r, s), array.dtype)
    padded[:, : k // groups, :c] = array.reshape(groups, k // groups, c, r, s)
    full = c // block
    pieces = []
    for group, (first, length) in product(range(groups), split_even(k_blocks, tile)):
        part = padded[group, first * block:(first + length) * block]
        if plain:  # [blocks, b, c, r, s] -> [c, r, s, blocks, b]
            pieces.append(part.reshape(length, block, c, r, s).transpose(2, 3, 4, 0, 1))
            continue
        for start, count, inner in ((0, full, depth), (full, c_blocks - full, 1)):
            if count:  # [blocks, b, C/d, d, c, r, s] -> [C/d, r, s, d, c, blocks, b]
                some = part[:, start * block:(start + count) * block]
                pieces.append(some.reshape(length, block, count // inner, inner, block, r, s)
                              .transpose(2, 5, 6, 3, 4, 0, 1))
    return np.ascontiguousarray(np.concatenate([p.reshape(-1) for p in pieces]))
