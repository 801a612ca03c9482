"""Sums of products of 16-bit integers, exact modulo 2**32: the instructions of each core that lacks faster ones.

    vpmaddwd  2 products per sum, AVX2 and AVX-512 BW; vpdpwssd adds them as well, AVX-512 VNNI
    smlal     1 product per sum, one lane of a vector as the factor, any Arm

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2; Arm Architecture Reference Manual,
SMLAL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgec.kernels.dot import Dot, plus, view
from edgec.kernels.emit import Buffer, Expr, broadcast, lane, lanes, load
from tvm import tirx

from edgec.target import Target


@dataclass(frozen=True)
class WordPairs(Dot):
    """2 products per sum, by one instruction that adds them to it, or by two."""

    lanes: int
    registers: int
    slots: int = 2
    depth: int = 2
    data: str = "int16"
    rolled: bool = True

    def spare(self, positions: int, vectors: int) -> int:
        """The shorter side of the tile, a factor and, if it is added apart, a product."""
        return min(positions, vectors) + self.slots

    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """One number of 4 bytes, in all lanes."""
        return self.loose(x, first + 2 * step)

    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """One number of 4 bytes, in all lanes."""
        number = view(load(x, lanes(first, 2)), "int32")
        return view(broadcast(number, self.lanes), f"int16x{2 * self.lanes}")

    def weights(self, packed: Buffer, position: Expr) -> Any:
        """One vector."""
        return load(packed, lanes(position * (2 * self.lanes), 2 * self.lanes))

    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """One instruction, or two."""
        wide, halves = f"int32x{self.lanes}", (factor, weights)
        if self.slots == 1:
            return tirx.call_llvm_intrin(wide, f"llvm.x86.avx512.vpdpwssd.{32 * self.lanes}", sums, *halves)
        name = "llvm.x86.avx512.pmaddw.d.512" if self.lanes == 16 else "llvm.x86.avx2.pmadd.wd"
        return plus(sums, tirx.call_llvm_intrin(wide, name, *halves), self.lanes)


@dataclass(frozen=True)
class Smlal(Dot):
    """One product per sum, the factor a lane of 8 channels."""

    lanes: int = 4
    registers: int = 32
    depth: int = 1
    data: str = "int16"
    shared: int = 8

    def spare(self, positions: int, vectors: int) -> int:
        """The channels of all positions and the weights of one step, half a register each, and one."""
        return positions + vectors + 1

    def factor(self, x: Buffer, first: Expr, step: Expr) -> Any:
        """A lane of 8 channels."""
        return broadcast(lane(load(x, lanes(first + step // 8 * 8, 8)), step % 8), 4)

    def loose(self, x: Buffer, first: Expr, count: int | None = None) -> Any:
        """One number, in all lanes."""
        return broadcast(load(x, first), 4)

    def weights(self, packed: Buffer, position: Expr) -> Any:
        """Half a vector."""
        return load(packed, lanes(position * 4, 4))

    def add(self, sums: Expr, factor: Any, weights: Any) -> Expr:
        """One instruction."""
        return sums + tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.smull.v4i32", weights, factor)


def of_target(target: Target) -> Dot | None:
    """The instructions of a core, None if it has none of those above."""
    features = target.cpu.features
    if target.cpu.arch == "aarch64":
        return Smlal()
    if target.cpu.arch != "x86_64":
        return None
    if "avx512bw" in features:
        return WordPairs(16, 32, 1 if "avx512vnni" in features else 2)
    return WordPairs(8, 16) if "avx2" in features else None
