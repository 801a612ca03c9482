"""Winograd convolution of 3x3 filters on blocked channels, a chunk of tiles at a time.

Computes: `Convolution` with bias, then the kernel's pointwise nodes. An m x m tile of outputs is
          A^T [ sum over c of (G g G^T) * (B^T d B) ] A, d the (m+2) x (m+2) inputs that it reads: (m+2)^2 products of
          matrices [tiles, C] x [C, K], where a direct sum needs 9 m^2 products for each pair of channels.
Layouts:  x [n, C/b, h, w, b]; y and full operands of the pointwise nodes [n, K/b, oh, ow, b]; bias [K/b, b];
          weights, transformed in float64 and packed at build time, 4 (m = 4) or 1.8 (m = 2) times their size:
          for each tile of `blocks` output blocks [(m+2)^2, c, blocks, b], numbers beyond K are 0;
          workspaces of one chunk: inputs [(m+2)^2, C/b, tiles, b], sums [(m+2)^2, tiles, blocks, b], each of the
          (m+2)^2 parts an odd number of cache lines, so that its parts do not compete for the same sets of a cache.
Applies when: (1) `conv2d_direct` does; (2) 3x3 filters, stride 1, dilation 1, one group; (3) `choose` finds a tile
          that is cheaper than the direct sum by its cost rule and whose error bound the tolerance allows.
Padding:  nothing is copied. A tile that touches a side reads zeros in place of what does not exist; outputs beyond oh
          and ow are not stored. A channel beyond C never enters a sum, so lanes beyond C may hold anything.
Numerics: with u = 2^-24 and |x| <= X, each output of channel k differs from the exact sum by at most
          (C + 24) u X growth[k], growth = max of |A|^T [sum over c of |G g G^T| * (|B|^T 1 |B|)] |A|: the form of
          Barabasz et al. 2020. C + 24: one rounding for each product, 1 for the weights, 23 for the passes of the
          transforms, their constants, and the bias. Independent roundings have, with high probability, sqrt(C + 24)
          in place of C + 24 (Higham and Mary 2019, with factor 1): `choose` asks that of the layer.
          Points: 0, +-1, infinity for m = 2; 0, +-sqrt(1/2), +-sqrt(2), infinity for m = 4: for random
          weights growth is 4 and 34 times the largest sum of |g|, with 0, +-1, +-2, infinity it would be 140 times.
Source:   Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016 (the algorithm);
          Barabasz, Anderson, Soodhalter, Gregg, Error Analysis and Improving the Accuracy of Winograd Convolution for
          Deep Neural Networks, ACM TOMS 2020; Higham and Mary, A New Approach to Probabilistic Rounding Error
          Analysis, SIAM J. Sci. Comput. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import sqrt

import numpy as np
from edgec.kernels import conv2d_direct, convolution, epilogue
from edgec.kernels.convolution import Convolution
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
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Epilogue, Lower
from edgec.kernels.machine import Machine, Tile, choose_tile, known_machine, split_even
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.kernels.window import pick, runs

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "winograd"
TOLERANCE = 1e-4  # of the largest sum that a layer can have: what outputs may differ by
_UNIT = 2.0**-24
_STEPS = 24  # roundings besides one for each input channel
_PRODUCTS = 1.1  # slots of a multiply-add here, with the loads of its operands; 1 in a direct sum
_TRANSFORM = 14  # slots for each vector of transformed inputs and of sums
_ARRIVAL = 10  # slots for each vector of weights that comes from beyond the second cache
_GAIN = 0.9  # of a direct sum's cost: what is closer is left to the direct sum, which needs less memory
_FEWEST = 16  # tiles at a time where weights come from beyond the second cache: fewer do not pay for their arrival
_POINTS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (sqrt(0.5), sqrt(2.0))}  # with 0, their negatives and infinity


@dataclass(frozen=True)
class Transform:
    """y = A^T [(G g) * (B^T d)] for m outputs of a filter with 3 taps; size = m + 2.

    b [size, size], g [size, 3], a [m, size] stand for B^T, G and A^T. Rows of b and columns of a: the point 0, then
    each point and its negative, then infinity. So the rows of a pair agree in b's even columns and are opposite in its
    odd ones, and the columns of a pair agree in a's even rows and are opposite in its odd ones.
    """

    m: int
    b: np.ndarray
    g: np.ndarray
    a: np.ndarray

    @property
    def size(self) -> int:
        """Inputs of one tile along one axis."""
        return self.m + 2


@cache
def transform(m: int) -> Transform:
    """The transforms for m outputs, in float64, by interpolation at `_POINTS` (Toom-Cook)."""
    points = [0.0, *(sign * p for p in _POINTS[m] for sign in (1, -1))]
    size = m + 2
    b, g, a = np.zeros((size, size)), np.zeros((size, 3)), np.zeros((m, size))
    for i, p in enumerate(points):
        others = points[:i] + points[i + 1:]
        b[i, :-1] = np.poly(others)[::-1]
        g[i] = np.array([1, p, p * p]) / np.prod(p - np.array(others))
        a[:, i] = p ** np.arange(m)
    b[-1] = np.poly(points)[::-1]
    g[-1, 2] = a[-1, -1] = 1
    return Transform(m, b, g, a)


def transform_weights(array: np.ndarray, m: int) -> np.ndarray:
    """[k, c, 3, 3] -> G g G^T [size, size, k, c], in the type of `array`."""
    k, c = array.shape[:2]
    g = transform(m).g.astype(array.dtype)
    size = len(g)
    return (np.kron(g, g) @ array.reshape(k * c, 9).T).reshape(size, size, k, c)


def growth(array: np.ndarray, m: int) -> np.ndarray:
    """For each output channel what the rounding errors of its sums are multiples of, see the module's text."""
    t = transform(m)
    sums = np.abs(transform_weights(array, m)).sum(3)
    reach = np.abs(t.b).sum(1)
    a = np.abs(t.a)
    grown: np.ndarray = np.einsum("ip,jq,pqk->ijk", a, a, sums * np.outer(reach, reach)[:, :, None])
    return grown.max((0, 1))


