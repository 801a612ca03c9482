"""How long a kernel must take, and how long it is expected to take, from the facts of a core: a roofline.

Formula: products = multiply-adds / (lanes * fma_per_cycle * factor of the number format)
         traffic = bytes of constants / rate + bytes of values / rate
         roof = max(products, traffic);  predicted = max(products / share, traffic) + elements / lanes + call
Units:   cycles of one core; rates in bytes per cycle: of the nearest memory that holds a kernel's values, and of that
         which holds all constants and the arena from one inference to the next.
Numerics: `share` is what kernels of an algorithm reach of the products' roof where they are bound by it: `_SHARES`.
Source:  Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model, CACM 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgec.cpu import Cpu
from edgec.target import Target

# Share of the products' roof, the median over the layers that are bound by it. Measured 2026-11-24 on an Intel Xeon,
# AVX-512 VNNI, 2 virtual cores, one thread, layers of ResNet-18, VGG-11, MobileNetV2 and DS-CNN; those of bytes and of
# the generic composition also on visual wake words, ResNet-8, UltraFace, selfie segmentation and Silero VAD.
_SHARES = {"direct": 0.75, "winograd": 0.5, "matmul": 0.65, "depthwise": 0.6, "int8_depthwise": 0.4, "int8_planar": 0.3,
           "int8_winograd": 0.6, "int8_matmul": 0.65, "int8": 0.6, "generic": 0.02}
_OTHER_SHARE = 0.3
_WIDENED = "int8_depthwise"  # whose products are not sums of four: bytes are widened, as many at once as of float32
_WORDS = "int8_winograd"  # whose products are of 16-bit numbers, two in a lane where there are sums of four bytes
_CALL = 150  # cycles: the call, the first accesses of its memory, the end of its loops

# Bytes in a cycle from each memory to the registers. L1: two vectors. L2: Intel 64 at most, 48 kept up (Optimization
# Reference Manual, 248966, table of cache parameters); half of a line every other cycle on Cortex-A. L3 and DRAM of
# x86: measured as above at 3.5 GHz, at most 35 GB/s on layers of MobileNetV2 and 19 GB/s on the first Gemm of VGG-11.
# DRAM of AArch64 where the target states no bandwidth: 5 GB/s at 1.5 GHz, as on a Raspberry Pi 4.
_L2_RATE = {"x86_64": 48.0, "aarch64": 16.0}
_L3_RATE = 10.0
_DRAM_RATE = {"x86_64": 5.5, "aarch64": 3.3}


class Bound(Enum):
    """What keeps a kernel from being faster."""

    PRODUCTS = "multiply-adds"
    TRAFFIC = "memory"


@dataclass(frozen=True)
class Work:
    """macs: multiply-adds that are executed; itemsize: bytes of a number that is multiplied; constant_bytes and
    value_bytes: read and written; elements: results of all nodes, which the pointwise ones compute one by one.
    """

    macs: float
    itemsize: int = 4
    constant_bytes: int = 0
    value_bytes: int = 0
    elements: int = 0


@dataclass(frozen=True)
class Prediction:
    """cycles: expected; roof: at least so many; bound: by what."""

    cycles: float
    roof: float
    bound: Bound


@dataclass(frozen=True)
class Core:
    """One core of a target for the model. Build it with `core_of`."""

    lanes: int
    products: float
    byte_factor: float
    half_factor: float
    constant_rate: float
    rates: tuple[tuple[int, float], ...]  # bytes that a memory holds, and its rate; the last one holds anything


def core_of(target: Target, nbytes: int = 0) -> Core:
    """The core of a target. nbytes: of an engine's constants and arena, which decide where the constants lie."""
    cpu = target.cpu
    lanes = max(1, cpu.vector_bits // 32)
    rates = _rates(target, lanes)
    return Core(lanes, lanes * max(1, cpu.fma_per_cycle), _byte_factor(cpu),
                2.0 if cpu.has_half else 1.0, _rate(rates[1:], nbytes), rates)


def predict(core: Core, work: Work, algorithm: str) -> Prediction:
    """How long a kernel takes on a core if it is computed so."""
    factor = {1: core.byte_factor, 2: core.half_factor}.get(work.itemsize, 1.0)
    if algorithm == _WIDENED:
        factor = 1.0
    elif algorithm == _WORDS:
        factor = max(1.0, core.byte_factor / 2)
    products = work.macs / (core.products * factor)
    traffic = work.constant_bytes / core.constant_rate + work.value_bytes / _rate(core.rates, work.value_bytes)
    share = next((s for name, s in _SHARES.items() if algorithm.startswith(name)), _OTHER_SHARE)
    pointwise = max(0, work.elements) / core.lanes
    expected = max(products / share, traffic) + pointwise + _CALL
    return Prediction(expected, max(products, traffic), Bound.PRODUCTS if products > traffic else Bound.TRAFFIC)


def _byte_factor(cpu: Cpu) -> float:
    """Multiply-adds of bytes for each one of float32 lanes: dot products of four bytes in a lane, or eight (SMMLA).

    Without them products are widened first: two instructions for eight products, as many as of float32.
    """
    if "i8mm" in cpu.features:
        return 8.0
    return 4.0 if {"dotprod", "avx512vnni", "avxvnni"}.intersection(cpu.features) else 1.0


def _rates(target: Target, lanes: int) -> tuple[tuple[int, float], ...]:
    """The memories of a target, nearest first; half of a cache counts, the rest is for other things."""
    cpu, board = target.cpu, target.table("board")
    gbps = float(board.get("dram_measured_gbps") or board.get("dram_gbps", 0) / 2)  # one core gets half of the stated
    dram = 1000 * gbps / cpu.mhz if gbps and cpu.mhz else _DRAM_RATE.get(cpu.arch, 1.0)
    caches = ((cpu.l1d_kib or 32, 8.0 * lanes), (cpu.l2_kib or 512, _L2_RATE.get(cpu.arch, 4.0)),
              (cpu.l3_kib, _L3_RATE))
    return (*((512 * kib, rate) for kib, rate in caches if kib), (1 << 62, dram))


def _rate(rates: tuple[tuple[int, float], ...], nbytes: int) -> float:
    return next(rate for size, rate in rates if nbytes <= size)
