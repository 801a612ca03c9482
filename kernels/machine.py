"""What a kernel's schedule needs to know of a core, and the rule that picks a register tile from it.

A kernel computes in float32, or in float16 where its values are float16: twice as many numbers lie in a vector then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product

from edgec.cpu import Cpu
from edgec.errors import InternalError
from edgec.ir.types import DType
from edgec.plan.plan import Kernel
from edgec.target import Target


@dataclass(frozen=True)
class Machine:
    """lanes: numbers of `dtype` in one vector, which is also the channel block of the blocked layout (plan.Layout).
    registers: vector registers. by_element: a multiply-add can take one lane of a vector as its factor (NEON), so
    inputs are loaded as vectors of channels; else one number is loaded and broadcast. l1_bytes, l2_bytes: data caches
    that one core can fill. fused: it has fused multiply-adds. packs: it narrows vectors of 8 integers by AVX2's packs.
    """

    lanes: int
    registers: int
    by_element: bool
    l1_bytes: int
    l2_bytes: int
    fused: bool = False
    dtype: str = "float32"
    packs: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 2 if self.dtype == "float16" else 4

    def fits(self, positions: int, blocks: int) -> bool:
        """True if the accumulators of `positions` x `blocks` vectors and what they are made of stay in registers.

        By element: the input vectors of all positions and one row of weights are alive at once, and one more.
        Broadcast: only the shorter side is, plus one register.
        """
        accumulators = positions * blocks
        if self.by_element:
            return accumulators + positions + blocks < self.registers
        return accumulators + min(positions, blocks) + 1 <= self.registers + (1 if self.registers == 32 else 0) \
            and accumulators <= self.registers - 4


def machine(target: Target, kernel: Kernel | None = None) -> Machine | None:
    """The Machine of a target's core for the number format of a kernel, float32 without one; None where vectors have
    fewer than 4 lanes (no blocked kernels there), or the core has no arithmetic in that format.
    """
    return of_cpu(target.cpu, DType.FLOAT32 if kernel is None else number_format(kernel))


def known_machine(target: Target, kernel: Kernel | None = None) -> Machine:
    """The Machine of a target that has one: what kernels call after their `refuse` has passed."""
    found = machine(target, kernel)
    if found is None:
        raise InternalError(f"no blocked kernel applies to {target.name}")
    return found


def number_format(kernel: Kernel) -> DType:
    """FLOAT16 if any value of the kernel is float16, else FLOAT32. A float16 kernel may also read or write float32,
    through Cast nodes behind its anchor.
    """
    values = (v for n in kernel.nodes for v in (*n.input_values, *n.outputs))
    return DType.FLOAT16 if any(v.dtype is DType.FLOAT16 for v in values) else DType.FLOAT32


def of_cpu(cpu: Cpu, dtype: DType = DType.FLOAT32) -> Machine | None:
    """The Machine of a core for float32 or float16."""
    lanes = cpu.vector_bits // (8 * dtype.itemsize)
    if cpu.vector_bits < 128 or cpu.arch not in ("x86_64", "aarch64"):
        return None
    if dtype is DType.FLOAT16 and not cpu.has_half:
        return None
    wide = "avx512f" in cpu.features or cpu.arch == "aarch64"
    fused = wide or "fma" in cpu.features
    return Machine(lanes, 32 if wide else 16, cpu.arch == "aarch64", 1024 * (cpu.l1d_kib or 32),
                   1024 * (cpu.l2_kib or 512), fused, dtype.value, "avx2" in cpu.features and not wide)


def split_even(extent: int, size: int) -> list[tuple[int, int]]:
    """`extent` cut into the fewest pieces of at most `size`, as equal as possible: (start, length), longest first."""
    count = -(-extent // size)
    short, longer = divmod(extent, count)
    pieces, start = [], 0
    for index in range(count):
        length = short + (index < longer)
        pieces.append((start, length))
        start += length
    return pieces


@dataclass(frozen=True)
class Tile:
    """A register tile: output rows x columns x channel blocks, and how often the channel loop is unrolled."""

    rows: int
    columns: int
    blocks: int
    unroll: int


_LATENCY = 10  # multiply-adds that must be independent to hide their latency: 4 cycles x 2 units, and slack
_BODY = 60  # instructions in one unrolled loop body; longer ones ran at half speed from a cache of decoded instructions
_SLOT = 0.5  # of a load that hits the first cache, where two can start in a cycle
_LINE = 2.0  # further slots for a cache line of weights, which come from the second cache


def tiles(cpu: Machine, rows: int, columns: int, blocks: int) -> list[Tile]:
    """Every register tile that fits: the schedule space of a kernel with this output."""
    space = []
    for r, c, b in product(range(1, 5), range(1, 29), range(1, 17)):
        if r > rows or c > columns or b > blocks or (r > 1 and c < columns) or not cpu.fits(r * c, b):
            continue
        body = r * c * b + r * c + b
        unroll = cpu.lanes if cpu.by_element else max(u for u in (1, 2, 4) if u == 1 or u * body <= _BODY)
        space.append(Tile(r, c, b, unroll))
    return space


def choose_tile(cpu: Machine, rows: int, columns: int, blocks: int) -> Tile:
    """The tile that needs the fewest instruction slots for the whole output: the first of `ranked_tiles`."""
    return ranked_tiles(cpu, rows, columns, blocks)[0]


@cache
def ranked_tiles(cpu: Machine, rows: int, columns: int, blocks: int) -> tuple[Tile, ...]:
    """The tiles that fit, by the instruction slots that the whole output needs, fewest first.

    One step of the reduction costs a tile its multiply-adds (at least `_LATENCY`), `_SLOT` for each load, and `_LINE`
    for each cache line of weights; an output is covered by `split_even` in all three directions. Ties: more columns,
    because rows of the output are contiguous in memory.
    """
    weight = _SLOT + _LINE * cpu.lanes * cpu.itemsize / 64
    number = weight / cpu.lanes if cpu.by_element else _SLOT

    def cost(tile: Tile) -> float:
        total = 0.0
        cuts = (_lengths(rows, tile.rows), _lengths(columns, tile.columns), _lengths(blocks, tile.blocks))
        for (r, times_r), (c, times_c), (b, times_b) in product(*cuts):
            total += times_r * times_c * times_b * (max(r * c * b, _LATENCY) + r * c * number + b * weight)
        return total

    return tuple(sorted(tiles(cpu, rows, columns, blocks), key=lambda t: (cost(t), -t.columns)))


def _lengths(extent: int, size: int) -> list[tuple[int, int]]:
    """The lengths of `split_even` and how often each occurs."""
    return sorted(Counter(length for _, length in split_even(extent, size)).items())