def error_bound(array: np.ndarray, m: int) -> np.ndarray:
    """For each output channel: no data within -1 ... 1 can make its error larger."""
    return (array.shape[1] + _STEPS) * _UNIT * growth(array, m)


def likely_error(array: np.ndarray, m: int) -> float:
    """The probabilistic bound of the layer's largest error, relative to the largest sum that a channel can have."""
    largest = float(np.abs(array).sum((1, 2, 3)).max())
    return sqrt(array.shape[1] + _STEPS) * _UNIT * float(growth(array, m).max()) / largest if largest else 0.0


def pack_weights(array: np.ndarray, m: int, block: int, tile: int) -> np.ndarray:
    """[k, c, 3, 3] -> one flat array, by tiles of output blocks as `split_even` cuts them, see the module's text."""
    k, c = array.shape[:2]
    count = -(-k // block)
    padded = np.zeros((transform(m).size ** 2, count * block, c), np.float32)
    padded[:, :k] = transform_weights(array.astype(np.float64), m).reshape(-1, k, c)
    pieces = [padded[:, first * block:(first + length) * block].transpose(0, 2, 1).reshape(-1)
              for first, length in split_even(count, tile)]
    return np.ascontiguousarray(np.concatenate(pieces))


@dataclass(frozen=True)
class Schedule:
    """m; register tile of the products: `tile.columns` tiles x `tile.blocks` output blocks; `chunk` tiles at a time,
    a multiple of `tile.columns`.
    """

    m: int
    tile: Tile
    chunk: int


def schedule(cpu: Machine, conv: Convolution, m: int) -> Schedule:
    """The register tile, and as many tiles at a time as leave the transformed chunk in a part of the second cache.

    That part is an eighth if the weights stay in the second cache too, else a half and at least `_FEWEST` tiles: the
    weights come once for each chunk. On an AVX-512 core with 2 MiB, 64 channels at 56x56 took 0.37 ms with 14 tiles,
    0.43 with 28, 0.54 with 70; 512 channels at 14x14 took 3.6 ms with 8 tiles, 3.1 with 16.
    """
    size, blocks, total = (m + 2) ** 2, -(-conv.k // cpu.lanes), _count_tiles(conv, m)
    tile = choose_tile(cpu, 1, total, blocks)
    columns = max(length for _, length in split_even(total, tile.columns))
    tile = Tile(1, columns, tile.blocks, tile.unroll)
    step = 4 * size * (conv.c + tile.blocks * cpu.lanes) * columns
    if _weights_stay(cpu, conv, m):
        most = max(1, cpu.l2_bytes // 8 // step)
    else:
        most = max(-(-_FEWEST // columns), cpu.l2_bytes // 2 // step)
    pieces = max(length for _, length in split_even(-(-total // columns), most))
    return Schedule(m, tile, pieces * columns)


def _count_tiles(conv: Convolution, m: int) -> int:
    return -(-conv.window.oh // m) * -(-conv.window.ow // m)


def _weights_stay(cpu: Machine, conv: Convolution, m: int) -> bool:
    return 8 * (m + 2) ** 2 * conv.c * conv.k <= cpu.l2_bytes


def cost(cpu: Machine, conv: Convolution, chosen: Schedule) -> float:
    """Instruction slots (half a cycle where two multiply-adds can start in one) of the whole convolution.

    On an AVX-512 core, 32 to 512 channels at 7x7 to 56x56, the ratio to `direct_cost` is within 0.25 of the measured
    one, and too high rather than too low where the weights were in the cache when timed (128 at 7x7, m = 2: 1.13 for
    0.68). Measured for m = 4: 0.34 with 64 channels at 56x56, 0.37 with 128 at 28x28, 0.61 with 256 at 14x14, 1.3 with
    512 at 7x7. On NEON only instructions were counted: by the same rule ResNet-18 executes 317 M instead of 524 M.
    Weights are charged for their arrival once, because other layers have used the cache since, and for each chunk if
    they do not stay.
    """
    size, total = (chosen.m + 2) ** 2, _count_tiles(conv, chosen.m)
    c_blocks, k_blocks = -(-conv.c // cpu.lanes), -(-conv.k // cpu.lanes)
    chunks = -(-total // chosen.chunk)
    products = conv.n * chunks * chosen.chunk * conv.c * k_blocks
    transforms = conv.n * total * (c_blocks + k_blocks)
    arrivals = conv.c * k_blocks * (1 if _weights_stay(cpu, conv, chosen.m) else conv.n * chunks)
    return size * (_PRODUCTS * products + _TRANSFORM * transforms + _ARRIVAL * arrivals)


def direct_cost(cpu: Machine, conv: Convolution) -> float:
    """Instruction slots of the direct sum, which asks for its weights ahead."""
    return 9.0 * conv.n * conv.c * -(-conv.k // cpu.lanes) * conv.window.oh * conv.window.ow


def choose(kernel: Kernel, cpu: Machine) -> Schedule | None:
    """The cheapest schedule whose likely error is allowed, None if the direct sum costs hardly more."""
    conv, array = convolution.describe(kernel.anchor), convolution.weights(kernel.anchor)
    limit = _GAIN * direct_cost(cpu, conv)
    for chosen in sorted((schedule(cpu, conv, m) for m in _POINTS), key=lambda s: cost(cpu, conv, s)):
        if cost(cpu, conv, chosen) > limit:
            return None
        if likely_error(array, chosen.m) <= TOLERANCE:
            return chosen
    return None


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    reason = conv2d_direct.refuse(kernel, target)
    if reason:
        return reason
    cpu, conv = known_machine(target), convolution.describe(kernel.anchor)
    window = conv.window
    if conv.groups > 1 or window.taps != (3, 3) or window.stride != (1, 1) or window.dilation != (1, 1):
        return "not 3x3 taps with stride 1, dilation 1 and one group"
    if conv.c < 2 * cpu.lanes:
        return f"{conv.c} channels are fewer than two blocks"
    if choose(kernel, cpu) is None:
        return "a direct sum is cheaper, or the error bound is too large"
    return None


def demand(kernel: Kernel, target: Target) -> Demand:
    """X blocked, the rest too."""
    block = known_machine(target).lanes
    return epilogue.demand(kernel, block, {kernel.anchor.operand(0).name: block})


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu = known_machine(target)
    chosen = choose(kernel, cpu)
    assert chosen is not None  # `refuse` has checked
    program = write(kernel.name, lambda writer: _Winograd(kernel, cpu, chosen, lower, writer).body(), ALGORITHM)
    return replace(program, products=((chosen.m + 2) / (3 * chosen.m)) ** 2)


class _Winograd:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, chosen: Schedule, lower: Lower, writer: Writer) -> None:
        node = kernel.anchor
        self.cpu, self.chosen, self.tile = cpu, chosen, chosen.tile
        self.conv = conv = convolution.describe(node)
        self.window = window = conv.window
        self.transform = transform(chosen.m)
        b, size = cpu.lanes, self.transform.size
        self.c_blocks, self.k_blocks = -(-conv.c // b), -(-conv.k // b)
        self.across = -(-window.ow // chosen.m)  # tiles
        self.x = writer.pointer(Input(node.operand(0)), (conv.n, self.c_blocks, window.h, window.w, b))
        packed = pack_weights(convolution.weights(node), chosen.m, b, self.tile.blocks)
        self.weights = writer.pointer(Constant(packed), packed.shape)
        bias = convolution.bias(node, self.k_blocks * b)
        self.bias = None if bias is None else writer.pointer(Constant(bias), bias.shape)
        self.alone = conv.n == 1 and _count_tiles(conv, chosen.m) <= chosen.chunk  # one chunk holds all tiles
        self.inputs = _workspace(writer, size * size, self.c_blocks * chosen.chunk * b, not self.alone)
        self.sums = _workspace(writer, size * size, chosen.chunk * self.tile.blocks * b)
        self.after = Epilogue(kernel, b, lower, writer)
        out = (conv.n, self.k_blocks, window.oh, window.ow, b)
        self.y = writer.pointer(Output(kernel.outputs[0], epilogue.replaceable(kernel)), out)

    def body(self) -> None:
        """Loops over samples, chunks of tiles, tiles of output blocks: threads share the chunks, or the output blocks
        of the only chunk, once all of its inputs are there.
        """
        self.after.prologue()
        total, pieces = _count_tiles(self.conv, self.chosen.m), runs(split_even(self.k_blocks, self.tile.blocks))
        if self.alone:
            with parallel(self.c_blocks) as (c,), loop(total) as t:
                self._input(0, c, t, t)
            with parallel(sum(count for _, count, _ in pieces)) as (piece,):
                for first, blocks in pick(piece, pieces):
                    self._blocks(0, first, blocks, 0, total)
            return
        with parallel(self.conv.n, -(-total // self.chosen.chunk)) as (n, chunk):
            first = chunk * self.chosen.chunk
            count = self.chosen.chunk if total % self.chosen.chunk == 0 else least(self.chosen.chunk, total - first)
            with loop(self.c_blocks) as c, loop(count) as t:
                self._input(n, c, first + t, t)
            for start, repeats, blocks in pieces:
                with loop(repeats) as r:
                    self._blocks(n, start + r * blocks, blocks, first, count)

    def _blocks(self, n: Expr, block: Expr, blocks: int, first: Expr, count: Expr) -> None:
        """Products and outputs of some output blocks for the tiles of a chunk."""
        self._products(block, blocks)
        with loop(count) as t, loop(blocks) as k:
            self._output(n, block + k, first + t, t * blocks + k)

    def _input(self, n: Expr, c: Expr, tile: Expr, t: Expr) -> None:
        """Write B^T d B of one tile and one block of channels."""
        b, size, window = self.cpu.lanes, self.transform.size, self.window
        row, column = self._corner(tile)
        row, column = row - window.pad[0], column - window.pad[1]
        half = local(size * size * b)

        def columns(guarded: bool) -> None:
            with loop(size) as j:
                read = []
                for i in range(size):
                    vector = load(self.x, n, c, row + i, column + j, lanes(0, b))
                    if guarded:
                        exists = inside(row + i >= 0, row + i < window.h, column + j >= 0, column + j < window.w)
                        vector = only_if(exists, vector, splat(0, b))
                    read.append(vector)
                for i, value in enumerate(self._rows(read)):
                    store(half, value, lanes((i * size + j) * b, b))

        if window.pad == (0, 0) and self._reach(window.oh) <= window.h and self._reach(window.ow) <= window.w:
            columns(False)
        else:
            whole = inside(row >= 0, row + size <= window.h, column >= 0, column + size <= window.w)
            either(whole, lambda: columns(False), lambda: columns(True))
        with loop(size) as i:
            values = self._rows([load(half, lanes((i * size + j) * b, b)) for j in range(size)])
            for j, value in enumerate(values):
                place = (c * self.chosen.chunk + t) * b
                store(self.inputs, value, i * size + j, lanes(place, b))

    def _reach(self, outputs: int) -> int:
        """Where the last tile's inputs end, without padding."""
        return -(-outputs // self.chosen.m) * self.chosen.m + 2

    def _corner(self, tile: Expr) -> tuple[Expr, Expr]:
        """The first output row and column of a tile."""
        if self.across == 1:
            return tile * self.chosen.m, 0
        return tile // self.across * self.chosen.m, tile % self.across * self.chosen.m

    def _rows(self, values: Sequence[Expr]) -> list[Expr]:
        """B^T times a column."""
        matrix = self.transform.b
        x = self._kept(values)
        result = [self._sum(matrix[0], x)]
        for i in range(1, len(x) - 1, 2):
            odd = matrix[i].copy()
            odd[::2] = 0
            scale = odd[np.flatnonzero(odd)[-1]]
            same, opposite = self._kept([self._sum(matrix[i] - odd, x), self._sum(odd / scale, x)])
            factor = splat(scale, self.cpu.lanes)
            result += [same + opposite, same - opposite] if scale == 1 else \
                [same + opposite * factor, same - opposite * factor]
        return [*result, self._sum(matrix[-1], x)]

    def _columns(self, values: Sequence[Expr]) -> list[Expr]:
        """A^T times a column."""
        matrix, x = self.transform.a, self._kept(values)
        pairs = range(1, len(x) - 1, 2)
        both = self._kept([term for i in pairs for term in (x[i] + x[i + 1], x[i] - x[i + 1])])
        result = []
        for i, row in enumerate(matrix):
            terms = [x[0], *both[i % 2::2], x[-1]]
            result.append(self._sum(np.array([row[0], *row[1:-1:2], row[-1]]), terms))
        return result

    def _sum(self, factors: np.ndarray, terms: Sequence[Expr]) -> Expr:
        """Sum of factor * term; terms whose factor is 0 do not appear."""
        total = None
        for factor, term in sorted(((float(f), t) for f, t in zip(factors, terms, strict=True) if abs(f) > 1e-12),
                                   key=lambda pair: pair[0] != 1):
            value = term if factor == 1 else term * splat(factor, self.cpu.lanes)
            total = value if total is None else total + value
        return total

    def _kept(self, values: Sequence[Expr]) -> list[Expr]:
        """The values in registers, so that each is computed once."""
        b = self.cpu.lanes
        registers = local(len(values) * b)
        for i, value in enumerate(values):
            store(registers, value, lanes(i * b, b))
        return [load(registers, lanes(i * b, b)) for i in range(len(values))]

    def _products(self, block: Expr, blocks: int) -> None:
        """sums[point, tile, k] = sum over c of inputs[point, c, tile] * weights[point, c, k]."""
        b, columns, channels = self.cpu.lanes, self.tile.columns, self.conv.c
        whole, rest = divmod(channels, b)
        points = self.transform.size ** 2
        with loop(points) as point, loop(self.chosen.chunk // columns) as piece:
            accumulators = local(columns * blocks * b)
            with unrolled(columns * blocks) as i:
                store(accumulators, splat(0, b), lanes(i * b, b))

            def slab(c: Expr, depth: int) -> None:
                def step(channel: Expr) -> None:
                    with unrolled(columns) as t, unrolled(blocks) as k:
                        place = (c * self.chosen.chunk + piece * columns + t) * b
                        if self.cpu.by_element:
                            number = lane(load(self.inputs, point, lanes(place, b)), channel)
                        else:
                            number = load(self.inputs, point, place + channel)
                        start = block * points * channels + (point * channels + c * b + channel) * blocks
                        weight = load(self.weights, lanes((start + k) * b, b))
                        target = lanes((t * blocks + k) * b, b)
                        store(accumulators, load(accumulators, target) + broadcast(number, b) * weight, target)

                if self.cpu.by_element:
                    with unrolled(depth) as channel:
                        step(channel)
                else:
                    for first, count, unroll in runs(split_even(depth, self.tile.unroll)):
                        with loop(count) as t, unrolled(unroll) as u:
                            step(first + t * unroll + u)

            if whole:
                with loop(whole) as c:
                    slab(c, b)
            if rest:
                slab(whole, rest)
            with unrolled(columns * blocks) as i:
                store(self.sums, load(accumulators, lanes(i * b, b)),
                      point, lanes((piece * columns * blocks + i) * b, b))

    def _output(self, n: Expr, block: Expr, tile: Expr, place: Expr) -> None:
        """Finish one tile of one output block: A^T s A, bias, pointwise nodes."""
        b, size, m, window = self.cpu.lanes, self.transform.size, self.chosen.m, self.window
        row, column = self._corner(tile)
        half, results = local(m * size * b), local(m * m * b)
        with loop(size) as j:
            values = self._columns([load(self.sums, i * size + j, lanes(place * b, b)) for i in range(size)])
            for i, value in enumerate(values):
                store(half, value, lanes((i * size + j) * b, b))
        with loop(m) as i:
            values = self._columns([load(half, lanes((i * size + j) * b, b)) for j in range(size)])
            for j, value in enumerate(values):
                if self.bias is not None:
                    value = value + load(self.bias, lanes(block * b, b))
                store(results, value, lanes((i * m + j) * b, b))
        rows = m if window.oh % m == 0 else least(m, window.oh - row)
        columns = m if window.ow % m == 0 else least(m, window.ow - column)
        with loop(rows) as i, loop(columns) as j:
            position = (n, block, row + i, column + j)
            result = self.after.finish(position, results, (i * m + j) * b)
            with vectorized(b) as e:
                store(self.y, result(e), *position, e)


def _workspace(writer: Writer, parts: int, numbers: int, per_thread: bool = True) -> Buffer:
    """Scratch memory [parts, numbers], each part rounded up to an odd number of cache lines of 16 numbers."""
    numbers = 16 * (-(-numbers // 16) | 1)
    return writer.pointer(Workspace(4 * parts * numbers, per_thread), (parts, numbers))
