"""Sums of products of 8-bit integers: the instructions that each core has for them, all exact in int32.

A step multiplies `depth` neighbouring channels of one position (the factor) with the weights of `lanes` output channels
and adds the products to `lanes` sums. Data are uint8 on x86 and int8 on Arm, weights int8 in -127 .. 127.

    vpdpbusd  4 products per sum, AVX-512 VNNI or AVX-VNNI; unlike vpmaddubsw it saturates nowhere
    vpmaddwd  2 products per sum of what was widened to int16, AVX2 and AVX-512 BW
    sdot      4 products per sum, one lane of a vector of data as the factor, Arm dot product
    smmla     8 products per sum, 2 positions by 2 output channels in a vector, Arm matrix product (`dot_pairs`)
    smull     two products of bytes fit int16 (2 * 128 * 127 < 2**15), sadalp adds pairs of them to int32, any Arm

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2; Arm Architecture Reference Manual,
SDOT, SMMLA, SMULL, SADALP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
from edgec.kernels.emit import Buffer, Expr, broadcast, lane, lanes, load, local, shuffle, store, unrolled
from edgec.kernels.machine import Tile, split_even
from edgec.kernels.quantized import BYTE_BLOCK
from edgec.kernels.window import Block
from tvm import tirx

from edgec.errors import InternalError
from edgec.target import Target


class Dot(ABC):
    """How a core sums products. lanes: outputs in a vector; depth: channels of a step; registers: of vectors.

    data: element type of what is multiplied by the weights; planar: of a copy of it that `spread` reads, `beyond`
    elements past the last factor at most. rolled: steps are a loop, not written out. shared: steps whose factors are
    lanes of one vector. slots: instructions of `add`. positions: how many a vector of sums and a factor hold, a group;
    where it may be more than one, kernels use `groups`, `start`, `gather` and `by_positions`.
    """

    lanes: int
    depth: int
    registers: int
    data: str
    rolled: bool = False
    beyond: int = 0
    shared: int = 1
    slots: int = 1
    positions: int = 1

    @property
    def width(self) -> int:
        """Sums in a vector."""
        return self.lanes * self.positions

    @property
    def planar(self) -> str:
        """Element type of a copy of the data that `spread` reads."""
        return self.data

    @property
    def vectors(self) -> int:
        """Vectors of sums in a block of channels."""
        return BYTE_BLOCK // self.lanes

    def fits(self, positions: int, vectors: int) -> bool:
        """True if the sums of `positions` x `vectors` vectors and what they are made of stay in registers."""
        return self.count(positions) * vectors + self.spare(positions, vectors) <= self.registers

    def count(self, positions: int) -> int:
        """Groups that so many neighbours need."""
        return -(-positions // self.positions)

    def groups(self, block: Block) -> Iterator[tuple[Expr, Expr, int]]:
        """Every (row, group, positions in it) of a block, written out: write while the iterator stands on it. The
        first position of a group is `positions` times its number, the last group of a row may be short.
        """
        whole, rest = divmod(block.columns, self.positions)
        first = block.column // self.positions
        if whole:
            with unrolled(block.rows, block.row) as i, unrolled(whole, first) as group:
                yield i, group, self.positions
        if rest:
            with unrolled(block.rows, block.row) as i:
                yield i, first + whole, rest

    def start(self, values: Expr) -> Expr:
        """A vector of sums that start from one value for each output."""
        return values

    def gather(self, x: Buffer, first: Expr, step: Expr, apart: int, count: int) -> Any:
        """`factor` of a group of `count` positions, whose blocks begin `apart` elements after one another."""
        return self.factor(x, first, step)

    def gather_loose(self, x: Buffer, first: Expr, channels: int, apart: int, count: int) -> Any:
        """`loose` of a group, as `gather`."""
        return self.loose(x, first, channels)

    def by_positions(self, sums: Buffer, positions: int, vectors: int) -> Buffer:
        """Sums [groups, vectors, width] of neighbours as [positions, outputs]."""
        return sums

    @abstractmethod
    def spare(self, positions: int, vectors: int) -> int:
        """Registers that a step needs besides its sums."""

    def stage(self, positions: int) -> Buffer | None:
        """Memory in which `prepare` puts the data of a tap before its steps, None if steps read them in place."""
        return None

    def prepare(self, staged: Buffer, place: Expr, x: Buffer, first: Expr) -> None:
        """Put the block of 16 channels that begins at x[first] at `place` of the staged ones."""
        raise NotImplementedError

    @abstractmethod
    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """The channels of `step` of the block that begins at x[first] of flat data, or of a staged buffer."""

    @abstractmethod
    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """`depth` neighbours from x[first] of flat data; only the first `count` of them, then zeros."""

    def spread(self, x: Buffer, first: Expr, offsets: Sequence[int]) -> list[Any]:
        """The factors `loose` at first + offset for each of the offsets. x: flat, of type `planar`."""
        return [self.loose(x, first + offset) for offset in offsets]

    def weights(self, packed: Buffer, position: Expr) -> Any:
        """The weights of one step and one vector of sums, the `position`-th of the packed ones: one vector of bytes."""
        size = self.lanes * self.depth
        return load(packed, lanes(position * size, size))

    @abstractmethod
    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """sums[l] + sum over d of factor[d] * weights[l, d]."""

    @property
    def interleaves(self) -> bool:
        """True if filters of one channel are taken by `interleave`."""
        return False

    def interleave(self, rows: Sequence[Expr]) -> list[Expr]:
        """`depth` blocks of 16 channels or fewer as [16, depth] of type `planar`, one vector for each vector of sums.

        What stands in the places of missing rows is any number.
        """
        raise NotImplementedError

    def pack(self, array: np.ndarray) -> np.ndarray:
        """[..., channels, outputs], both padded to whole steps and vectors -> [..., steps, vectors, bytes]."""
        *outer, channels, outputs = array.shape
        split = array.reshape(*outer, channels // self.depth, self.depth, outputs // self.lanes, self.lanes)
        moved = np.moveaxis(split, -3, -1)
        return np.ascontiguousarray(moved.reshape(*moved.shape[:-2], self.lanes * self.depth))


@dataclass(frozen=True)
class Vpdpbusd(Dot):
    """4 products of uint8 and int8 per sum."""

    lanes: int
    registers: int
    depth: int = 4
    data: str = "uint8"

    def spare(self, positions: int, vectors: int) -> int:
        """The shorter side of the tile, and one; the last weights of a step can come from memory."""
        return min(positions, vectors) + 1

    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """One number of 4 bytes, in all lanes."""
        return self.loose(x, first + 4 * step)

    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """One number of 4 bytes, in all lanes."""
        return view(broadcast(word(x, first, count or 4), self.lanes), f"uint8x{4 * self.lanes}")

    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """One instruction."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return tirx.call_llvm_intrin(f"int32x{self.lanes}", name, sums, factor, weights)

    @property
    def interleaves(self) -> bool:
        """3 rows by 6 instructions and one product in place of 3."""
        return True

    def interleave(self, rows: Sequence[Expr]) -> list[Expr]:
        """Byte by byte, which LLVM makes of permutations within lanes and of their doublewords; one row is widened."""
        if len(rows) == 1:
            return [view(part, f"uint8x{4 * self.lanes}") for part in widened(rows[0], self.lanes)]
        return [shuffle(whole(rows, 4), [16 * r + v * self.lanes + c for c in range(self.lanes) for r in range(4)])
                for v in range(self.vectors)]


