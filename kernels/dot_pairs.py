"""Sums of products of bytes of two positions at once: the matrix instructions of Arm cores with i8mm.

smmla multiplies 8 channels of two positions with the weights of two output channels, 32 products in one instruction
where sdot has 16. Kernels whose positions are plain neighbours (rows of a matrix, pixels of a pointwise convolution)
use it; the others have `dot.of_target`.

Source: Arm Architecture Reference Manual, SMMLA (vector).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgec.kernels.dot import Dot, Neon, known_dot, view, word
from edgec.kernels.emit import Buffer, Expr, broadcast, lanes, load, local, repeated, shuffle, store, unrolled
from edgec.kernels.quantized import BYTE_BLOCK
from edgec.kernels.window import Block
from tvm import tirx

from edgec.target import Target


@dataclass(frozen=True)
class Smmla(Neon):
    """8 products of int8 per sum, the sums of a group [2 positions, 2 outputs]."""

    lanes: int = 2
    depth: int = 8
    beyond: int = 8
    shared: int = 2
    positions: int = 2

    def spare(self, positions: int, vectors: int) -> int:
        """Both halves of the blocks of all groups, and the weights of one step."""
        return 2 * self.count(positions) + vectors

    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """Half a block, as both positions."""
        return self.loose(x, first + self.depth * step)

    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """`depth` neighbours, as both positions."""
        return self.gather_loose(x, first, count or self.depth, 0, 1)

    def gather(self, x: Buffer, first: Expr, step: Expr, apart: int, count: int) -> Any:
        """Half a block of each position; blocks that touch are one load (ld2 gives all halves of two)."""
        if count == 1:
            return self.factor(x, first, step)
        if apart == BYTE_BLOCK:
            both = view(load(x, lanes(first, 2 * BYTE_BLOCK)), "int64x4")
            halves = tirx.Shuffle([both], [step, step + 2])
        else:
            blocks = [view(load(x, lanes(first + i * apart, BYTE_BLOCK)), "int64x2") for i in range(2)]
            halves = tirx.Shuffle(blocks, [step, step + 2])
        return view(halves, "int8x16")

    def gather_loose(self, x: Buffer, first: Expr, channels: int, apart: int, count: int) -> Any:
        """Up to 8 channels of each position."""
        halves = [_half(x, first + i * apart, channels) for i in range(count)]
        both = broadcast(halves[0], 2) if count == 1 else shuffle([broadcast(h, 2) for h in halves], (0, 2))
        return view(both, "int8x16")

    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """One instruction."""
        return tirx.call_llvm_intrin("int32x4", "llvm.aarch64.neon.smmla.v4i32.v16i8", sums, factor, weights)

    def start(self, values: Expr) -> Expr:
        """The values of two outputs, for both positions."""
        return repeated(values, self.positions)

    def by_positions(self, sums: Buffer, positions: int, vectors: int) -> Buffer:
        """Pairs of numbers of two vectors, joined."""
        result = local(positions * vectors * self.lanes, "int32")
        for _, group, count in self.groups(Block(0, 1, 0, positions)):
            with unrolled(vectors // 2) as v:
                first, second = (load(sums, lanes((group * vectors + 2 * v + i) * self.width, self.width))
                                 for i in (0, 1))
                for row in range(count):
                    at = ((group * self.positions + row) * vectors + 2 * v) * self.lanes
                    joined = shuffle([first, second], [2 * row, 2 * row + 1, 2 * row + 4, 2 * row + 5])
                    store(result, joined, lanes(at, self.width))
        return result


def _half(x: Buffer, first: Expr, channels: int) -> Expr:
    """`channels` bytes from x[first] as one int64 number, the first of them lowest; zeros beyond."""
    if channels == 8:
        return view(load(x, lanes(first, 8)), "int64")
    low = word(x, first, min(channels, 4)).astype("uint32").astype("int64")
    return low if channels <= 4 else low + word(x, first + 4, channels - 4).astype("int64") * (1 << 32)


def for_neighbours(target: Target, positions: int) -> Dot:
    """The best instructions of a core that has some, for so many positions that are plain neighbours."""
    pairs = target.cpu.arch == "aarch64" and "i8mm" in target.cpu.features and positions > 1
    return Smmla() if pairs else known_dot(target)