@dataclass(frozen=True)
class Vpmaddwd(Dot):
    """2 products of int16 per sum; data are widened once for each tap of a tile, weights as they are loaded.

    Steps are a loop: written out, their data would be picked from registers by permutations, of which a core starts
    one in a cycle, where a broadcast from memory costs none of the multiplying ports.
    """

    lanes: int
    registers: int
    depth: int = 2
    data: str = "uint8"
    rolled: bool = True
    slots: int = 2

    def spare(self, positions: int, vectors: int) -> int:
        """The shorter side of the tile, a factor and a product."""
        return min(positions, vectors) + 2

    def stage(self, positions: int) -> Buffer | None:
        """Widened blocks on the stack."""
        return local(positions * BYTE_BLOCK, "int16")

    @property
    def planar(self) -> str:
        """Widened once, when it is copied."""
        return "int16"

    def prepare(self, staged: Buffer, place: Expr, x: Buffer, first: Expr) -> None:
        """Widen one block."""
        wide = load(x, lanes(first, BYTE_BLOCK)).astype(f"int16x{BYTE_BLOCK}")
        store(staged, wide, lanes(place * BYTE_BLOCK, BYTE_BLOCK))

    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """One number of 4 bytes, in all lanes."""
        return self._pair(view(load(x, lanes(first + 2 * step, 2)), "int32"))

    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """Two numbers, widened, in all lanes."""
        number = load(x, first).astype("int32")
        return self._pair(number if count == 1 else number + (load(x, first + 1).astype("int32") << 16))

    def spread(self, x: Buffer, first: Expr, offsets: Sequence[int]) -> list[Any]:
        """One number of 4 bytes each, in all lanes."""
        return [self.factor(x, first + offset, 0) for offset in offsets]

    def _pair(self, number: Expr) -> Expr:
        return view(broadcast(number, self.lanes), f"int16x{2 * self.lanes}")

    def weights(self, packed: Buffer, position: Expr) -> Any:
        """Half a vector, widened."""
        return super().weights(packed, position).astype(f"int16x{2 * self.lanes}")

    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """Two instructions."""
        name = "llvm.x86.avx512.pmaddw.d.512" if self.lanes == 16 else "llvm.x86.avx2.pmadd.wd"
        return plus(sums, tirx.call_llvm_intrin(f"int32x{self.lanes}", name, factor, weights), self.lanes)

    @property
    def interleaves(self) -> bool:
        """2 rows by 4 instructions, for all columns of the window that read them."""
        return True

    def interleave(self, rows: Sequence[Expr]) -> list[Expr]:
        """Two bytes beside each other, widened; a row alone becomes int32 numbers."""
        kind = f"int16x{2 * self.lanes}"
        if len(rows) == 1:
            return [view(part, kind) for part in widened(rows[0], self.lanes)]
        order = [16 * r + c for c in range(BYTE_BLOCK) for r in range(2)]
        return [shuffle(rows, order[2 * self.lanes * v:2 * self.lanes * (v + 1)]).astype(kind)
                for v in range(self.vectors)]


@dataclass(frozen=True)
class Neon(Dot):
    """Vectors of 16 bytes, of int8 numbers, of which factors are lanes."""

    lanes: int = 4
    registers: int = 32
    depth: int = 4
    data: str = "int8"
    shared: int = 4


@dataclass(frozen=True)
class Sdot(Neon):
    """4 products of int8 per sum, the factor a lane of the block."""

    beyond: int = 12

    def spare(self, positions: int, vectors: int) -> int:
        """The blocks of all positions and the weights of one step, and one."""
        return positions + vectors + 1

    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """A lane of the block."""
        block = view(load(x, lanes(first, BYTE_BLOCK)), "int32x4")
        return view(broadcast(lane(block, step), 4), "int8x16")

    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """One number of 4 bytes, in all lanes."""
        return view(broadcast(word(x, first, count or 4), 4), "int8x16")

    def spread(self, x: Buffer, first: Expr, offsets: Sequence[int]) -> list[Any]:
        """Lanes of vectors; four offsets that differ by multiples of 4 share one."""
        return [self.factor(x, first + o // 16 * 16 + o % 4, o % 16 // 4) for o in offsets]

    @property
    def interleaves(self) -> bool:
        """4 rows by 8 instructions, for all columns of the window that read them."""
        return True

    def interleave(self, rows: Sequence[Expr]) -> list[Expr]:
        """By zip of bytes, then of pairs."""
        def zipped(a: Expr, b: Expr, half: int, size: int) -> Expr:
            order = [8 * half + i for i in range(8)]
            if size == 1:
                return shuffle([a, b], [x for i in order for x in (i, 16 + i)])
            return shuffle([a, b], [x for i in order[::2] for x in (i, i + 1, 16 + i, 16 + i + 1)])

        rows = whole(rows, 4)
        first, second = ([zipped(a, b, half, 1) for half in (0, 1)] for a, b in (rows[:2], rows[2:]))
        return [zipped(first[v // 2], second[v // 2], v % 2, 2) for v in range(4)]

    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """One instruction."""
        return tirx.call_llvm_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", sums, weights, factor)


@dataclass(frozen=True)
class Smull(Neon):
    """Products of int8 in pairs: smull and smlal into int16, sadalp adds neighbours to int32.

    begun: registers of products that LLVM begins before it adds them. With fewer it keeps some on the stack: 438
    instructions for 1280 multiply-adds in place of 245 for 1024.
    """

    slots: int = 3
    begun: int = 5

    def spare(self, positions: int, vectors: int) -> int:
        """Two halves of the weights of a step, two halves of a factor, products."""
        return 2 * vectors + 2 + self.begun

    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """Two pairs of bytes, each in all lanes."""
        block = view(load(x, lanes(first, BYTE_BLOCK)), "int16x8")
        return [view(broadcast(lane(block, 2 * step + half), 4), "int8x8") for half in (0, 1)]

    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """Two pairs of bytes, each in all lanes."""
        block = view(broadcast(word(x, first, count or 4), 2), "int16x4")
        return [view(broadcast(lane(block, half), 4), "int8x8") for half in (0, 1)]

    def weights(self, packed: Buffer, position: Expr) -> Any:
        """Two halves: [lanes, 2] of the first two channels and of the last two."""
        return [load(packed, lanes(position * 16 + 8 * half, 8)) for half in (0, 1)]

    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """Three instructions."""
        first, second = (tirx.call_llvm_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", w, f)
                         for w, f in zip(weights, factor, strict=True))
        pairs = tirx.call_llvm_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", first + second)
        return plus(sums, pairs, 4)

    def pack(self, array: np.ndarray) -> np.ndarray:
        """[..., channels, outputs] -> [..., steps, vectors, 16]: the halves of a step one after the other."""
        *outer, channels, outputs = array.shape
        split = array.reshape(*outer, channels // 4, 2, 2, outputs // 4, 4)
        n = len(outer)
        moved = split.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
        return np.ascontiguousarray(moved.reshape(*outer, channels // 4, outputs // 4, 16))


def view(vector: Expr, dtype: str) -> Expr:
    """The same bytes as another type."""
    return tirx.reinterpret(dtype, vector)


def widened(row: Expr, count: int) -> list[Expr]:
    """A block of 16 bytes as vectors of `count` int32 numbers."""
    parts = [shuffle([row], range(first, first + count)) for first in range(0, BYTE_BLOCK, count)]
    return [part.astype(f"int32x{count}") for part in parts]


def whole(rows: Sequence[Expr], count: int) -> list[Expr]:
    """`count` rows; those that are missing are the first."""
    return [*rows, *rows[:1] * (count - len(rows))]


def flat(buffer: Buffer) -> Buffer:
    """The same memory with one dimension."""
    return Buffer(buffer.data, (prod(buffer.shape),))


def word(x: Buffer, first: Expr, count: int) -> Expr:
    """`count` bytes from x[first] as one int32 number, the first of them lowest; zeros beyond."""
    if count == 4:
        return view(load(x, lanes(first, 4)), "int32")
    number: Expr = 0
    for i in range(count):
        byte = load(x, first + i).astype("int32") & 255
        number = number + (byte << (8 * i) if i else byte)
    return number


def plus(a: Expr, b: Expr, count: int) -> Expr:
    """A sum that LLVM does not reorder: it would turn a chain of steps into a tree, which needs more registers."""
    every = tirx.Broadcast(tirx.const(True, "bool"), count)
    return tirx.call_llvm_intrin(f"int32x{count}", f"llvm.vp.add.v{count}i32", a, b, every, tirx.const(count, "int32"))


def of_target(target: Target) -> Dot | None:
    """The best of the core's instructions, None if it has none of those above."""
    features = target.cpu.features
    if target.cpu.arch == "aarch64":
        return Sdot() if "dotprod" in features else Smull()
    if target.cpu.arch != "x86_64":
        return None
    if "avx512vnni" in features:
        return Vpdpbusd(16, 32)
    if "avxvnni" in features:
        return Vpdpbusd(8, 16)
    if "avx512bw" in features:
        return Vpmaddwd(16, 32)
    return Vpmaddwd(8, 16) if "avx2" in features else None


def known_dot(target: Target) -> Dot:
    """The instructions of a target that has some: what kernels call after their `refuse` has passed."""
    dot = of_target(target)
    if dot is None:
        raise InternalError(f"no kernel for bytes applies to {target.name}")
    return dot


_LATENCY = 10  # steps that must be independent to hide their latency: 5 cycles x 2 units
_SLOT = 0.5  # of a load that hits the first cache, where two can start in a cycle
_LINE = 2.0  # further slots for a cache line of weights, which come from the second cache


def tiles(dot: Dot, rows: int, columns: int, blocks: int) -> list[Tile]:
    """Every register tile that fits: the schedule space of a kernel with this output; `blocks` are of 16 channels."""
    return [Tile(r, c, b, 1) for r, c, b in product(range(1, 5), range(1, 29), range(1, 9))
            if r <= rows and c <= columns and b <= blocks and not (r > 1 and c < columns)
            and dot.fits(r * c, b * dot.vectors)]


def choose_tile(dot: Dot, rows: int, columns: int, blocks: int) -> Tile:
    """The tile that needs the fewest instruction slots for the whole output: the first of `ranked_tiles`."""
    return ranked_tiles(dot, rows, columns, blocks)[0]


@cache
def ranked_tiles(dot: Dot, rows: int, columns: int, blocks: int) -> tuple[Tile, ...]:
    """The tiles that fit, by the instruction slots that the whole output needs, as in `machine.ranked_tiles`."""
    weight = _SLOT + _LINE * dot.width / 16
    number = weight / dot.shared if dot.shared > 1 else _SLOT

    def cost(tile: Tile) -> float:
        total = 0.0
        cuts = (Counter(length for _, length in split_even(extent, size)).items()
                for extent, size in ((rows, tile.rows), (columns, tile.columns), (blocks, tile.blocks)))
        for (r, times_r), (c, times_c), (b, times_b) in product(*cuts):
            vectors = b * dot.vectors
            groups = dot.count(r * c)
            slots = max(groups * vectors, _LATENCY) + groups * number + vectors * weight
            total += times_r * times_c * times_b * slots
        return total

    return tuple(sorted(tiles(dot, rows, columns, blocks), key=lambda t: (cost(t), -t.columns)))
